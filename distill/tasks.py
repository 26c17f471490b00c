"""Which restoration task each patch belongs to: budgets, ranks and selection are each task's own (spec/tripled.md section 4).

A corpus without rules is one task. Rules are shell patterns over the picture's path in the corpus's source, so that a source
with one folder a task needs one line each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import numpy as np

from curate import Dataset
from curate.core.errors import ConfigError

from .selection import Indices

CLEAN, PAIRS = "clean", "pairs"  # the only task of a corpus of single patches, and of one of pairs


def is_paired(dataset: Dataset) -> bool:
    """Say whether samples are pairs of a clean (gt) and a degraded (lq) picture."""
    return bool(dataset.manifest.get("config", {}).get("paired"))


def task_rows(dataset: Dataset, rules: Mapping[str, str]) -> dict[str, Indices]:
    """Sort the corpus's patches into tasks.

    Args:
        dataset: the corpus.
        rules: task -> pattern of `source`, such as `rain/*`; the first that fits counts. None: one task.

    Returns:
        Task -> (n,) int64 places in the sorted list of keys, in the order of the rules; every patch has one task.

    Raises:
        ConfigError: a rule that no patch fits, or a patch that fits no rule.
    """
    if not rules:
        task = PAIRS if is_paired(dataset) else CLEAN
        return {task: np.arange(dataset.num_samples, dtype=np.int64)}
    table = dataset.rows(["key", "source"]).sort_by("key")
    sources = table.column("source").to_pylist()
    task_of = {source: _first_fit(source, rules) for source in set(sources)}
    _check(sources, task_of, rules)
    names = list(rules)
    numbers = np.fromiter((names.index(task_of[source]) for source in sources), np.int64, len(sources))
    return {task: np.flatnonzero(numbers == number).astype(np.int64) for number, task in enumerate(names)}


def _first_fit(source: str, rules: Mapping[str, str]) -> str:
    return next((task for task, pattern in rules.items() if fnmatchcase(source, pattern)), "")


def _check(sources: Iterable[str], task_of: Mapping[str, str], rules: Mapping[str, str]) -> None:
    lost = [source for source in sources if not task_of[source]]
    if lost:
        raise ConfigError(
            f'tasks: {len(lost)} patches fit no pattern, the first of {lost[0]!r}; add a task for them, such as other = "*"'
        )
    used = Counter(task_of.values())
    for task, pattern in rules.items():
        if not used[task]:
            raise ConfigError(
                f"tasks.{task}: no patch fits {pattern!r} that fits no earlier task's; patterns are compared with `source`"
            )

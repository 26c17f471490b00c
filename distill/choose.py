"""From measured patches to the chosen ones: each task's budget is spent by the selector, then each task is cut in half.

Pure: the order of the table's rows does not matter, ties are broken by key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ManifestError, NumericsError
from curate.core.records import Rejection
from curate.core.stage import Context

from .selection import Features, Indices, NotFiniteError, Selection, Selector
from .table import FeatureTable

STAGES = ("stage1", "stage2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The rows of selection.parquet, k of them: stage, then key order.

    Attributes:
        key: names of the patches.
        task: of each.
        stage: `stage1` (the simpler half of its task) or `stage2`.
        complexity: (k,) float64.
        rank: (k,) float64 in (0, 1), rank of the complexity within the whole task.
        stratum: (k,) int64, -1 where the selector has none.
        gain: (k,) float64, what each added when it was picked.
        uncertainty: (k,) float64 prior; 0 where the complexity measure gives none.
        row: (k,) int64, places in the feature table.
    """

    key: list[str]
    task: list[str]
    stage: list[str]
    complexity: NDArray[np.float64]
    rank: NDArray[np.float64]
    stratum: Indices
    gain: NDArray[np.float64]
    uncertainty: NDArray[np.float64]
    row: Indices

    def keys_of(self, stage: str) -> list[str]:
        """Keys of one stage."""
        return [key for key, its_stage in zip(self.key, self.stage, strict=True) if its_stage == stage]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Half:
    """One stage of one task."""

    task: str
    stage: str
    row: Indices
    rank: NDArray[np.float64]
    stratum: Indices
    gain: NDArray[np.float64]


def choose(
    table: FeatureTable, tasks: Mapping[str, Indices], selector: Selector, budgets: Mapping[str, int], seed: int
) -> Chosen:
    """Spend each task's budget, and split what was chosen.

    Args:
        table: one row per patch, any order, unique keys.
        tasks: task -> its patches, as places in the sorted list of keys (`distill.tasks.task_rows`).
        selector: chooses.
        budgets: task -> how many.
        seed: root of the selector's draws.

    Returns:
        Exactly the budgets: of each task the simpler half (one more when odd) as `stage1`, the rest as `stage2`.

    Raises:
        ManifestError: two patches share a key.
        BudgetError: a budget is larger than its task.
        NumericsError: a row or score is not finite.
    """
    order = np.argsort(table.keys, kind="stable")
    keys = table.keys[order]
    if (keys[1:] == keys[:-1]).any():
        raise ManifestError("the corpus holds two patches of one key; run curate verify")
    groups = table.photographs()[order]
    halves = [
        half
        for task, rows in tasks.items()
        for half in _choose_of_task(task, table, order[rows], groups[rows], selector, budgets[task], seed)
    ]
    return _joined(halves, table)


def _choose_of_task(
    task: str, table: FeatureTable, rows: Indices, groups: Indices, selector: Selector, num: int, seed: int
) -> list[_Half]:
    features = Features(
        rows=_rows(table.rows, rows),
        descriptors=table.descriptors[rows],
        measures={name: values[rows] for name, values in table.measures.items()},
    )
    scores = table.complexity[rows]
    rng = Context(seed=seed, reject=_refuse).rng("select", f"{selector.name}/{task}")
    try:
        picked = selector.select(features, scores, groups, num, rng)
    except NotFiniteError as error:
        key = table.keys[rows[error.row]]
        raise NumericsError(
            f"patch {key}: its {error.what} hold NaN or infinity, nothing can be chosen by them; delete the features folder "
            "and measure again, or drop the patch (curate filter)"
        ) from error
    _check(picked, selector, num, len(rows))
    by_complexity = np.lexsort((picked.indices, scores[picked.indices]))
    middle = (num + 1) // 2  # spec/tripled.md 4.5: lower half by c; at least one is simple
    ranks = rank01(scores)
    return [
        _Half(
            task=task, stage=stage, row=rows[picked.indices[half]], rank=ranks[picked.indices[half]],
            stratum=picked.strata[half], gain=picked.gains[half],
        )
        for stage, half in zip(STAGES, np.split(by_complexity, [middle]), strict=True)
    ]  # fmt: skip


def _joined(halves: list[_Half], table: FeatureTable) -> Chosen:
    row = np.concatenate([half.row for half in halves])
    stage = np.concatenate([np.full(len(half.row), half.stage) for half in halves])
    task = np.concatenate([np.full(len(half.row), half.task) for half in halves])
    order = np.lexsort((table.keys[row], stage))
    row = row[order]
    uncertainty = np.zeros(len(row)) if table.uncertainty is None else table.uncertainty[row]
    return Chosen(
        key=table.keys[row].tolist(), task=task[order].tolist(), stage=stage[order].tolist(),
        complexity=table.complexity[row], rank=np.concatenate([half.rank for half in halves])[order],
        stratum=np.concatenate([half.stratum for half in halves])[order],
        gain=np.concatenate([half.gain for half in halves])[order], uncertainty=uncertainty, row=row,
    )  # fmt: skip


def _rows(rows_ND: NDArray[np.floating], wanted: Indices) -> NDArray[np.floating]:
    """Take rows; a memory map that is wanted whole and in its own order is handed on without reading it.

    Of several tasks each one's rows are copied while it is chosen from (n x D x 2 bytes in float16): selectors read rows by
    slices, and a task's rows lie anywhere in the order of keys.
    """
    is_whole = len(wanted) == len(rows_ND) and bool((wanted == np.arange(len(rows_ND))).all())
    return rows_ND if is_whole else rows_ND[wanted]


def rank01(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank scores: (rank - 0.5) / N with ties averaged, spec/tripled.md section 4.

    Args:
        scores: (N,) float64.

    Returns:
        (N,) float64 in (0, 1).

    Example:
        >>> rank01(np.array([0.1, 0.5, 0.5, 0.9])).tolist()
        [0.125, 0.5, 0.5, 0.875]
    """
    if not len(scores):
        return scores
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray(((last - (counts - 1) / 2) - 0.5)[inverse] / len(scores), dtype=np.float64)


def _refuse(rejection: Rejection) -> None:
    raise AssertionError(f"nothing is rejected here, got {rejection}")


def _check(picked: Selection, selector: Selector, num: int, available: int) -> None:
    unique = np.unique(picked.indices)
    if len(unique) != num or len(picked.indices) != num or unique[0] < 0 or unique[-1] >= available:
        raise AssertionError(f"selector {selector.name} must give {num} unique rows, gave {len(unique)}")

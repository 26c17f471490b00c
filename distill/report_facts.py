"""The report's tables: strata, training plan, times and settings, as plain values that a template can print."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.core.artifacts import read_json

from .opened import OpenedSubset
from .selection import NO_STRATUM, Indices

_STRATA_OPTIONS = {"tail_cut_frac", "num_strata", "min_per_stratum"}
_EVEN_KINDS = ("none",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stratum:
    """One line of the strata table; `available` is None where the selector's rule is not known here."""

    task: str
    number: int
    low: float
    high: float
    available: int | None
    chosen: int
    simple: int
    complex: int
    photographs: int
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of the time table; `peak_mib` is None where it was not measured."""

    name: str
    seconds: float
    share: float
    peak_mib: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The curriculum as a curve.

    Attributes:
        shares: (time 0..1, probability of stage 2), from left to right.
        even: the probability if all were equally likely.
        marks: (time, what happens).
        phases: (from, to, what is drawn), for people.
    """

    shares: list[tuple[float, float]]
    even: float
    marks: list[tuple[float, str]]
    phases: list[tuple[float, float, str]]


def strata_rows(subset: OpenedSubset) -> list[Stratum]:
    """Say what was chosen in each stratum; nothing where the selector has none."""
    strata, tasks = subset.column("stratum"), subset.column("task").astype(np.str_)
    if (strata == NO_STRATUM).all():
        return []
    available = _available(subset) if len(np.unique(tasks)) == 1 else None
    groups = subset.table.photographs()[subset.picked]
    complexity, gain, stage = (subset.column(name) for name in ("complexity", "gain", "stage"))
    rows = []
    for task, number in sorted(set(zip(tasks.tolist(), strata.tolist(), strict=True))):
        own = (tasks == task) & (strata == number)
        simple = int((stage[own] == "stage1").sum())
        rows.append(Stratum(
            task=task, number=int(number), low=float(complexity[own].min()), high=float(complexity[own].max()),
            available=None if available is None else available[int(number)], chosen=int(own.sum()), simple=simple,
            complex=int(own.sum()) - simple, photographs=len(np.unique(groups[own])), gain=float(gain[own].sum()),
        ))  # fmt: skip
    return rows


def _available(subset: OpenedSubset) -> list[int] | None:
    """Cut the corpus into strata as `strat_fl` does and count them; None unless every chosen patch lies where it says."""
    options = subset.manifest["config"].get("selector_options", {})
    if not set(options) >= _STRATA_OPTIONS:
        return None
    keys, num = subset.table.keys, len(subset.picked)
    by_complexity = np.lexsort((keys, subset.table.complexity))
    high = min(int(options["tail_cut_frac"] * len(keys)), len(keys) - num)
    low = min(int(options.get("low_cut_frac", 0) * len(keys)), len(keys) - num - high)
    pool = by_complexity[low : len(keys) - high]
    strata = np.array_split(pool, min(max(num // options["min_per_stratum"], 1), options["num_strata"]))
    where = np.full(len(keys), NO_STRATUM, np.int64)
    for number, rows in enumerate(strata):
        where[rows] = number
    is_same = np.array_equal(where[subset.picked], subset.column("stratum"))
    return [len(rows) for rows in strata] if is_same else None


def training_plan(curriculum: Mapping[str, Any], num_simple: int, num_complex: int) -> Plan | None:
    """Turn the curriculum's parameters into the probability of stage 2 over training; None where they say something else.

    Source:
        spec/tripled.md section 4.5. `restoration/curriculum.py` draws the stages by this rule; what it does inside a stage, and
        which kinds it can train by, it says itself.
    """
    kind = curriculum.get("kind", "two-stage")
    even = num_complex / (num_simple + num_complex)
    if kind in _EVEN_KINDS or not (num_simple and num_complex):
        return Plan(shares=[(0.0, even), (1.0, even)], even=even, marks=[], phases=[(0.0, 1.0, "all alike")])
    if kind != "two-stage" or not {"t_switch", "breaks", "mix", "floor"} <= set(curriculum):
        return None
    switch, (early, last), (start, end) = curriculum["t_switch"], curriculum["breaks"], curriculum["mix"]
    low, high = curriculum["floor"] * even, 1 - curriculum["floor"] * (1 - even)
    span = max(last - switch, 1e-9)
    times = np.linspace(switch, last, 41)
    rise = np.clip(start + (times - switch) / span * (end - start), low, high)
    shares = [(0.0, 0.0), (switch, 0.0), *zip(times.tolist(), rise.tolist(), strict=True), (last, even), (1.0, even)]
    marks = [(switch, "stage 2 comes in"), (early, "uncertainty counts more"), (last, "all alike")]
    marks += [(time, "uncertainty is measured again") for time in curriculum.get("refresh", ())]
    first, second = (_weights(curriculum.get(name)) for name in ("w2a", "w2b"))
    phases = [
        (0.0, switch, "simple half only, all alike"),
        (switch, early, f"both halves; in the complex one {first}"),
        (early, last, f"both halves; in the complex one {second}"),
        (last, 1.0, "all alike"),
    ]
    return Plan(shares=shares, even=even, marks=marks, phases=[phase for phase in phases if phase[1] > phase[0]])


def _weights(pair: Sequence[float] | None) -> str:
    return f"{pair[0]:g} x complexity + {pair[1]:g} x uncertainty" if pair else "all alike"


def time_rows(root: Path) -> list[Step]:
    """Read ledger/seconds.json: a number, or seconds and peak memory, per step; empty where it is not there."""
    path = root / "ledger" / "seconds.json"
    if not path.is_file():
        return []
    stored = {
        name: value if isinstance(value, Mapping) else {"seconds": value} for name, value in read_json(path).items()
    }
    total = max(sum(float(value["seconds"]) for value in stored.values()), 1e-9)
    return [
        Step(name=name, seconds=float(value["seconds"]), share=float(value["seconds"]) / total, peak_mib=value.get("peak_mib"))
        for name, value in stored.items()
    ]  # fmt: skip


def setting_rows(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten settings: (dotted name, value as JSON)."""
    rows = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            rows += setting_rows(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return rows


def task_rows(tasks: NDArray[Any], stages: NDArray[Any]) -> list[tuple[str, int, int]]:
    """Count the chosen patches of each task: (task, simple, complex)."""
    return [
        (
            str(task),
            int(((tasks == task) & (stages == "stage1")).sum()),
            int(((tasks == task) & (stages != "stage1")).sum()),
        )
        for task in np.unique(tasks.astype(np.str_))
    ]


def by_complexity(subset: OpenedSubset) -> Indices:
    """Order the chosen rows from the simplest to the most complex, ties by key."""
    keys = np.array(subset.chosen.column("key").to_pylist(), dtype=np.str_)
    return np.lexsort((keys, subset.column("complexity"))).astype(np.int64)

"""`report`: SUBSET/report.html, one page that needs nothing else: what was chosen, why, and how like the corpus it is.

The page is no part of the subset: the manifest does not list it, and it may hold the times of `ledger/seconds.json`.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from curate.core.artifacts import read_json, write_bytes
from curate.core.console import human_bytes, human_seconds
from curate.core.errors import ConfigError, ManifestError

from .comparison import NUM_TENTHS, SubsetNumbers, measure, milli, tenths
from .likeness import NUM_DRAWS, Likeness, Null
from .opened import OpenedSubset, open_subset
from .report_facts import by_complexity, setting_rows, strata_rows, task_rows, time_rows, training_plan
from .report_gallery import Change, Patch, evenly, read_changes, read_patches, uri
from .report_map import LAYOUTS, MAX_CHOSEN, MAX_THUMBNAILS, picture_map, place, point_map
from .report_svg import STAGES, complexity_plot, curriculum_plot, fit_plot, null_plot, tenths_plot

_GALLERY_PX, _MAP_PX, _CHANGE_PX = 176, 84, 260
_KNOWN_CALIBRATION = ("mode", "accepted", "reason", "mmd2", "fit")
_MMD2_NAMES = {
    "before": "before, by the cached features",
    "before_fit": "before, as the fit sees it",
    "after": "after",
    "null_mean": "random subsets, mean",
    "null_std": "random subsets, standard deviation",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig:
    """Which subset, and how the page looks.

    Attributes:
        subset: a finished subset.
        out: where the page goes; None: SUBSET/report.html.
        corpus: the corpus that it was chosen from, to show calibrated patches beside their originals; None: where the ledger
            says it was.
        layout: of the map: `pca`, or `tsne` (needs scikit-learn, up to 10,000 patches).
        gallery_patches: pictures in the gallery, evenly spaced over complexity [ours].
        changes_shown: calibrated patches shown beside their originals [ours].
        rank: dimensions of phi_1 and of the similarity behind coverage [spec 4.2: 64].
        max_rows: above so many patches a corpus is represented by so many of them [ours; as in `compare`].
        seed: root of the random subsets that numbers are compared with.
    """

    subset: Path
    out: Path | None = None
    corpus: Path | None = None
    layout: str = "pca"
    gallery_patches: int = 32
    changes_shown: int = 4
    rank: int = 64
    max_rows: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ConfigError(f"report.layout must be one of {', '.join(LAYOUTS)}, got {self.layout!r}")
        for name in ("gallery_patches", "changes_shown", "rank", "max_rows"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"report.{name} must be >= 1, got {getattr(self, name)}")
        if not self.seed >= 0:
            raise ConfigError(f"report.seed must be >= 0, got {self.seed}")


def report(config: ReportConfig) -> Path:
    """Write the page.

    Returns:
        Its path.

    Raises:
        ConfigError: a bad value, or `subset` holds a corpus.
        ManifestError: no finished subset, no features beside it, or `corpus` is another corpus.
        MissingDependencyError: the layout needs a library that is not installed.
    """
    import jinja2

    subset = open_subset(config.subset)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "count": lambda value: f"{value:,}", "milli": milli, "seconds": _duration,
        "mib": lambda value: human_bytes(value * 2**20),
    }  # fmt: skip
    template = importlib.resources.files("distill").joinpath("report.html.j2").read_text(encoding="utf-8")
    page = environment.from_string(template).render(_context(subset, config))
    path = config.out if config.out is not None else config.subset / "report.html"
    write_bytes(path, page.encode("utf-8", "surrogateescape"))
    return path


def _context(subset: OpenedSubset, config: ReportConfig) -> dict[str, Any]:
    manifest, table = subset.manifest, subset.table
    with threadpool_limits(1, user_api="blas"):  # sums in one order, whatever the machine
        likeness = Likeness(table, rank=config.rank, max_rows=config.max_rows)
        likeness.prepare_coverage(config.rank)
        groups = table.photographs()
        null = likeness.null(len(subset.picked), config.seed)
        degraded = None
        if table.degraded_rows is not None:
            degraded = Likeness(table, rank=config.rank, max_rows=config.max_rows, degraded=True)
        numbers = measure(subset, likeness, null, groups, name=config.subset.resolve().name, degraded=degraded)
        spots = place(table.rows, subset.picked, config.layout)
    order = by_complexity(subset)
    shown = [int(order[at]) for at in evenly(len(order), config.gallery_patches)]
    on_map = [int(order[at]) for at in evenly(len(order), MAX_THUMBNAILS)]
    on_map = [
        row for first in (0, 2, 1, 3) for row in on_map[first::4]
    ]  # where room is short, some of every complexity
    keys = subset.chosen.column("key").to_pylist()
    patches = read_patches(subset.dataset, {keys[row] for row in (*shown, *on_map)})
    complexity, stages = subset.column("complexity"), [str(stage) for stage in subset.column("stage")]
    titles = [f"{keys[row]}, {stages[row]}, complexity {complexity[row]:.3f}" for row in range(len(keys))]
    options = manifest["config"].get("selector_options", {})
    plan = training_plan(manifest.get("curriculum", {}), *(numbers.stages.get(stage, 0) for stage in STAGES))
    return {
        "name": numbers.name, "manifest": manifest, "numbers": numbers, "num_available": len(table),
        "num_groups": len(np.unique(groups)), "layout": config.layout, "num_reference": len(likeness.reference),
        "num_draws": NUM_DRAWS, "max_chosen": MAX_CHOSEN, "rank": likeness.rank,
        "closer_than": None if numbers.null_farther is None else round(numbers.null_farther * NUM_DRAWS),
        "point_map": point_map(spots, subset.picked, stages, titles),
        "picture_map": picture_map(
            spots,
            {int(subset.picked[row]): uri(patches[keys[row]].image, _MAP_PX) for row in on_map if keys[row] in patches},
            {int(subset.picked[row]): stages[row] for row in on_map},
        ),
        "complexity_svg": complexity_plot(
            table.complexity, {stage: complexity[np.array(stages) == stage].astype(np.float64) for stage in STAGES}
        ),
        "gallery": [_tile(subset, row, keys[row], stages[row], patches.get(keys[row])) for row in shown],
        "null_svg": _null_svg(numbers, null),
        "calibration": _calibration(manifest), "changes": _changes(subset, config, order, keys),
        "plan": plan,
        "plan_svg": curriculum_plot(plan.shares, plan.even, plan.marks) if plan is not None else "",
        "curriculum_kind": manifest.get("curriculum", {}).get("kind", "two-stage"),
        "strata": strata_rows(subset), "low_cut": "low_cut_frac" in options and options["low_cut_frac"] > 0,
        "tenths_svg": tenths_plot(_tenths(subset)),
        "tasks": task_rows(subset.column("task"), subset.column("stage")),
        "steps": time_rows(config.subset), "settings": setting_rows(manifest["config"]),
    }  # fmt: skip


def _tile(subset: OpenedSubset, row: int, key: str, stage: str, patch: Patch | None) -> dict[str, Any]:
    return {
        "key": key, "stage": stage, "complexity": float(subset.column("complexity")[row]),
        "rank": float(subset.column("rank")[row]), "uri": uri(patch.image, _GALLERY_PX) if patch is not None else "",
        "source": patch.source if patch is not None else "", "place": patch.place if patch is not None else "",
    }  # fmt: skip


def _tenths(subset: OpenedSubset) -> dict[str, list[float]]:
    """Share of all chosen patches per stage and tenth of the corpus."""
    stages, num = subset.column("stage"), len(subset.picked)
    rows = {stage: subset.picked[stages == stage] for stage in STAGES}
    return {
        stage: [share * len(own) / num for share in tenths(subset.table.complexity, own)]
        if len(own)
        else [0.0] * NUM_TENTHS
        for stage, own in rows.items()
    }


def _null_svg(numbers: SubsetNumbers, null: Null) -> str:
    marks = [("chosen", "this subset", 1000 * numbers.mmd2_biased)]
    if numbers.mmd2_weighted is not None:
        marks.append(("stage2", "with its sampling weights", 1000 * numbers.mmd2_weighted))
    lines = [null_plot((1000 * null.biased).tolist(), marks, "MMD\u00b2 x 1000, biased: 0 = the corpus itself")]
    if len(null.coverage):
        marks = [("chosen", "this subset", numbers.coverage)]
        lines.append(null_plot(null.coverage.tolist(), marks, "coverage: 1 = every patch has its like"))
    return "".join(lines)


def _calibration(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read the manifest's record: its verdict, its MMD2 numbers in the order they should be read, and all else it says."""
    record = manifest.get("calibration")
    if not isinstance(record, Mapping):
        return None
    mmd2, fit = record.get("mmd2") or {}, record.get("fit") or {}
    known = [name for name in _MMD2_NAMES if isinstance(mmd2.get(name), int | float)]
    history = [(float(step), 1000 * float(value)) for step, value in fit.get("history", ())]
    null = (mmd2["null_mean"], mmd2["null_std"]) if {"null_mean", "null_std"} <= set(known) else None
    rest = {name: value for name, value in record.items() if name not in _KNOWN_CALIBRATION}
    rest |= {"mmd2": {name: value for name, value in mmd2.items() if name not in _MMD2_NAMES}}
    rest |= {"fit": {name: value for name, value in fit.items() if name != "history"}}
    return {
        "mode": record["mode"], "accepted": record.get("accepted"),
        "reason": record.get("reason", ""),
        "rows": [(_MMD2_NAMES[name], float(mmd2[name])) for name in known], "more": setting_rows(rest),
        "history_svg": fit_plot(history, null, fit.get("kept_step")) if len(history) > 1 else "",
    }  # fmt: skip


def _changes(
    subset: OpenedSubset, config: ReportConfig, order: Sequence[int] | Any, keys: Sequence[str]
) -> dict[str, Any]:
    """Set some calibrated patches beside their originals, or say why that is not possible."""
    if subset.manifest.get("depth", 8) == 8:
        return {"rows": [], "missing": ""}
    corpus = config.corpus or _ledger_corpus(config.subset)
    if corpus is None or not (corpus / "manifest.json").is_file():
        return {"rows": [], "missing": "The corpus is not at hand, so patches before calibration cannot be shown."}
    wanted = [keys[int(order[at])] for at in evenly(len(order), config.changes_shown)]
    try:
        found = read_changes(subset.dataset, corpus, wanted, _CHANGE_PX)
    except ManifestError:
        if config.corpus is not None:
            raise
        return {
            "rows": [],
            "missing": f"At {corpus} there is another corpus now; patches before calibration are not shown.",
        }
    rows: list[tuple[str, Change]] = [(key, found[key]) for key in wanted if key in found]
    return {"rows": rows, "missing": ""}


def _ledger_corpus(root: Path) -> Path | None:
    """Return where the corpus was when the subset was made, if the ledger says so."""
    path = root / "ledger" / "select.json"
    where = read_json(path).get("corpus_path") if path.is_file() else None
    return Path(where) if where else None


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 60 else human_seconds(seconds)

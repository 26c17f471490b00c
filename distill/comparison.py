"""Subsets of one corpus side by side: how like the corpus each is, what it covers, and what they have in common.

Numbers come from the feature caches inside the subsets; neither the corpus nor the encoder is needed. Calibrated patches are
judged as they were before calibration; what calibration changed is in each manifest (and in the report).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from curate import Dataset
from curate.core.config import to_plain
from curate.core.errors import ConfigError, ManifestError

from .likeness import Floats, Likeness, Null
from .opened import OpenedSubset, features_of, open_manifest, open_subset
from .selection import Indices
from .table import FeatureTable

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
NUM_TENTHS = 10
_CLEAN = ("mean R", "mean G", "mean B", "contrast R", "contrast G", "contrast B")
_PAIRED = (*_CLEAN, "degraded mean R", "degraded mean G", "degraded mean B", "degraded contrast R", "degraded contrast G",
           "degraded contrast B", "edges", "fine detail", "PSNR")  # fmt: skip
DESCRIPTORS = {8: (*_CLEAN, "edges", "fine detail"), 15: _PAIRED}  # order: spec/tripled.md section 4.2
_EXPLAINED = (
    "MMD2 x 1000: distance to the corpus as distributions, beside 20 random subsets of the same size. Unbiased, it is near 0",
    "for a random subset and below 0 for one that is more spread out than chance; biased, it is never negative.",
    "cover: mean similarity of a corpus patch to the most similar chosen one, 0..1. nearest, p95: distance to it, mean and",
    "95 % quantile, in median distances. shift: of brightness, contrast and detail, in standard deviations of the corpus.",
)
_BARS = "·▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """Which subsets, and how closely to look.

    Attributes:
        subsets: finished subsets of one corpus.
        rank: dimensions of phi_1 and of the similarity behind coverage [spec 4.2: 64; 4.4: at most 64].
        max_rows: above so many patches a corpus is represented by so many of them [ours; spec 4.3 goes exact up to 20,000].
        seed: root of the random subsets that each number is compared with.
    """

    subsets: tuple[Path, ...]
    rank: int = 64
    max_rows: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.subsets:
            raise ConfigError("compare needs at least one subset, got none")
        for name in ("rank", "max_rows"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"compare.{name} must be >= 1, got {getattr(self, name)}")
        if not self.seed >= 0:
            raise ConfigError(f"compare.seed must be >= 0, got {self.seed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetNumbers:
    """One subset against its corpus.

    Attributes:
        name: its folder, as given.
        selector: what chose it.
        calibrate: `none`, `kmm`, `cnn`.
        num: patches.
        stages: patches per stage.
        num_groups: photographs they come from.
        mmd2: unbiased MMD2 to the corpus; None for one patch.
        mmd2_biased: the same with the pairs of a patch with itself.
        mmd2_weighted: biased, with the sampling weights of the subset; None where all are alike.
        mmd2_degraded: unbiased, over the degraded members of pairs; None for clean patches.
        null_mean: mean of `mmd2` of 20 random subsets of the same size; None for one patch.
        null_std: their standard deviation.
        null_farther: share of them that lie farther from the corpus than this one: large is good.
        null_biased_mean: mean of `mmd2_biased` of the random subsets.
        null_biased_std: their standard deviation.
        coverage: facility location: mean over the corpus of the similarity to the most similar chosen patch, 0..1.
        coverage_null: its mean over the random subsets; None where it would be slow to find.
        nearest_mean: mean distance of a corpus patch to the nearest chosen one, in median distances.
        nearest_p95: 95 % quantile of it: how far the worst served patches are.
        complexity: at `QUANTILES`.
        tenths: share of the subset in each tenth of the corpus's complexity, simplest first.
        shift_mean: mean over the descriptors of |mean here - mean of the corpus|, in standard deviations of the corpus.
        shift_most: the descriptor that is shifted most, and by how much (signed).
    """

    name: str
    selector: str
    calibrate: str
    num: int
    stages: Mapping[str, int]
    num_groups: int
    mmd2: float | None
    mmd2_biased: float
    mmd2_weighted: float | None
    mmd2_degraded: float | None
    null_mean: float | None
    null_std: float | None
    null_farther: float | None
    null_biased_mean: float
    null_biased_std: float
    coverage: float
    coverage_null: float | None
    nearest_mean: float
    nearest_p95: float
    complexity: tuple[float, ...]
    tenths: tuple[float, ...]
    shift_mean: float
    shift_most: tuple[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareResult:
    """What was found; `to_plain` makes JSON of it.

    Attributes:
        corpus: content hash of the corpus.
        num_available: its patches.
        num_groups: its photographs.
        encoder: what looked at them, for people.
        complexity_measure: whose scores are shown (the first subset's).
        rank: dimensions of phi_1.
        num_reference: patches that stood for the corpus.
        complexity: the corpus's, at `QUANTILES`.
        subsets: in the order given.
        overlap: Jaccard index of each pair of subsets: shared patches / patches of either.
    """

    corpus: str
    num_available: int
    num_groups: int
    encoder: str
    complexity_measure: str
    rank: int
    num_reference: int
    complexity: tuple[float, ...]
    subsets: tuple[SubsetNumbers, ...]
    overlap: tuple[tuple[float, ...], ...]

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {**to_plain(self), "quantiles": list(QUANTILES)}


def compare(config: CompareConfig) -> CompareResult:
    """Measure subsets of one corpus against it and against each other.

    Raises:
        ConfigError: the subsets are of different corpora or were seen by different encoders.
        ManifestError: not a finished subset, or no feature cache is left in any of them.
    """
    datasets = [open_manifest(path) for path in config.subsets]
    _check_same(datasets)
    table = _any_features(datasets)
    subsets = [open_subset(path, table) for path in config.subsets]
    groups = table.photographs()
    with threadpool_limits(1, user_api="blas"):  # sums in one order, whatever the machine
        likeness = Likeness(table, rank=config.rank, max_rows=config.max_rows)
        likeness.prepare_coverage(config.rank)
        worse = None
        if table.degraded_rows is not None:
            worse = Likeness(table, rank=config.rank, max_rows=config.max_rows, degraded=True)
        nulls = {num: likeness.null(num, config.seed) for num in sorted({len(subset.picked) for subset in subsets})}
        numbers = [
            measure(subset, likeness, nulls[len(subset.picked)], groups, name=str(path), degraded=worse)
            for subset, path in zip(subsets, config.subsets, strict=True)
        ]
    first = datasets[0].manifest
    return CompareResult(
        corpus=first["corpus_content_hash"], num_available=len(table), num_groups=len(np.unique(groups)),
        encoder=first["encoder"]["label"], complexity_measure=first["complexity"], rank=likeness.rank,
        num_reference=len(likeness.reference), complexity=_quantiles(table.complexity), subsets=tuple(numbers),
        overlap=tuple(tuple(_jaccard(one.picked, other.picked) for other in subsets) for one in subsets),
    )  # fmt: skip


def measure(
    subset: OpenedSubset,
    likeness: Likeness,
    null: Null,
    groups: Indices,
    *,
    name: str,
    degraded: Likeness | None = None,
) -> SubsetNumbers:
    """Measure one subset; `likeness.prepare_coverage` has been called."""
    manifest, table, picked = subset.manifest, subset.table, np.sort(subset.picked)
    mmd2, biased = likeness.mmd2(picked)
    weights = subset.column("weight").astype(np.float64)
    nearest = likeness.nearest(picked)
    shift = _shift(table, picked)
    most = int(np.abs(shift).argmax())
    names = DESCRIPTORS.get(len(shift), tuple(f"descriptor {number}" for number in range(len(shift))))
    is_single = len(picked) == 1
    return SubsetNumbers(
        name=name, selector=manifest["selector"], calibrate=manifest["calibration"]["mode"], num=len(picked),
        stages={stage: sum(shard.samples for shard in shards) for stage, shards in subset.dataset.stages.items()},
        num_groups=len(np.unique(groups[picked])),
        mmd2=None if is_single else mmd2, mmd2_biased=biased,
        mmd2_weighted=likeness.weighted_mmd2(subset.picked, weights) if len(np.unique(weights)) > 1 else None,
        mmd2_degraded=None if is_single or degraded is None else degraded.mmd2(picked)[0],
        null_mean=None if is_single else _round(null.mmd2.mean()),
        null_std=None if is_single else _round(null.mmd2.std(ddof=1)),
        null_farther=None if is_single else _round((null.mmd2 > mmd2).mean()),
        null_biased_mean=_round(null.biased.mean()), null_biased_std=_round(null.biased.std(ddof=1)),
        coverage=likeness.coverage(picked), coverage_null=_round(null.coverage.mean()) if len(null.coverage) else None,
        nearest_mean=_round(nearest.mean()), nearest_p95=_round(np.quantile(nearest, 0.95)),
        complexity=_quantiles(table.complexity[picked]), tenths=tenths(table.complexity, picked),
        shift_mean=_round(np.abs(shift).mean()), shift_most=(names[most], _round(shift[most])),
    )  # fmt: skip


def tenths(complexity: Floats, picked: Indices) -> tuple[float, ...]:
    """Return the share of the chosen in each tenth of the corpus by complexity, simplest first; ties in row order."""
    place = np.empty(len(complexity), np.int64)
    place[np.argsort(complexity, kind="stable")] = np.arange(len(complexity))
    counts = np.bincount(place[picked] * NUM_TENTHS // len(complexity), minlength=NUM_TENTHS)
    return tuple(_round(count / len(picked)) for count in counts)


def table(result: CompareResult) -> str:
    """Write a result for the terminal."""
    lines = [
        f"corpus    {result.num_available:,} patches of {result.num_groups:,} photographs, {result.corpus[:12]}",
        f"encoder   {result.encoder}, PCA to {result.rank}; complexity by {result.complexity_measure}",
    ]
    if result.num_reference < result.num_available:
        lines.append(f"sample    {result.num_reference:,} evenly spaced patches stand for the corpus")
    names = _short_names([subset.name for subset in result.subsets])
    head = ["", "patches", "photos", "MMD2", "random", "biased", "random", "cover", "random", "nearest", "p95", "shift"]
    paired = any(one.mmd2_degraded is not None for one in result.subsets)
    lines += ["", *_grid([head, *(_line(name, one) for name, one in zip(names, result.subsets, strict=True))])]
    if paired:
        degraded = [[name, milli(one.mmd2_degraded)] for name, one in zip(names, result.subsets, strict=True)]
        lines += ["", *_grid([["degraded members", "MMD2"], *degraded])]
    quantiles = ["complexity", *(f"{100 * level:g} %" for level in QUANTILES), "by tenths of the corpus"]
    corpus = ["corpus", *_figures(result.complexity), _bars((1 / NUM_TENTHS,) * NUM_TENTHS)]
    rows = [
        [name, *_figures(one.complexity), _bars(one.tenths)] for name, one in zip(names, result.subsets, strict=True)
    ]
    lines += ["", *_grid([quantiles, corpus, *rows])]
    if len(names) > 1:
        shared = [
            [name, *(f"{100 * part:.0f} %" for part in row)] for name, row in zip(names, result.overlap, strict=True)
        ]
        lines += ["", *_grid([["shared", *names], *shared])]
    lines += ["", *_EXPLAINED]
    return "\n".join(lines)


def _line(name: str, one: SubsetNumbers) -> list[str]:
    return [
        name, f"{one.num:,}", f"{one.num_groups:,}", milli(one.mmd2), _spread(one.null_mean, one.null_std),
        milli(one.mmd2_biased), _spread(one.null_biased_mean, one.null_biased_std), f"{one.coverage:.3f}",
        "-" if one.coverage_null is None else f"{one.coverage_null:.3f}", f"{one.nearest_mean:.2f}", f"{one.nearest_p95:.2f}",
        f"{one.shift_mean:.2f} ({one.shift_most[0]} {one.shift_most[1]:+.2f})",
    ]  # fmt: skip


def milli(value: float | None) -> str:
    """Write a value times 1000 with about three digits; "-" for none."""
    if value is None:
        return "-"
    thousandths = 1000 * value
    digits = 1 if abs(thousandths) >= 10 else 2 if abs(thousandths) >= 1 else 3
    return f"{thousandths:.{digits}f}"


def _spread(mean: float | None, std: float | None) -> str:
    return "-" if mean is None else f"{milli(mean)} +- {milli(std)}"


def _grid(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    last = len(widths) - 1
    return [
        "  ".join(
            cell.rjust(width) if 0 < at < last else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _short_names(names: Sequence[str]) -> list[str]:
    """Drop the leading folders that all names share."""
    parts = [Path(name).parts for name in names]
    if len(set(parts)) < 2:
        return [path[-1] if path else name for path, name in zip(parts, names, strict=True)]
    common = 0
    while all(len(path) > common + 1 and path[common] == parts[0][common] for path in parts):
        common += 1
    return [str(Path(*path[common:])) for path in parts]


def _bars(shares: Sequence[float]) -> str:
    """Draw shares as blocks, the middle height being an even share."""
    return "".join(
        _BARS[min(len(_BARS) - 1, max(int(share > 0), round(share * NUM_TENTHS * (len(_BARS) - 1) / 2)))]
        for share in shares
    )


def _figures(values: Sequence[float]) -> list[str]:
    return [f"{value:.3f}" for value in values]


def _quantiles(values: Floats) -> tuple[float, ...]:
    return tuple(_round(value) for value in np.quantile(values, QUANTILES))


def _shift(table: FeatureTable, picked: Indices) -> Floats:
    everything = np.asarray(table.descriptors, dtype=np.float64)
    deviation = everything.std(axis=0)
    apart = everything[picked].mean(axis=0) - everything.mean(axis=0)
    return np.asarray(np.where(deviation > 0, apart / np.where(deviation > 0, deviation, 1.0), 0.0), dtype=np.float64)


def _jaccard(one: Indices, other: Indices) -> float:
    return _round(len(np.intersect1d(one, other)) / len(np.union1d(one, other)))


def _round(value: float) -> float:
    return round(float(value), 9)


def _check_same(datasets: Sequence[Dataset]) -> None:
    first = datasets[0]
    for other in datasets[1:]:
        if other.manifest["corpus_content_hash"] != first.manifest["corpus_content_hash"]:
            raise ConfigError(
                f"{other.root} is a subset of another corpus than {first.root}; compare subsets of one corpus"
            )
        for fact in ("name", "weights_sha256"):
            mine, its = first.manifest["encoder"][fact], other.manifest["encoder"][fact]
            if mine != its:
                raise ConfigError(
                    f"{other.root} was seen by another encoder ({fact} {its!r}) than {first.root} ({mine!r}); "
                    "select again with one encoder"
                )


def _any_features(datasets: Sequence[Dataset]) -> FeatureTable:
    """Open the first feature cache that is left."""
    problem = None
    for dataset in datasets:
        try:
            return features_of(dataset)
        except ManifestError as error:
            problem = problem or error
    raise problem or ManifestError("no subset, no features")

"""What is known of every patch of a corpus, as files that need neither the corpus nor the encoder to be read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.core.artifacts import read_json
from curate.core.errors import ManifestError
from curate.dataset import read_table

ROWS, DEGRADED_ROWS, COLUMNS, KEY, SUCCESS = (
    "rows.npy", "degraded_rows.npy", "table.parquet", "key.json", "_SUCCESS",
)  # fmt: skip
_GROUP_CHARS = 20  # a single patch's key starts with 20 hex of its photograph's sha256 (curate.patch_key)


def values_file(complexity: str) -> str:
    """Name the file of the numbers that a measure cached: (N, K) float64 or float32, sorted by key."""
    return f"values-{complexity}.npy"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureTable:
    """One row per patch, sorted by key.

    Attributes:
        keys: (N,) str.
        groups: (N,) int64, equal for patches of one photograph or of what `group_pattern` names; None: the keys say it.
        rows: (N, D) float16, what the encoder says of the whole patch (the mean patch token of a ViT); a memory map when
            opened from a folder: read it in blocks.
        degraded_rows: the same of the degraded member of a pair; None for a corpus of clean patches.
        descriptors: (N, 8) float32, of pairs (N, 15); `distill.descriptors` says which.
        complexity: (N,) float64, higher = more complex.
        uncertainty: (N,) float64 prior; None where the complexity measure has none.
        measures: name of a file of `distill.complexity` -> (N,) float64: all that were measured, the complexity among them.
        uncertainties: the same names -> (N,) float64, where a measure has an uncertainty.
        seconds: step -> seconds that it took in this run, summed over threads; none when opened from a folder.
    """

    keys: NDArray[np.str_]
    rows: NDArray[np.floating]
    descriptors: NDArray[np.float32]
    complexity: NDArray[np.float64]
    groups: NDArray[np.int64] | None = None
    degraded_rows: NDArray[np.floating] | None = None
    uncertainty: NDArray[np.float64] | None = None
    measures: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    uncertainties: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def photographs(self) -> NDArray[np.int64]:
        """Number what patches were cut from: (N,) int64, equal for patches of one photograph (or of one named group)."""
        if self.groups is not None:
            return self.groups
        return np.unique(self.keys.astype(f"<U{_GROUP_CHARS}"), return_inverse=True)[1].astype(np.int64)

    def __len__(self) -> int:
        return len(self.keys)

    def seen_by(self, complexity: str) -> FeatureTable:
        """Make one of the measures the complexity.

        Raises:
            ManifestError: nobody measured it.
        """
        if complexity not in self.measures:
            raise ManifestError(f"these features hold no {complexity}, they hold {', '.join(self.measures) or 'none'}")
        return replace(self, complexity=self.measures[complexity], uncertainty=self.uncertainties.get(complexity))


def load_features(folder: Path) -> FeatureTable:
    """Open a finished feature folder; no encoder is needed. Its first measure is the complexity (`seen_by` takes another).

    Args:
        folder: `OUT/features/NAME` of `distill score` or `distill select`.

    Raises:
        ManifestError: not a feature folder, not finished, or files of different lengths.
    """
    if not (folder / SUCCESS).is_file():
        raise ManifestError(
            f"{folder} holds no finished features: run distill score or distill select again, it resumes"
        )
    columns: Any = read_table(folder / COLUMNS)
    facts = read_json(folder / KEY)
    keys = np.array(columns.column("key").to_pylist(), dtype=np.str_)
    rows = _memory_map(folder / ROWS, len(keys))
    degraded = _memory_map(folder / DEGRADED_ROWS, len(keys)) if (folder / DEGRADED_ROWS).is_file() else None
    scores = {name: columns.column(f"score.{name}").to_numpy() for name in facts["complexities"]}
    names, first = columns.column_names, facts["complexities"][0]
    uncertainties = {
        name: columns.column(f"uncertainty.{name}").to_numpy() for name in scores if f"uncertainty.{name}" in names
    }
    return FeatureTable(
        keys=keys, rows=rows, degraded_rows=degraded, groups=_groups(columns, folder),
        descriptors=np.stack([columns.column(n).to_numpy() for n in names if n.startswith("descriptor.")], axis=1),
        complexity=scores[first], uncertainty=uncertainties.get(first), measures=scores, uncertainties=uncertainties,
    )  # fmt: skip


def _groups(columns: Any, folder: Path) -> NDArray[np.int64]:
    if "group" not in columns.column_names:
        raise ManifestError(
            f"{folder} was made by an older version and does not say which patches belong together; score or select into a "
            "new OUT"
        )
    return np.asarray(columns.column("group").to_numpy(), dtype=np.int64)


def _memory_map(path: Path, num: int) -> NDArray[np.floating]:
    try:
        array: NDArray[np.floating] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ManifestError(f"cannot read {path}: {error}; delete the folder, it is made again") from error
    if len(array) != num:
        raise ManifestError(f"{path} holds {len(array)} rows, {path.parent / COLUMNS} {num}; delete the folder")
    return array

"""A finished subset, opened beside what is known of the whole corpus: what `compare` and `report` read.

Neither the corpus nor the encoder is needed: the feature cache inside the subset's folder is enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curate import Dataset, open_dataset
from curate.core.errors import ConfigError, ManifestError
from curate.dataset import read_table

from .selection import Indices
from .table import FeatureTable, load_features

_COLUMNS = ("key", "task", "stage", "complexity", "rank", "stratum", "gain", "weight")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenedSubset:
    """A subset and the corpus behind it.

    Attributes:
        dataset: the subset.
        table: one row per patch of the corpus, sorted by key.
        chosen: selection.parquet, one row per chosen patch.
        picked: (k,) int64, where each chosen patch stands in `table`, in the order of `chosen`.
    """

    dataset: Dataset
    table: FeatureTable
    chosen: pa.Table
    picked: Indices

    @property
    def manifest(self) -> Mapping[str, Any]:
        """The subset's manifest."""
        return self.dataset.manifest

    def column(self, name: str) -> NDArray[Any]:
        """Return a column of selection.parquet."""
        return np.asarray(self.chosen.column(name).to_numpy())


def open_manifest(folder: Path) -> Dataset:
    """Open a finished subset without its features.

    Raises:
        ConfigError: `folder` holds a corpus.
        ManifestError: no finished subset.
    """
    dataset = open_dataset(folder)
    if dataset.kind != "subset":
        raise ConfigError(f"{folder} is a {dataset.kind}, wanted a subset; distill select makes one")
    return dataset


def open_subset(folder: Path, table: FeatureTable | None = None) -> OpenedSubset:
    """Open a finished subset.

    Args:
        folder: made by `distill select`.
        table: what is known of its corpus, where another subset of it was opened before; None reads its own cache.

    Raises:
        ConfigError: `folder` holds a corpus.
        ManifestError: no finished subset, no features beside it, or tables that do not fit each other.
    """
    dataset = open_manifest(folder)
    known = features_of(dataset) if table is None else table
    chosen = read_table(folder / dataset.manifest["selection"]["file"], list(_COLUMNS))
    if not chosen.num_rows:
        raise ManifestError(f"{folder}: selection.parquet names no patch; run distill select again into a new OUT")
    return OpenedSubset(
        dataset=dataset,
        table=known,
        chosen=chosen,
        picked=_places(known.keys, chosen.column("key").to_pylist(), folder),
    )


def features_of(dataset: Dataset) -> FeatureTable:
    """Open the feature cache that a subset's manifest names, seen by the complexity that chose the subset.

    Raises:
        ManifestError: it is not there or not whole.
    """
    folder = dataset.root / dataset.manifest["features"]
    if not folder.is_dir():
        raise ManifestError(
            f"{folder} is missing: the features of the corpus are needed; run distill select again into a new OUT"
        )
    return load_features(folder).seen_by(dataset.manifest["complexity"])


def _places(keys: NDArray[np.str_], wanted: list[str], folder: Path) -> Indices:
    order = np.argsort(keys, kind="stable")
    places = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    if missing := [key for key, found in zip(wanted, keys[places], strict=True) if key != found]:
        raise ManifestError(f"{folder}: patch {missing[0]} is chosen, but the features of its corpus do not hold it")
    return places.astype(np.int64)

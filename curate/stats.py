"""`corpus_stats`: the funnel and the spread of every score, from parquet alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .core.errors import ManifestError
from .dataset import open_dataset, read_table

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusStats:
    """Counts of the funnel, shards and bytes, and quantiles of each score over kept and dropped patches."""

    funnel: Mapping[str, Any]
    num_shards: int
    num_bytes: int
    recipe: str
    patch_size_px: int
    extension: str
    kept: Mapping[str, tuple[float, ...]]
    dropped: Mapping[str, tuple[float, ...]]


def corpus_stats(root: Path) -> CorpusStats:
    """Summarise a finished corpus; opens no picture.

    Raises:
        ManifestError: no finished corpus at `root`.
    """
    dataset = open_dataset(root)
    if dataset.kind != "corpus":
        raise ManifestError(f"{root} is a {dataset.kind}; `curate stats` reads corpora")
    shards = [shard for group in dataset.stages.values() for shard in group]
    built = dataset.manifest["config"]
    dropped = pa.concat_tables([read_table(root / shard.rejected) for shard in shards])
    return CorpusStats(
        funnel=dataset.manifest["funnel"],
        num_shards=len(shards),
        num_bytes=sum(shard.num_bytes for shard in shards),
        recipe=built["recipe"]["name"],
        patch_size_px=built["patch_size_px"],
        extension=built["patch_format"],
        kept=_quantiles(dataset.rows()),
        dropped=_quantiles(dropped),
    )


def _quantiles(table: pa.Table) -> dict[str, tuple[float, ...]]:
    result = {}
    for field in table.schema:
        if pa.types.is_float64(field.type) and not field.name.startswith("image_"):
            values = table[field.name].drop_null().to_numpy()
            result[field.name] = tuple(float(v) for v in np.quantile(values, QUANTILES)) if len(values) else ()
    return result

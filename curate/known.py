"""Corpora that were built before: their pictures are kept already, and a new batch is compared with them from parquet alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from .core.errors import ConfigError
from .dataset import Dataset, read_table
from .dedup.copies import Known, KnownTile
from .dedup.rules import Dedup
from .manifest import FINGERPRINT_FIELDS, read_fingerprint
from .reselect import open_corpus, shards_of

_COLUMNS = ("source", "status", "image_sha256", "pair_sha256", "pixels_sha256", "split")


def open_known(folders: Sequence[Path], dedup: Dedup) -> list[Dataset]:
    """Open earlier corpora and check that they hold what the rules compare.

    Raises:
        ManifestError: no finished corpus.
        ConfigError: a rule needs a column that a corpus has not.
    """
    found = [open_corpus(folder, reader="build-shards --known") for folder in folders]
    wanted = [name for name, on in (
        ("phash", dedup.perceptual), ("embedding", bool(dedup.semantic)), ("keypoints", dedup.partial),
    ) if on]  # fmt: skip
    for dataset in found:
        recipe = dataset.manifest["config"]["recipe"].get("dedup", {})
        has = {
            "phash": recipe.get("perceptual") or recipe.get("partial") or recipe.get("semantic"),
            "keypoints": recipe.get("partial"), "embedding": recipe.get("semantic") == dedup.semantic,
        }  # fmt: skip
        missing = [name for name in wanted if not has[name]]
        if missing:
            raise ConfigError(
                f"--known {dataset.root}: the recipe it was built with stores no {missing[0]} ([dedup]); "
                "build it again with the rules of this recipe, or turn that rule off here"
            )
        if dedup.patches:
            for shard in shards_of(dataset):
                if "average_hash" not in pq.read_schema(dataset.root / shard.metadata).names:
                    raise ConfigError(
                        f"--known {dataset.root}: its patches have no average_hash (an earlier release); build it again, or "
                        "turn dedup.patches off in the recipe"
                    )
    return found


def known_pictures(datasets: Sequence[Dataset]) -> list[Known]:
    """Read every kept picture of earlier corpora; no pixel is read."""
    known = []
    for number, dataset in enumerate(datasets, start=1):
        for part in dataset.manifest["images"]:
            path = dataset.root / part["file"]
            has = set(pq.read_schema(path).names)
            columns = [name for name in (*_COLUMNS, *(name for name, _ in FINGERPRINT_FIELDS)) if name in has]
            for row in read_table(path, columns).to_pylist():
                if row["status"] == "kept":
                    known.append(Known(
                        source=f"{row['source']} (known corpus {number})", sha256=row["image_sha256"],
                        pair_sha256=row["pair_sha256"] or "", pixels_sha256=row["pixels_sha256"] or "",
                        fingerprint=read_fingerprint(row), split=row.get("split") or "",
                    ))  # fmt: skip
    return known


def known_tiles(datasets: Sequence[Dataset]) -> Iterator[KnownTile]:
    """Read the hashes of every kept patch of earlier corpora, if they have both kinds."""
    for dataset in datasets:
        for shard in shards_of(dataset):
            path = dataset.root / shard.metadata
            if "average_hash" in pq.read_schema(path).names:
                for row in read_table(path, ["key", "phash", "average_hash", "pair_sha256"]).to_pylist():
                    if row["phash"] and row["average_hash"] and not row["pair_sha256"]:
                        yield KnownTile(key=row["key"], phash=row["phash"], average_hash=row["average_hash"])

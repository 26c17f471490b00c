"""What a manifest says of itself and of the folder: its own hashes, its counts, the index, and files it does not list.

A single flipped bit in manifest.json must not pass: hashes cover what it lists and its config, the tables answer for its
counts, and `_SUCCESS`, where it is not empty, holds the sha256 of the whole file.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from .core.artifacts import read_json, sha256_file
from .core.config import canonical_json, config_hash
from .core.errors import ConfigError, ManifestError
from .core.records import ShardInfo
from .dataset import SCHEMA_VERSION, Dataset, open_dataset

MANIFEST, SUCCESS, INDEX = "manifest.json", "_SUCCESS", "index.json"
FOLDERS = ("shards", "metadata", "rejected", "images")
_WANTED: Mapping[str, type] = {
    "content_hash": str, "config": dict, "config_hash": str, "inputs_hash": str, "versions": dict, "funnel": dict,
    "shards": list, "images": list,
}  # fmt: skip
_FUNNEL = ("inputs", "kept", "rejected", "failed", "reasons", "patches", "patches_kept", "patch_reasons")


def open_damaged(root: Path) -> tuple[Dataset | None, list[str]]:
    """Open a finished corpus whose manifest may be damaged.

    Returns:
        The dataset, or None if the manifest cannot be used; and what is wrong with the manifest.

    Raises:
        ManifestError: no finished corpus, a subset, or a corpus of another schema version.
    """
    is_finished = (root / MANIFEST).is_file() and (root / SUCCESS).is_file()
    differences = _check_seal(root) if is_finished else []
    try:
        dataset = open_dataset(root)
    except (ManifestError, ConfigError) as error:
        if not is_finished or (not differences and _is_of_another_release(root)):
            raise
        return None, differences or [f"{MANIFEST}: {error}"]
    if dataset.kind != "corpus":
        raise ManifestError(f"{root} is a {dataset.kind}; `curate verify` reads corpora")
    if fault := _misshapen(dataset.manifest):
        return None, [*differences, f"{MANIFEST}: {fault}"]
    return dataset, differences


def check_manifest(manifest: Mapping[str, Any]) -> list[str]:
    """Recompute the hashes that the manifest holds of its own parts."""
    hashes = {
        "content_hash": config_hash({"shards": manifest["shards"], "images": manifest["images"]}),
        "config_hash": config_hash(manifest["config"]),
    }
    return [
        f"{MANIFEST}: {name} is not the hash of what it lists"
        for name, hash_ in hashes.items()
        if manifest[name] != hash_
    ]


def check_index(dataset: Dataset, shards: Sequence[ShardInfo]) -> list[str]:
    """Compare the wids index with the manifest."""
    try:
        found = read_json(dataset.root / INDEX)
    except ManifestError as error:
        return [f"{INDEX}: {error}"]
    listed = [
        {"url": s.file, "md5sum": s.md5, "nsamples": s.samples, "filesize": s.num_bytes} for s in shards if s.samples
    ]
    name = dataset.manifest["config"].get("recipe", {}).get("name")
    wanted = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": name, "shardlist": listed}
    return [] if found == wanted else [f"{INDEX}: differs from the manifest"]


def check_strays(dataset: Dataset, shards: Sequence[ShardInfo]) -> list[str]:
    """Name files that stand among those of the corpus and are none: a reader with a glob would take them."""
    listed = {name for shard in shards for name in (shard.file, shard.metadata, shard.rejected)}
    listed |= {part["file"] for part in dataset.manifest["images"]}
    found = [
        path.relative_to(dataset.root).as_posix()
        for folder in FOLDERS
        for path in sorted((dataset.root / folder).rglob("*"))
        if not path.is_dir()
    ]
    return [f"{name}: not in the manifest" for name in found if name not in listed]


@dataclass(slots=True)
class InputsTally:
    """Counts and hashes the tables of inputs, part by part, as the manifest's funnel and `inputs_hash` do."""

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "source", "status", "reason", "image_sha256", "pair_sha256", "num_patches", "num_kept",
    )  # fmt: skip
    status: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    num_patches: int = 0
    num_kept: int = 0
    _hash: Any = field(default_factory=lambda: hashlib.sha256(b'{"inputs":['))

    @property
    def num_inputs(self) -> int:
        """Rows so far."""
        return self.status.total()

    def add(self, table: pa.Table) -> None:
        """Count one part, which has COLUMNS."""
        for row in table.to_pylist():
            entry = canonical_json([row["source"], row["image_sha256"], row["pair_sha256"] or ""])
            self._hash.update((b"," if self.num_inputs else b"") + entry)
            self.status[row["status"]] += 1
            if row["status"] == "kept":
                self.num_kept += row["num_kept"]
            else:
                self.reasons[f"{row['status']}: {row['reason']}"] += 1
            self.num_patches += row["num_patches"]

    def compare(self, dataset: Dataset) -> list[str]:
        """Compare with the manifest, all parts being added."""
        manifest, digest = dataset.manifest, self._hash.copy()
        digest.update(b"]}")
        found = {
            "inputs": self.num_inputs, **{name: self.status[name] for name in ("kept", "rejected", "failed")},
            "reasons": dict(self.reasons), "patches": self.num_patches, "patches_kept": self.num_kept,
        }  # fmt: skip
        differences = [
            f"{MANIFEST}: funnel says {name} {manifest['funnel'][name]}, images/ holds {value}"
            for name, value in found.items()
            if manifest["funnel"][name] != value
        ]
        if digest.hexdigest() != manifest["inputs_hash"]:
            differences.append(f"{MANIFEST}: inputs_hash is not the hash of the inputs in images/")
        if self.num_kept != dataset.num_samples:
            differences.append(f"images/: {self.num_kept} kept patches, the shards hold {dataset.num_samples}")
        return differences


def _check_seal(root: Path) -> list[str]:
    """Compare the manifest with its hash in `_SUCCESS`; corpora of earlier releases have none."""
    seal = (root / SUCCESS).read_bytes().strip()
    if not seal or seal == sha256_file(root / MANIFEST).encode():
        return []
    return [f"{MANIFEST}: sha256 differs from {SUCCESS}"]


def _is_of_another_release(root: Path) -> bool:
    try:
        manifest = json.loads((root / MANIFEST).read_bytes())
    except ValueError:
        return False
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    return isinstance(version, int) and version != SCHEMA_VERSION


def _misshapen(manifest: Mapping[str, Any]) -> str:
    """Say what is missing for the checks to begin, or ""."""
    for name, kind in _WANTED.items():
        if not isinstance(manifest.get(name), kind):
            return f"{name} is missing or not a {kind.__name__}"
    for name in _FUNNEL:
        if name not in manifest["funnel"]:
            return f"funnel has no {name}"
    for part in manifest["images"]:
        if (
            not isinstance(part, dict)
            or not all(isinstance(part.get(name), str) for name in ("file", "sha256"))
            or "rows" not in part
        ):
            return f"images: wanted file, rows and sha256, got {part}"
    return ""

"""Benchmark pictures that a corpus must not hold: packs of them on the way in, the list of what was removed on the way out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from .core.artifacts import sha256_file
from .core.records import ScannedImage
from .decontaminate import BENCHMARK
from .manifest import write_table

PACKS = "ledger/against"
LEAKS = "leaks.parquet"
_FIELDS = (
    ("source", pa.string()), ("image_sha256", pa.string()), ("pack", pa.string()), ("benchmark", pa.string()),
    ("score", pa.float64()), ("num_inliers", pa.int32()), ("corners", pa.string()), ("status", pa.string()),
    ("reason", pa.string()), ("num_patches_removed", pa.int32()),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PackFile:
    """A pack that lies in a corpus's ledger, where every worker can read it."""

    name: str
    content_hash: str
    num_pictures: int
    path: str


def store_packs(against: Sequence[str], out: Path) -> list[PackFile]:
    """Make, or find, the pack of each `--against` and put it into the ledger.

    Raises:
        ConfigError: neither a folder with pictures nor the name of a pack, or a picture that cannot be read.
    """
    if not against:
        return []
    from .leaks.pack import resolve_against

    files = []
    for number, text in enumerate(against):
        pack = resolve_against(text)
        path = out.absolute() / PACKS / f"{number:03d}-{pack.sha256[:16]}.pack"
        if not path.exists():
            pack.save(path)
        files.append(
            PackFile(name=Path(text).stem, content_hash=pack.sha256, num_pictures=len(pack.names), path=str(path))
        )
    return files


def write_leaks(out: Path, images: Sequence[ScannedImage]) -> dict[str, Any]:
    """Write the list of benchmark pictures found, one row for each place; say so as the manifest does."""
    rows = [
        {
            "source": image.ref.source, "image_sha256": image.sha256, "pack": leak.pack, "benchmark": leak.benchmark,
            "score": leak.score, "num_inliers": leak.num_inliers,
            "corners": " ".join(f"{x:.1f},{y:.1f}" for x, y in leak.corners), "status": image.status, "reason": image.reason,
            "num_patches_removed": sum(patch.reason == BENCHMARK for patch in image.patches),
        }
        for image in images
        for leak in image.leaks
    ]  # fmt: skip
    write_table(out / LEAKS, rows, pa.schema(_FIELDS))
    return {"file": LEAKS, "rows": len(rows), "sha256": sha256_file(out / LEAKS)}

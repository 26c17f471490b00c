"""Benchmark pictures that a corpus must not hold: packs of them on the way in, the list of what was removed on the way out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .core.artifacts import sha256_file
from .core.records import ScannedImage
from .dataset import read_table
from .decontaminate import BENCHMARK
from .manifest import store_table, write_table

PACKS = "ledger/against"
LEAKS = "leaks.parquet"
_FIELDS = (
    ("source", pa.string()), ("image_sha256", pa.string()), ("pack", pa.string()), ("benchmark", pa.string()),
    ("score", pa.float64()), ("num_inliers", pa.int32()), ("corners", pa.string()),
    ("num_patches_removed", pa.int32()),
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
    from .leaks.pack import keep_pack, resolve_against

    files = []
    folder = out.absolute() / PACKS
    for text in against:
        name, where = _named(text)
        if Path(where).is_dir():
            path = folder / f"{hashlib.sha256(str(Path(where).resolve()).encode()).hexdigest()[:16]}.pack"
            pack = keep_pack(
                Path(where), path
            )  # describing takes minutes for a thousand pictures; a resumed run need not
        else:
            pack = resolve_against(where)
            path = folder / f"{pack.sha256[:16]}.pack"
            if not path.exists():
                pack.save(path)
        files.append(PackFile(name=name, content_hash=pack.sha256, num_pictures=len(pack.names), path=str(path)))
    return files


def _named(text: str) -> tuple[str, str]:
    """Read `DIR`, `PACK` or `NAME=DIR`: two folders may have one name, and a table must tell them apart."""
    name, equals, where = text.partition("=")
    if equals and name and not Path(text).exists():
        return name, where
    path = Path(text)
    return (path.resolve().name if path.is_dir() else path.stem), text


def forget_leaks(out: Path, sources: Sequence[str], listed: Mapping[str, Any]) -> dict[str, Any]:
    """Take pictures out of the list, as if nothing had been found in them; say so as the manifest does."""
    table = read_table(out / listed["file"])
    left = table.filter(pc.invert(pc.is_in(table["source"], pa.array(sources, pa.string()))))
    store_table(out / listed["file"], left)
    return {**listed, "rows": len(left), "sha256": sha256_file(out / listed["file"])}


def write_leaks(out: Path, images: Sequence[ScannedImage]) -> dict[str, Any]:
    """Write the list of benchmark pictures found, one row for each place; say so as the manifest does."""
    rows = [
        {
            "source": image.ref.source, "image_sha256": image.sha256, "pack": leak.pack, "benchmark": leak.benchmark,
            "score": leak.score, "num_inliers": leak.num_inliers,
            "corners": " ".join(f"{x:.1f},{y:.1f}" for x, y in leak.corners),
            "num_patches_removed": sum(patch.reason == BENCHMARK for patch in image.patches),
        }
        for image in images
        for leak in image.leaks
    ]  # fmt: skip
    write_table(out / LEAKS, rows, pa.schema(_FIELDS))
    return {"file": LEAKS, "rows": len(rows), "sha256": sha256_file(out / LEAKS)}

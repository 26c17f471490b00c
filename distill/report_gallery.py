"""Pictures of the report: chosen patches as thumbnails, and what calibration changed, made visible."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curate import Dataset, open_dataset
from curate.core.errors import DecodeError, ManifestError
from curate.core.images import decode_patch, encode_thumbnail
from curate.core.records import Image, ShardInfo
from curate.lookup import ShardLookup
from curate.shards import ShardSample

_LEVELS_PER_16_BITS = 257.0  # 65535 / 255
_GREY, _SWING = (
    127.5,
    110.0,
)  # of the change picture: no change is middle grey, the largest change nearly black or white
_ROUND_GAINS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """One chosen patch to be shown.

    Attributes:
        image: (H, W, 3) uint8.
        source: the photograph's name.
        place: where in it, for people; "" where the tables do not say.
    """

    image: Image
    source: str
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One patch before and after calibration.

    Attributes:
        before: data URI.
        after: data URI.
        change: data URI of their difference, middle grey = none.
        gain: how many times it is amplified.
        largest: largest change of a pixel, in 8-bit levels.
        psnr_db: of after against before; None where nothing changed.
    """

    before: str
    after: str
    change: str
    gain: int
    largest: float
    psnr_db: float | None


def evenly(num_rows: int, num: int) -> list[int]:
    """Return at most `num` places evenly spaced over 0..num_rows - 1, both ends included."""
    return [int(at) for at in np.unique(np.linspace(0, num_rows - 1, min(num, num_rows)).round())]


def uri(image: Image, side_px: int) -> str:
    """Make a small JPEG as a data URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(encode_thumbnail(image, side_px=side_px)).decode()}"


def read_patches(dataset: Dataset, keys: Iterable[str]) -> dict[str, Patch]:
    """Decode some patches of a subset; of pairs the clean member. Those that do not decode are left out.

    Raises:
        ManifestError: a shard or its table is missing, or lacks a key it should hold.
    """
    patches = {}
    for shard, rows in _shards_of(dataset, frozenset(keys)):
        with ShardLookup(dataset.root / shard.file) as lookup:
            for row in rows:
                try:
                    image = decode_patch(clean_member(lookup.read(str(row["key"]))))
                except DecodeError:
                    continue
                place = f"x {row['x']}, y {row['y']}" if "x" in row and "y" in row else ""
                patches[str(row["key"])] = Patch(image=image, source=str(row.get("source", "")), place=place)
    return patches


def read_changes(dataset: Dataset, corpus: Path, keys: Sequence[str], side_px: int) -> dict[str, Change]:
    """Set calibrated patches beside the corpus's own.

    Args:
        dataset: the subset, its patches calibrated.
        corpus: what it was chosen from.
        keys: which patches.
        side_px: longer side of the pictures.

    Raises:
        ManifestError: `corpus` is not finished, or another one.
    """
    original = open_dataset(corpus)
    if original.content_hash != dataset.manifest["corpus_content_hash"]:
        raise ManifestError(f"{corpus} is not the corpus that {dataset.root} was chosen from")
    before, after = _levels_of(original, keys), _levels_of(dataset, keys)
    return {key: _change(before[key], after[key], side_px) for key in keys if key in before and key in after}


def clean_member(sample: ShardSample) -> bytes:
    """Return the bytes of a patch, of a pair those of its clean member."""
    clean = [
        data for extension, data in sample.members.items() if extension.startswith("gt.") and extension != "gt.json"
    ]
    return clean[0] if clean else sample.image()[1]


def decode_levels(data: bytes) -> NDArray[np.float32]:
    """Decode a patch of 8 or 16 bits.

    Returns:
        (H, W, 3) float32 in 8-bit levels, 0..255; 16-bit pixels keep their fractions.

    Raises:
        DecodeError: the bytes are damaged.
    """
    if data[:4] != b"\x89PNG":
        return decode_patch(data).astype(np.float32)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if pixels is None:
        raise DecodeError("damaged", "the patch does not decode")
    rgb = np.asarray(pixels[..., ::-1], dtype=np.float32)
    return rgb / np.float32(_LEVELS_PER_16_BITS) if pixels.dtype == np.uint16 else rgb


def _levels_of(dataset: Dataset, keys: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    found = dict[str, NDArray[np.float32]]()
    for shard, rows in _shards_of(dataset, frozenset(keys)):
        with ShardLookup(dataset.root / shard.file) as lookup:
            found |= {str(row["key"]): decode_levels(clean_member(lookup.read(str(row["key"])))) for row in rows}
    return found


def _change(before: NDArray[np.float32], after: NDArray[np.float32], side_px: int) -> Change:
    if before.shape != after.shape:
        raise ManifestError(f"a calibrated patch has shape {after.shape}, the corpus's {before.shape}")
    apart = after.astype(np.float64) - before
    largest, error = float(np.abs(apart).max()), float(np.mean(apart * apart))
    gain = max((step for step in _ROUND_GAINS if step * largest <= _SWING), default=1) if largest else 1
    shown = [np.clip(np.round(part), 0, 255).astype(np.uint8) for part in (before, after, _GREY + gain * apart)]
    return Change(
        before=uri(shown[0], side_px), after=uri(shown[1], side_px), change=uri(shown[2], side_px), gain=gain,
        largest=largest, psnr_db=10 * float(np.log10(255**2 / error)) if error else None,
    )  # fmt: skip


def _shards_of(dataset: Dataset, wanted: frozenset[str]) -> Iterable[tuple[ShardInfo, list[Mapping[str, object]]]]:
    """Yield the shards that hold wanted keys, with the rows of those keys."""
    for shard in (shard for group in dataset.stages.values() for shard in group if shard.samples):
        path = dataset.root / shard.metadata
        try:
            names = [name for name in ("key", "source", "x", "y") if name in pq.read_schema(path).names]
            table = pq.read_table(path, columns=names)
        except (OSError, pa.ArrowException) as error:
            raise ManifestError(f"cannot read {path}: {error}") from error
        mask = pa.array([key in wanted for key in table.column("key").to_pylist()], pa.bool_())
        if rows := table.filter(mask).to_pylist():
            yield shard, rows

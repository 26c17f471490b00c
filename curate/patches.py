"""Patches to bytes: the last stage of pass 1."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from .candidate import Candidate
from .core.images import PATCH_EXTENSIONS, encode_image, encode_thumbnail
from .core.records import Image
from .core.stage import Context
from .dedup.phash import hashes_of
from .lossless import crop_jpeg
from .pairs import blame_pair

SOURCE, JPEG_EXTENSION, LOSSLESS_DEFAULT = "source", "jpg", "webp"
PATCH_FORMATS = (*PATCH_EXTENSIONS, SOURCE)


@dataclass(frozen=True, slots=True)
class Encode:
    """Encode kept patches and make thumbnails of the dropped ones."""

    size_px: int
    phash: bool
    name: str = "encode"

    def __call__(self, items: Iterable[Candidate], ctx: Context, /) -> Iterator[Candidate]:
        """Fill `blobs`, and what the patches know of their bytes.

        Raises:
            DecodeError: damage that shows only now.
        """
        for item in items:
            origins = [(patch.y, patch.x) for patch in item.patches if not patch.reason]
            if item.cut:
                encoded = [item.cut[origin] for origin in origins]
            else:
                encoded = self._encode(item.data, item.seen.load_rgb, origins, item.extension)
            degraded: list[bytes] = []
            if item.pair is not None:
                with blame_pair():
                    degraded = self._encode(item.pair.data, item.pair.decode, origins, item.extension)
            self._fill(item, iter(encoded), iter(degraded))
            yield item

    def _encode(
        self, data: bytes, load_rgb: Callable[[], Image], origins: Sequence[tuple[int, int]], extension: str
    ) -> list[bytes]:
        if extension == JPEG_EXTENSION:
            return crop_jpeg(data, origins, self.size_px)
        if not origins:
            return []
        rgb = load_rgb()
        return [encode_image(rgb[y : y + self.size_px, x : x + self.size_px], extension) for y, x in origins]

    def _fill(self, item: Candidate, encoded: Iterator[bytes], degraded: Iterator[bytes]) -> None:
        view, offset = item.seen, 0
        planes = view.rgb if view.has_rgb else view.grey  # a thumbnail is not worth decoding colour for
        for index, patch in enumerate(item.patches):
            window = slice(patch.y, patch.y + self.size_px), slice(patch.x, patch.x + self.size_px)
            kept = not patch.reason
            hashes = hashes_of(view.grey[window]) if self.phash else None
            blob, pair_blob = (next(encoded), next(degraded, b"")) if kept else (encode_thumbnail(planes[window]), b"")
            item.patches[index] = dataclasses.replace(
                patch, offset=offset, num_bytes=len(blob), sha256=_sha256(blob) if kept else "",
                phash=hashes.phash if hashes else "", average_hash=hashes.average_hash if hashes else "",
                pair_num_bytes=len(pair_blob), pair_sha256=_sha256(pair_blob) if pair_blob else "",
            )  # fmt: skip
            item.blobs += [blob, pair_blob]
            offset += len(blob) + len(pair_blob)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

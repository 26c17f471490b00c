"""Patches to bytes: the last stage of pass 1."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from .candidate import Candidate
from .core.images import PATCH_EXTENSIONS, encode_image, encode_thumbnail
from .core.records import Image, ImageFacts
from .core.stage import Context
from .dedup.phash import phash
from .lossless import can_crop, crop_jpeg

SOURCE, JPEG_EXTENSION, LOSSLESS_DEFAULT = "source", "jpg", "webp"
PATCH_FORMATS = (*PATCH_EXTENSIONS, SOURCE)


@dataclass(frozen=True, slots=True)
class Encode:
    """Encode kept patches and make thumbnails of the dropped ones."""

    size_px: int
    patch_format: str
    phash: bool
    name: str = "encode"

    def __call__(self, items: Iterable[Candidate], ctx: Context, /) -> Iterator[Candidate]:
        """Fill `extension`, `blobs`, and what the patches know of their bytes.

        Raises:
            DecodeError: damage that shows only now.
        """
        for item in items:
            item.extension = self._extension(item)
            origins = [(patch.y, patch.x) for patch in item.patches if not patch.reason]
            view, pair = item.seen, item.pair
            cut = [item.cut[origin] for origin in origins] if item.cut else None
            encoded = cut or self._encode(item.data, view.load_rgb, origins, item.extension)
            degraded = self._encode(pair.data, pair.decode, origins, item.extension) if pair and origins else []
            self._fill(item, iter(encoded), iter(degraded))
            yield item

    def _extension(self, item: Candidate) -> str:
        if self.patch_format != SOURCE:
            return self.patch_format
        origins = [(patch.y, patch.x) for patch in item.patches]
        pictures: list[ImageFacts] = [item.seen.facts, *([item.pair.facts] if item.pair else [])]
        croppable = all(can_crop(facts, origins, self.size_px) for facts in pictures)
        return JPEG_EXTENSION if croppable else LOSSLESS_DEFAULT

    def _encode(
        self, data: bytes, load_rgb: Callable[[], Image], origins: Sequence[tuple[int, int]], extension: str
    ) -> Iterable[bytes]:
        if extension == JPEG_EXTENSION:
            return crop_jpeg(data, origins, self.size_px)
        return [encode_image(load_rgb()[y : y + self.size_px, x : x + self.size_px], extension) for y, x in origins]

    def _fill(self, item: Candidate, encoded: Iterator[bytes], degraded: Iterator[bytes]) -> None:
        view, offset = item.seen, 0
        planes = view.rgb if view.has_rgb else view.grey  # a thumbnail is not worth decoding colour for
        for index, patch in enumerate(item.patches):
            window = slice(patch.y, patch.y + self.size_px), slice(patch.x, patch.x + self.size_px)
            kept = not patch.reason
            blob, pair_blob = (next(encoded), next(degraded, b"")) if kept else (encode_thumbnail(planes[window]), b"")
            item.patches[index] = dataclasses.replace(
                patch, offset=offset, num_bytes=len(blob), sha256=_sha256(blob) if kept else "",
                phash=phash(view.grey[window]) if self.phash else "",
                pair_num_bytes=len(pair_blob), pair_sha256=_sha256(pair_blob) if pair_blob else "",
            )  # fmt: skip
            item.blobs += [blob, pair_blob]
            offset += len(blob) + len(pair_blob)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

"""The photographs a corpus was cut from, opened again for patches that an expression brings back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .core.errors import ConfigError
from .core.images import decode_image, encode_image

Origins = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Photographs:
    """Where the photographs lie; nothing is opened before `cut`."""

    root: Path

    def check(self, sources: Sequence[str]) -> None:
        """Make sure that all are there.

        Raises:
            ConfigError: names the first that is missing, and how many are.
        """
        missing = [source for source in sources if not (self.root / source).is_file()]
        if missing:
            raise ConfigError(
                f"{len(missing)} of {len(sources)} photographs to read again are not in --source {self.root}, "
                f"first {missing[0]}; give the folder the corpus was built from"
            )

    def cut(self, source: str, sha256: str, origins: Origins, *, size_px: int, extension: str) -> list[bytes]:
        """Encode patches of one photograph as `build-shards` would.

        Args:
            source: its name in the corpus.
            sha256: of the file the corpus was built from.
            origins: (y, x) of each patch in the upright picture.
            size_px: side of the patches.
            extension: `webp` or `png` (decoded, cropped, encoded without loss) or `jpg` (cropped in the DCT domain).

        Returns:
            One encoded patch per origin, in order.

        Raises:
            ConfigError: the file changed.
            DecodeError: it is damaged.
        """
        data = (self.root / source).read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ConfigError(f"{self.root / source} is not the file the corpus was built from (its sha256 differs)")
        if extension == "jpg":
            from .lossless import crop_jpeg

            patches: list[bytes] = crop_jpeg(data, list(origins), size_px)
            return patches
        pixels = decode_image(data)
        return [encode_image(pixels[y : y + size_px, x : x + size_px], extension) for y, x in origins]

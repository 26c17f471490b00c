"""Random access to the patches of a corpus or subset, decoded at most once while they fit in memory.

A tar is indexed by its headers alone (offset and size of every image), so opening costs no decoding. Access order and the
cache change speed only. A calibrated subset's 16-bit PNG keeps its 16 bits. Limit: single-image samples; pairs
(`.lq`/`.gt`) are refused by name.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curate import Dataset
from curate.core.errors import ManifestError
from curate.core.images import PATCH_EXTENSIONS, decode_image, decode_samples

Samples = NDArray[np.uint8 | np.uint16]
"""(H, W, 3) RGB, white = the type's largest value."""


@dataclass(frozen=True, slots=True)
class PatchRef:
    """Where one patch's bytes lie.

    Attributes:
        key: its name in the dataset; the part before the first `_` identifies the picture it was cut from.
        stage: name of its stage, "" in a corpus.
        path: the tar.
        offset_bytes: start of the encoded image in it.
        num_bytes: its length.
        extension: `webp`, `png` or `jpg`.
    """

    key: str
    stage: str
    path: Path
    offset_bytes: int
    num_bytes: int
    extension: str


class PatchStore:
    """Patches by reference; keeps decoded pixels until `cache_bytes` are used, then decodes on every access."""

    def __init__(self, *, cache_bytes: int) -> None:
        self._free_bytes = cache_bytes
        self._decoded: dict[PatchRef, Samples] = {}

    def image(self, ref: PatchRef) -> Samples:
        """Return one patch, (H, W, 3) uint8 or (16-bit PNG) uint16 RGB, not to be written to.

        Raises:
            DecodeError: the bytes are damaged.
        """
        kept = self._decoded.get(ref)
        if kept is not None:
            return kept
        with ref.path.open("rb") as file:
            file.seek(ref.offset_bytes)
            data = file.read(ref.num_bytes)
        image: Samples = decode_samples(data) if ref.extension in PATCH_EXTENSIONS else decode_image(data)
        if image.nbytes <= self._free_bytes:
            self._free_bytes -= image.nbytes
            self._decoded[ref] = image
        return image


def index_patches(dataset: Dataset) -> tuple[tuple[PatchRef, ...], ...]:
    """List the patches of every stage, in shard order.

    Raises:
        ManifestError: a shard is missing, broken, holds another number of samples than its manifest says, or holds pairs.
    """
    stages = []
    for name, shards in dataset.stages.items():
        refs: list[PatchRef] = []
        for shard in shards:
            found = _index_shard(dataset.root / shard.file, name) if shard.samples else []
            if len(found) != shard.samples:
                raise ManifestError(
                    f"{dataset.root / shard.file} holds {len(found)} images, its manifest says {shard.samples}"
                )
            refs += found
        stages.append(tuple(refs))
    return tuple(stages)


def _index_shard(path: Path, stage: str) -> list[PatchRef]:
    refs = []
    try:
        with tarfile.open(path, "r:") as tar:
            for header in tar:
                key, _, extension = header.name.partition(".")
                if extension.endswith("json"):
                    continue
                if "." in extension:
                    raise ManifestError(
                        f"{path}: {header.name} belongs to a pair; this release trains on single patches"
                    )
                refs.append(PatchRef(key, stage, path, header.offset_data, header.size, extension))
    except (OSError, tarfile.TarError) as error:
        raise ManifestError(f"{path} is not a whole tar: {error}") from error
    return refs

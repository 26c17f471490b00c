"""A benchmark's pictures as what finding them needs: keypoints, an index over their descriptors, and the pictures at half size.

A pack is one safetensors file, the same bytes for the same pictures on the same machine. Its hash depends on the pictures'
names and pixels and on how keypoints are found, so it may stand in a configuration's hash.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.artifacts import atomic_path
from ..core.errors import ConfigError, ImageError, ManifestError
from ..core.formats import SUFFIXES
from ..core.images import luma, read_picture
from ..weights import cache_dir
from .index import build_index
from .keypoints import KeypointConfig, find_keypoints, join
from .planes import halve

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
MIN_SIDE_PX = 64  # a smaller picture cannot be told from another
_FEW_KEYPOINTS = 20  # a picture with fewer is named in a warning; CBSD68's smoothest has 200
_DENSE = KeypointConfig(num_fine=16, num_coarse=16)  # a benchmark keeps nearly all; photographs a part


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """What finding a benchmark's pictures needs.

    Attributes:
        names: of the P pictures, relative to their folder, sorted.
        sizes: (P, 2) int32 height and width in pixels.
        planes: P grey pictures at half size, uint8.
        owner: (N,) int32, the picture of each keypoint, ascending.
        places: (N, 4) float32, as in `Keypoints`.
        looks: (N, 2) float32, as in `Keypoints`.
        descriptors: (N, 128) uint8.
        index: serialised faiss index over the descriptors and their mirror images.
        sha256: of the pictures and settings.
    """

    names: tuple[str, ...]
    sizes: NDArray[np.int32]
    planes: tuple[NDArray[np.uint8], ...]
    owner: NDArray[np.int32]
    places: NDArray[np.float32]
    looks: NDArray[np.float32]
    descriptors: NDArray[np.uint8]
    index: NDArray[np.uint8] = field(repr=False)
    sha256: str

    def save(self, path: Path) -> None:
        """Write the pack atomically.

        Raises:
            ConfigError: it cannot be written.
        """
        from safetensors.numpy import save_file

        flat = np.concatenate([plane.ravel() for plane in self.planes])
        shapes = np.array([plane.shape for plane in self.planes], np.int32)
        tensors = {
            "sizes": self.sizes, "planes": flat, "plane_shapes": shapes, "owner": self.owner, "places": self.places,
            "looks": self.looks,
            "descriptors": self.descriptors, "index": self.index,
        }  # fmt: skip
        about = json.dumps({"schema_version": SCHEMA_VERSION, "sha256": self.sha256, "names": self.names})
        try:
            with atomic_path(path) as temporary:
                save_file(
                    tensors, temporary, metadata={"leak_pack": about}
                )  # one entry: safetensors does not sort them
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def make_pack(folder: Path) -> Pack:
    """Read every picture under a folder and describe it.

    Args:
        folder: benchmark pictures, in subfolders too; files without an image's suffix are passed over.

    Raises:
        ConfigError: no folder, no picture, or one that cannot be read or is smaller than 64 px: not protecting it
            silently would be worse.
    """
    return _describe(*_read_folder(folder))


def keep_pack(folder: Path, path: Path) -> Pack:
    """Return the pack of a folder, from `path` if that holds it already; else make it and keep it there.

    The pictures are decoded either way (a fortieth of the time), so a changed benchmark is noticed.

    Raises:
        ConfigError: as `make_pack`, or `path` cannot be written.
    """
    read = _read_folder(folder)
    if path.is_file():
        try:
            if (kept := load_pack(path)).sha256 == read[2]:
                return kept
        except ManifestError as error:
            logger.warning("%s", error)
    pack = _describe(*read)
    pack.save(path)
    return pack


def _read_folder(folder: Path) -> tuple[list[str], list[NDArray[np.uint8]], str]:
    """Return names, luma planes and the pack's hash."""
    digest = hashlib.sha256(json.dumps([SCHEMA_VERSION, asdict(_DENSE)]).encode())
    names, greys = [], []
    for path in _list_pictures(folder):
        name = path.relative_to(folder).as_posix()
        grey = _read_grey(path)
        digest.update(f"{name}\0{grey.shape}\0".encode() + grey.tobytes())
        names.append(name)
        greys.append(grey)
    return names, greys, digest.hexdigest()


def _describe(names: list[str], greys: list[NDArray[np.uint8]], sha256: str) -> Pack:
    from threadpoolctl import threadpool_limits

    found = [find_keypoints(grey, _DENSE) for grey in greys]
    for name, keypoints in zip(names, found, strict=True):
        if len(keypoints.places) < _FEW_KEYPOINTS:
            logger.warning("benchmark picture %s is so smooth that copies of it may not be found", name)
    every = join(found)
    with threadpool_limits(1):
        index = build_index(every.descriptors)
    return Pack(
        names=tuple(names), sizes=np.array([grey.shape for grey in greys], np.int32),
        planes=tuple(halve(grey) for grey in greys),
        owner=np.repeat(np.arange(len(found), dtype=np.int32), [len(k.places) for k in found]),
        places=every.places, looks=every.looks, descriptors=every.descriptors, index=index, sha256=sha256,
    )  # fmt: skip


def load_pack(path: Path) -> Pack:
    """Read a pack.

    Raises:
        ManifestError: not a pack, damaged, or of another schema version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {}).get("leak_pack", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, ValueError) as error:
        raise ManifestError(f"{path} is not a pack of benchmark pictures ({error}); make it again") from error
    if about.get("schema_version") != SCHEMA_VERSION:
        raise ManifestError(
            f"{path} is not a pack of schema version {SCHEMA_VERSION}: got {about.get('schema_version')}; make it again"
        )
    shapes = tensors.pop("plane_shapes")
    ends = np.cumsum(shapes.prod(axis=1))[:-1]
    planes = [part.reshape(shape) for part, shape in zip(np.split(tensors.pop("planes"), ends), shapes, strict=True)]
    return Pack(names=tuple(about["names"]), planes=tuple(planes), sha256=about["sha256"], **tensors)


def pack_path(name: str) -> Path:
    """Return where the named pack lies in the cache."""
    return cache_dir() / "packs" / f"{name}.pack"


def resolve_against(what: str) -> Pack:
    """Return the pack of a folder, a pack file, or a named pack in the cache.

    Raises:
        ConfigError: none of these, or as `make_pack`.
        ManifestError: as `load_pack`.
    """
    path = Path(what)
    if path.is_dir():
        return make_pack(path)
    for candidate in (path, pack_path(what)):
        if candidate.is_file():
            return load_pack(candidate)
    known = sorted(file.stem for file in pack_path("*").parent.glob("*.pack"))
    raise ConfigError(
        f"--against {what}: no such folder, pack file or named pack; packs in {pack_path('*').parent}: "
        f"{', '.join(known) or 'none'}"
    )


def _list_pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ConfigError(f"no such folder of benchmark pictures: {folder}")
    inside = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    paths = [path for path in inside if not any(p.startswith(".") for p in path.relative_to(folder).parts)]
    if not paths:
        raise ConfigError(f"no pictures in {folder}; a benchmark to protect holds at least one")
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())


def _read_grey(path: Path) -> NDArray[np.uint8]:
    try:
        grey = luma(read_picture(path))
    except ImageError as error:
        raise ConfigError(f"benchmark picture {path} cannot be read ({error}); mend or remove it") from error
    if min(grey.shape) < MIN_SIDE_PX:
        raise ConfigError(
            f"benchmark picture {path} is {grey.shape[1]}x{grey.shape[0]}; at least {MIN_SIDE_PX} px a side can be found"
        )
    return grey

"""A folder of pictures, walked recursively in a fixed order.

An input is a file whose suffix or first bytes are an image's; other files are counted as ignored. Links to folders are
not followed. Hidden files, and every file in a hidden folder (leading dot), are ignored, and counted; so are pipes and devices.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import ConfigError
from ..core.images import SUFFIXES, looks_like_image
from ..core.records import InputRef

LISTS = "a list of URLs (.txt, .csv, .tsv, .jsonl, .parquet; text also .gz, .zst)"
"""What else `build-shards` reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a source holds.

    Attributes:
        inputs: sorted by source name.
        num_ignored: files that are not inputs.
        num_unpaired: degraded pictures without a clean one.
    """

    inputs: tuple[InputRef, ...]
    num_ignored: int
    num_unpaired: int = 0


def list_inputs(root: Path, *, leave_out: Path, paired: Path | None = None) -> Listing:
    """List the pictures under `root`; opens only files without an image's suffix (16 bytes each).

    Args:
        root: the folder.
        leave_out: a folder to skip wherever it lies, such as the output.
        paired: folder of the degraded versions; same relative names, the suffix may differ.

    Raises:
        ConfigError: no such folder, not a folder, unreadable, or without a single picture.
    """
    if not root.exists():
        raise ConfigError(f"source {root} does not exist")
    if not root.is_dir():
        raise ConfigError(f"source {root} is a file; wanted a folder of pictures, or {LISTS}")
    inputs: list[InputRef] = []
    num_ignored = 0
    for path, hidden in _files(root, leave_out.resolve()):
        if not hidden and _is_input(path):
            inputs.append(InputRef(source=path.relative_to(root).as_posix(), path=str(path), num_bytes=_size(path)))
        else:
            num_ignored += 1
    if not inputs:
        raise ConfigError(
            f"source {root} holds no picture ({num_ignored} other files); wanted {', '.join(sorted(SUFFIXES))}"
        )
    inputs.sort(key=lambda ref: ref.source.encode())
    if paired is None:
        return Listing(inputs=tuple(inputs), num_ignored=num_ignored)
    return _with_pairs(Listing(inputs=tuple(inputs), num_ignored=num_ignored), paired, leave_out)


def _with_pairs(listing: Listing, paired: Path, leave_out: Path) -> Listing:
    if paired.is_file():
        raise ConfigError(f"--paired {paired} is a file; wanted a folder of degraded pictures")
    degraded = {ref.source: ref for ref in list_inputs(paired, leave_out=leave_out).inputs}
    by_stem: dict[str, list[InputRef]] = {}
    for ref in degraded.values():
        by_stem.setdefault(_stem(ref.source), []).append(ref)
    inputs, used = [], set()
    for ref in listing.inputs:
        found = [degraded[ref.source]] if ref.source in degraded else by_stem.get(_stem(ref.source), [])
        if len(found) > 1:
            names = ", ".join(other.source for other in found)
            raise ConfigError(f"{ref.source} may be paired with {names} of {paired}; give both files the same name")
        pair = found[0] if found else InputRef(source=ref.source, path=str(paired / ref.source), num_bytes=-1)
        used.add(pair.source)
        inputs.append(
            dataclasses.replace(ref, pair_path=pair.path, pair_source=pair.source, pair_num_bytes=pair.num_bytes)
        )
    unpaired = len(degraded.keys() - used)
    return Listing(inputs=tuple(inputs), num_ignored=listing.num_ignored, num_unpaired=unpaired)


def _stem(source: str) -> str:
    return source.rpartition(".")[0] or source


def _files(root: Path, leave_out: Path) -> Iterator[tuple[Path, bool]]:
    """Yield every file under `root`, and whether its name or a folder's on the way to it starts with a dot."""

    def stop(error: OSError) -> None:
        raise ConfigError(f"cannot read source folder {error.filename}: {error.strerror}") from error

    for folder, subfolders, names in os.walk(root, onerror=stop):
        here = Path(folder)
        hidden = any(part.startswith(".") for part in here.relative_to(root).parts)
        subfolders[:] = [name for name in subfolders if (here / name).resolve() != leave_out]
        yield from ((here / name, hidden or name.startswith(".")) for name in names)


def _is_input(path: Path) -> bool:
    if path.exists() and not path.is_file():
        return False  # reading a pipe would wait for ever
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return looks_like_image(file.read(16))
    except OSError:
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1  # a broken link: the scan will say why it cannot be read

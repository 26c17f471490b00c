"""Which pictures are to be restored and where each result goes: a file, a folder, or the patches of a corpus or subset.

The result's format: OUT's suffix for a single picture; else `--format`; else the input's own where that is PNG, TIFF or WebP
(which is written without loss), and PNG for everything else: a JPEG is not damaged a second time unless asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from curate import Dataset, open_dataset
from curate.core.artifacts import read_json
from curate.core.errors import ConfigError, DecodeError, ManifestError
from curate.core.formats import SUFFIX_FORMATS, check_num_bytes
from curate.core.formats import SUFFIXES as READABLE

from .picture_writers import FORMATS, SUFFIXES


@dataclass(frozen=True, slots=True)
class Job:
    """One picture.

    Attributes:
        name: what it is called in messages and in the log of a folder.
        target: where its result goes.
        format: one of `picture_writers.FORMATS`.
        stamp: changes when the input does.
        read: gives the input's bytes; raises DecodeError if that cannot be done.
    """

    name: str
    target: Path
    format: str
    stamp: str
    read: Callable[[], bytes]


def plan_restoring(source: Path, out: Path, format_name: str) -> tuple[int, Iterator[Job]]:
    """List the jobs; returns their number and the jobs, in the order of the inputs.

    Raises:
        ConfigError: no such input, or an output that would overwrite an input.
        ManifestError: a corpus or subset that is not finished.
    """
    if source.is_dir():
        if out.is_file():
            raise ConfigError(f"input {source} is a folder, so output {out} must be one too")
        if out.resolve().is_relative_to(source.resolve()):
            raise ConfigError(f"output {out} lies inside the input folder {source}: choose a folder outside it")
        if _is_dataset(source):
            dataset = open_dataset(source)
            return dataset.num_samples, _patches(dataset, out, format_name)
        jobs = _files(source, out, format_name)
        return len(jobs), iter(jobs)
    if not source.is_file():
        raise ConfigError(f"input {source} does not exist")
    return 1, iter([_one(source, out, format_name)])


def _is_dataset(folder: Path) -> bool:
    """Tell a corpus or subset, be it broken, from a folder of pictures in which something else left a manifest.json."""
    if not (folder / "manifest.json").is_file():
        return False
    try:
        manifest = read_json(folder / "manifest.json")
    except ManifestError:
        return True  # what cannot be read is told when it is opened
    return isinstance(manifest, dict) and "kind" in manifest


def _one(source: Path, out: Path, format_name: str) -> Job:
    if out.is_dir() or not out.suffix:
        target, chosen = _target(out / source.name, format_name)
        if os.path.lexists(target) and target.resolve() != source.resolve():
            raise ConfigError(f"output {target} exists already: name the file instead of its folder to replace it")
    else:
        target, chosen = out, SUFFIXES.get(out.suffix.lower(), "")
        if not chosen:
            raise ConfigError(f"output {out} must end in one of {', '.join(SUFFIXES)} or be a folder")
        if format_name and format_name != chosen:
            raise ConfigError(f"output {out} is no {format_name}: drop --format or rename the output")
    if target.resolve() == source.resolve():
        raise ConfigError(f"output {target} is the input itself: choose another name")
    return Job(str(source), target, chosen, "", lambda: read_file(source))


def _files(source: Path, out: Path, format_name: str) -> list[Job]:
    inputs = sorted(path for path in source.rglob("*") if path.is_file() and path.suffix.lower() in READABLE)
    if not inputs:
        raise ConfigError(f"input folder {source} holds no picture")
    taken = {path.resolve() for path in inputs}
    jobs: dict[Path, Job] = {}
    for path in inputs:
        name = path.relative_to(source)
        target, chosen = _target(out / name, format_name)
        if target in jobs:
            raise ConfigError(f"{source / jobs[target].name} and {path} would both be written to {target}: rename one")
        if target.resolve() in taken:
            raise ConfigError(f"output {target} is one of the inputs: choose another folder")
        state = path.stat()
        stamp = f"{state.st_size} bytes, modified {state.st_mtime_ns}"
        jobs[target] = Job(name.as_posix(), target, chosen, stamp, lambda path=path: read_file(path))  # type: ignore[misc]
    return list(jobs.values())


def _patches(dataset: Dataset, out: Path, format_name: str) -> Iterator[Job]:
    """Yield the patches of a corpus or subset; of a pair, the damaged one."""
    chosen = format_name or "png"
    content = dataset.content_hash[:16]
    for stage in dataset.stages:
        for sample in dataset.samples(stage):
            images = {extension: data for extension, data in sample.members.items() if not extension.endswith("json")}
            extension = _damaged_one(images)
            target = out / stage / f"{sample.key}{FORMATS[chosen]}"
            name = f"{stage}/{sample.key}".lstrip("/")
            stamp = f"{content}, {len(images[extension])} bytes"
            yield Job(name, target, chosen, stamp, lambda data=images[extension]: data)  # type: ignore[misc]


def _damaged_one(extensions: Iterable[str]) -> str:
    ordered = sorted(extensions, key=lambda extension: not extension.startswith("lq."))
    return ordered[0]


def _target(path: Path, format_name: str) -> tuple[Path, str]:
    own = SUFFIX_FORMATS.get(path.suffix.lower(), ("",))[0]
    chosen = format_name or (own if own in ("png", "tiff", "webp") else "png")
    return (path if own == chosen else path.with_suffix(FORMATS[chosen])), chosen


def read_file(path: Path) -> bytes:
    """Read a whole file.

    Raises:
        DecodeError: `unreadable` or `too-many-bytes`.
    """
    try:
        check_num_bytes(path.stat().st_size)
        return path.read_bytes()
    except OSError as error:
        raise DecodeError("unreadable", f"{path}: {error.strerror}") from error

"""Use a trained network on pictures: `restore(RestoreConfig) -> RestoreResult`.

What is kept of a picture: restoration/picture_files.py. How large ones go through: restoration/restorer.py. A folder of
results holds `restored.jsonl`: its first line says which weights and settings made it, one line a picture follows; the same
command goes on where it was stopped, another checkpoint or setting is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from curate.core.artifacts import locked_output, sha256_file, write_bytes
from curate.core.config import to_plain
from curate.core.console import Progress, note
from curate.core.disk import explain
from curate.core.errors import ConfigError, DecodeError, DiskError, ImageError, ManifestError
from curate.core.header import Header

from .bound import bind
from .checkpoint import LoadedModel, load_run
from .memory import memory_limit
from .picture_files import Picture, decode_picture, decoding_bytes, picture_bytes, read_head
from .picture_writers import FORMATS, check_fits, write_picture, writing_bytes
from .restore_plan import Job, plan_restoring
from .restorer import OnTiles, Restorer, TilingConfig
from .tiling import Samples
from .trainer import choose_device

SCHEMA_VERSION = 1
LOG = "restored.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreConfig:
    """One job.

    Attributes:
        run: RUN folder.
        source: a picture, a folder of pictures (subfolders included), or a CORPUS or SUBSET.
        out: for a picture a file or a folder, else a folder.
        task: which head, for networks with several.
        depth: `s`, `l` or counts such as `4,6,6,8`; "" takes the one it was trained with.
        self_ensemble: average over the eight flips and turns: eight times the time.
        max_memory: such as `2GB`: of this process, on a GPU of its memory; "": 4GB, on a GPU most of what is free.
        format: `png`, `tiff`, `webp` or `jpeg`; "": see restoration/restore_plan.py.
        checkpoint: `last` or `best`.
        device: `auto`, `cpu`, `cuda`, ...
        tiling: how large pictures are cut.
    """

    run: Path
    source: Path
    out: Path
    task: str = ""
    depth: str = ""
    self_ensemble: bool = False
    max_memory: str = ""
    format: str = ""
    checkpoint: str = "last"
    device: str = "auto"
    tiling: TilingConfig = field(default_factory=TilingConfig)

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.format and self.format not in FORMATS:
            raise ConfigError(f"restore.format must be one of {', '.join(FORMATS)}, got {self.format!r}")
        memory_limit(self.max_memory, torch.device("cpu"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreResult:
    """What was written.

    Attributes:
        written: result files, in the order of the inputs, those of an earlier run included.
        failed: inputs that could not be restored, with the reason; a single picture raises instead.
        num_skipped: of `written`, how many an earlier run had made.
    """

    written: tuple[Path, ...]
    failed: tuple[tuple[str, str], ...]
    num_skipped: int


def restore(config: RestoreConfig) -> RestoreResult:
    """Restore a picture, a folder of pictures or the patches of a dataset.

    Raises:
        ConfigError: no such run or input, an output that would overwrite an input, an OUT of other settings, or a picture
            that the memory limit cannot hold.
        ManifestError: a broken checkpoint.
        DecodeError: the one input picture is damaged.
        NumericsError: the network's output is not finite.
    """
    num, jobs = plan_restoring(config.source, config.out, config.format)
    loaded, restorer = open_restorer(config)
    if not config.source.is_dir():
        (job,) = jobs
        _check_writable(job.target)
        try:
            with _tile_bar() as tell:
                _restore_job(job, restorer, tell)
        except DecodeError as error:
            raise DecodeError(error.reason, f"{job.name}: {error.detail}") from error
        return RestoreResult(written=(job.target,), failed=(), num_skipped=0)
    with locked_output(config.out), _open_log(config, loaded) as log:
        return _restore_all(num, jobs, restorer, log)


def _check_writable(target: Path) -> None:
    """Find out before the work whether the result can be put there."""
    folder = target.parent
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise ConfigError(f"cannot write output {target}: {folder} is no folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write output {target}: no permission to write into {folder}")


def open_restorer(config: RestoreConfig) -> tuple[LoadedModel, Restorer]:
    """Load the network and count what it needs.

    Raises:
        ConfigError: no such run, device, depth or head.
        ManifestError: a broken checkpoint.
    """
    device = choose_device(config.device)
    loaded = load_run(config.run, which=config.checkpoint)
    network = bind(loaded.module, depth=config.depth, task=config.task)
    if network.reuse is not None and network.reuse != loaded.module.reuse:
        note(f"these weights were trained at depth {loaded.module.reuse}; depth {network.reuse} is used as asked")
    limit = memory_limit(config.max_memory, device)
    restorer = Restorer(
        network, device=device, limit_bytes=limit, self_ensemble=config.self_ensemble, tiling=config.tiling
    )
    return loaded, restorer


def check_picture(
    data: bytes, restorer: Restorer, *, writing_bytes_per_pixel: int = 0, keeps_both: bool = False
) -> Header:
    """Read a file's header and refuse what the limit cannot hold, before it is decoded.

    Args:
        data: the file's bytes.
        restorer: what it is for.
        writing_bytes_per_pixel: what writing the result holds beside it, a pixel of the result.
        keeps_both: picture and result are written from memory into memory.

    Raises:
        ConfigError: the limit is too small for it.
        DecodeError: no whole header.
    """
    header = read_head(data)
    pixels, held = header.height * header.width, picture_bytes(header)
    writing = pixels * writing_bytes_per_pixel * restorer.network.scale**2
    if keeps_both:  # the picture itself, and a PNG of either, which is no larger
        writing += pixels * held * (2 + restorer.network.scale**2)
    decoding = 2 * len(data) + pixels * decoding_bytes(header)  # of a PNG decoders get a copy without remarks
    restorer.check_room(header.height, header.width, held, decoding, writing)
    return header


def restore_picture(picture: Picture, restorer: Restorer, *, on_tiles: OnTiles | None = None) -> Picture:
    """Restore the colours of a picture; what is grey stays grey, transparency and metadata are handed on."""
    colour = picture.colour
    grey = colour.shape[2] == 1 or _is_grey(colour)
    held = (colour.shape[2] + (picture.alpha is not None)) * colour.itemsize
    restored: Samples = restorer.restore(colour[..., :1] if grey else colour, bytes_per_pixel=held, on_tiles=on_tiles)
    if grey and colour.shape[2] == 3:
        restored = np.repeat(restored, 3, axis=2)
    alpha = picture.alpha
    if alpha is not None and alpha.shape != restored.shape[:2]:
        size = (restored.shape[1], restored.shape[0])
        alpha = np.asarray(cv2.resize(alpha, size, interpolation=cv2.INTER_LINEAR), dtype=alpha.dtype)
    return replace(picture, colour=restored, alpha=alpha)


def _restore_all(num: int, jobs: Iterator[Job], restorer: Restorer, log: _Log) -> RestoreResult:
    written: list[Path] = []
    failed: list[tuple[str, str]] = []
    skipped = 0
    with Progress("restore", num, unit="pictures") as progress:
        for job in jobs:
            done = len(written) + len(failed)
            if log.holds(job):
                skipped += 1
                written.append(job.target)
                progress.at(done + 1, first=skipped)
                continue
            try:
                log.check(job)
                _restore_job(job, restorer, _teller(progress, job, done, skipped))
            except (ImageError, ConfigError) as error:
                failed.append((job.name, str(error)))
            except OSError as error:  # such as a name that is too long; a failing disk ends everything
                if line := explain(error, job.target):
                    raise DiskError(line) from error
                failed.append((job.name, f"cannot write {job.target}: {error.strerror or error}"))
            else:
                log.add(job)
                written.append(job.target)
            progress.at(done + 1, first=skipped)
    return RestoreResult(written=tuple(written), failed=tuple(failed), num_skipped=skipped)


@contextlib.contextmanager
def _tile_bar() -> Iterator[OnTiles]:
    """Show progress over the tiles of one picture, if it has several."""
    with contextlib.ExitStack() as stack:
        bars: list[Progress] = []

        def tell(tile: int, tiles: int) -> None:
            if tiles > 1 and not bars:
                bars.append(stack.enter_context(Progress("restore", tiles, unit="tiles")))
            if bars:
                bars[0].at(tile, first=1)

        yield tell


def _teller(progress: Progress, job: Job, done: int, first: int) -> OnTiles:
    def tell(tile: int, tiles: int) -> None:
        if tiles > 1:
            progress.at(done, f"({job.name}: tile {tile}/{tiles})", first=first)

    return tell


def _restore_job(job: Job, restorer: Restorer, on_tiles: OnTiles) -> None:
    data = job.read()
    header = check_picture(data, restorer, writing_bytes_per_pixel=writing_bytes(job.format))
    scale = restorer.network.scale
    check_fits(job.target, job.format, header.height * scale, header.width * scale, picture_bytes(header))
    if header.several:
        note(f"{job.name} holds several pictures: only the first is restored")
    picture = decode_picture(data, header)
    del data
    picture = restore_picture(picture, restorer, on_tiles=on_tiles)
    write_picture(job.target, picture, job.format)


def _is_grey(colour: Samples) -> bool:
    red, green, blue = (colour[..., i] for i in range(3))
    return bool((red[0] == green[0]).all()) and np.array_equal(red, green) and np.array_equal(red, blue)


class _Log:
    """What an output folder holds already."""

    def __init__(self, path: Path, entries: Mapping[str, Mapping[str, Any]], source: Path) -> None:
        self._path, self._entries, self._source = path, entries, str(source.resolve())
        self._file = path.open("a", encoding="utf-8")

    def holds(self, job: Job) -> bool:
        entry = self._entries.get(self._file_of(job))
        if entry is None or (entry["name"], entry["stamp"]) != (job.name, job.stamp):
            return False
        moved = not Path(entry.get("source", self._source)).is_dir()  # else a namesake of equal size and time
        return (moved or entry.get("source", self._source) == self._source) and job.target.is_file()

    def check(self, job: Job) -> None:
        """Refuse to replace what was made of another input."""
        entry = self._entries.get(self._file_of(job), {})
        if entry.get("source", self._source) != self._source and job.target.is_file():
            raise ConfigError(f"{job.target} was made of {entry['source']}/{entry['name']}: choose another OUT")

    def add(self, job: Job) -> None:
        line = {"name": job.name, "stamp": job.stamp, "file": self._file_of(job), "source": self._source}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _file_of(self, job: Job) -> str:
        return job.target.relative_to(self._path.parent).as_posix()

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def _open_log(config: RestoreConfig, loaded: LoadedModel) -> Iterator[_Log]:
    path = config.out / LOG
    left_out = ("run", "source", "out", "checkpoint", "device")
    settings = {
        "schema_version": SCHEMA_VERSION, "model": loaded.name, "checkpoint": loaded.file,
        "weights_sha256": sha256_file(config.run / "checkpoints" / loaded.file),
        **{name: value for name, value in to_plain(config).items() if name not in left_out},
    }  # fmt: skip
    entries: dict[str, Mapping[str, Any]] = {}
    lines = _whole_lines(path)
    if lines:
        old = lines[0]
        changed = [name for name in settings if old.get(name) != settings[name]]
        if changed:
            what = ", ".join(f"{name} was {old.get(name)}, now {settings[name]}" for name in changed)
            raise ConfigError(f"{config.out} was made with other settings ({what}); choose another OUT")
        entries = {line["file"]: line for line in lines[1:]}
    text = "".join(json.dumps(line) + "\n" for line in (settings, *entries.values()))
    write_bytes(path, text.encode())
    log = _Log(path, entries, config.source)
    try:
        yield log
    finally:
        log.close()


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Read the log; a last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    try:
        return [dict(json.loads(line)) for line in lines]
    except ValueError as error:
        raise ManifestError(f"{path} is no log of restored pictures: {error}") from error

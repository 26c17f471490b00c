"""Use a trained network on pictures of any size: `restore(RestoreConfig) -> RestoreResult`.

Large pictures go through in tiles (restoration/tiling.py). Pictures come out upright (EXIF applied) as 8-bit PNG without
metadata; an embedded colour profile is not carried over.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from curate.core.artifacts import write_bytes
from curate.core.console import Progress, note
from curate.core.errors import ConfigError, DecodeError
from curate.core.images import SUFFIXES, decode_image, encode_image

from .bound import bind
from .checkpoint import load_run
from .degradations import Pixels
from .tiling import ALIGN_PX, restore_image
from .trainer import choose_device


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreConfig:
    """One job.

    Attributes:
        run: RUN folder.
        source: a picture, or a folder of pictures (subfolders included).
        out: for a picture a PNG file or a folder, for a folder a folder.
        depth: `s`, `l` or counts such as `4,6,6,8`; "" takes the one it was trained with.
        checkpoint: `last` or `best`.
        device: `auto`, `cpu`, `cuda`, ...
        tile_px: pictures with a longer side are cut into tiles of this side.
        overlap_px: neighbouring tiles share at least this many pixels.
    """

    run: Path
    source: Path
    out: Path
    depth: str = ""
    checkpoint: str = "last"
    device: str = "auto"
    tile_px: int = 512
    overlap_px: int = 32

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.tile_px >= 64 or self.tile_px % ALIGN_PX:
            raise ConfigError(f"restore.tile_px must be a multiple of {ALIGN_PX} and >= 64, got {self.tile_px}")
        if not ALIGN_PX <= self.overlap_px <= self.tile_px // 2:
            raise ConfigError(f"restore.overlap_px must be {ALIGN_PX} to tile_px / 2, got {self.overlap_px}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreResult:
    """What was written.

    Attributes:
        written: PNG files, in the order of the inputs.
        failed: inputs that could not be decoded, with the reason; only a folder can have any.
    """

    written: tuple[Path, ...]
    failed: tuple[tuple[Path, str], ...]


def restore(config: RestoreConfig) -> RestoreResult:
    """Restore a picture or a folder of pictures.

    Raises:
        ConfigError: no such run or input, or an output that would overwrite an input.
        DecodeError: the one input picture is damaged.
        NumericsError: the network's output is not finite.
    """
    jobs = _plan(config)
    device = choose_device(config.device)
    loaded = load_run(config.run, which=config.checkpoint)
    network = bind(loaded.module.to(device), depth=config.depth)
    if network.reuse is not None and network.reuse != loaded.module.reuse:
        note(f"these weights were trained at depth {loaded.module.reuse}; depth {network.reuse} is used as asked")

    @torch.inference_mode()
    def run_tile(lq_CHW: Pixels) -> Pixels:
        output = network(torch.from_numpy(lq_CHW)[None].to(device))[0].float().cpu().numpy()
        return np.asarray(output, dtype=np.float32)

    written, failed = [], []
    with Progress("restore", len(jobs), unit="pictures") as progress:
        for source, target in jobs:
            try:
                image = decode_image(source.read_bytes())
            except DecodeError as error:
                if not config.source.is_dir():
                    raise DecodeError(error.reason, f"{source}: {error.detail}") from error
                failed.append((source, str(error)))
            else:
                restored = restore_image(image, run_tile, tile_px=config.tile_px, overlap_px=config.overlap_px)
                write_bytes(target, encode_image(restored, "png"))
                written.append(target)
            progress.step()
    return RestoreResult(written=tuple(written), failed=tuple(failed))


def _plan(config: RestoreConfig) -> list[tuple[Path, Path]]:
    """Pair every input with its output; refuse what would overwrite an input."""
    source, out = config.source, config.out
    if source.is_dir():
        return _plan_folder(source, out)
    if not source.is_file():
        raise ConfigError(f"input {source} does not exist")
    target = out / f"{source.stem}.png" if out.is_dir() or not out.suffix else out
    if target.suffix.lower() != ".png":
        raise ConfigError(f"output {out} must end in .png (restored pictures are written losslessly) or be a folder")
    if target.resolve() == source.resolve():
        raise ConfigError(f"output {target} is the input itself: choose another name")
    return [(source, target)]


def _plan_folder(source: Path, out: Path) -> list[tuple[Path, Path]]:
    if out.is_file():
        raise ConfigError(f"input {source} is a folder, so output {out} must be one too")
    if out.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"output {out} lies inside the input folder {source}: choose a folder outside it")
    inputs = sorted(path for path in source.rglob("*") if path.is_file() and path.suffix.lower() in SUFFIXES)
    if not inputs:
        raise ConfigError(f"input folder {source} holds no picture")
    jobs: dict[Path, Path] = {}
    for path in inputs:
        target = (out / path.relative_to(source)).with_suffix(".png")
        if target in jobs:
            raise ConfigError(f"{jobs[target]} and {path} would both be written to {target}: rename one")
        if target.exists() and target.resolve() in {other.resolve() for other in inputs}:
            raise ConfigError(f"output {target} is one of the inputs: choose another folder")
        jobs[target] = path
    return [(path, target) for target, path in jobs.items()]

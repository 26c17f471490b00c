"""Pictures of a bench: which there are, which belong together, and their pixels with all of their bits.

A bench is a folder of clean pictures, or one with `input/` and `target/` (same names before the dot). Subfolders of those,
hidden files and files whose suffix is no picture's are not looked at. What was done to a file to reach RGB (grey repeated,
alpha on white, 16 bits kept or not) is its `policy`, in the words of `curate/core/images.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curate.core.decode import decode_raw
from curate.core.errors import ConfigError, DecodeError, ImageError
from curate.core.header import read_header
from curate.core.images import SUFFIXES, decode_image, orient, read_facts
from curate.core.images import check_num_bytes as check_file_size

from .degradations import Degradation, Parameters, Pixels, to_pixels
from .degradations.bicubic import resize_bicubic, shrink
from .protocols import Box, EvaluationProtocol, scale_of
from .store import Samples
from .tasks import PAIR_TASKS

_KEPT_DEEP = {"16-to-8", "oriented", "grey-to-rgb", "icc-is-srgb"}  # policies that 16 bits survive


@dataclass(frozen=True, slots=True)
class Case:
    """One picture of a bench: its name before the dot, its damaged file (None: it is made) and its true file."""

    name: str
    input: Path | None
    target: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One picture, damaged.

    Attributes:
        name: before the dot.
        file: name of the true file.
        input: what a network of one size gets; what the identity row measures.
        small: srN: what a network that enlarges gets; None for other tasks.
        target: the truth, of the input's size.
        seed: of the picture's RandomState; None where the damage comes from a file.
        damage: JSON of what was drawn, `degradation` and `parameters` of `restoration.tasks.replay`; None from a file.
        input_policy: what was done to the damaged file to reach RGB; "" if nothing.
        target_policy: the same of the true file.
    """

    name: str
    file: str
    input: Pixels
    small: Pixels | None
    target: Pixels
    seed: int | None
    damage: str | None
    input_policy: str
    target_policy: str


def list_bench(bench: Path, task: str) -> tuple[Case, ...]:
    """List a bench's pictures, sorted by name.

    Raises:
        ConfigError: no such folder, no picture, pictures without a partner, two of one name, or pairs where the task makes
            its own damage (and the reverse).
    """
    if not bench.is_dir():
        raise ConfigError(f"bench {bench} is not a folder")
    paired = (bench / "input").is_dir() and (bench / "target").is_dir()
    if not paired:
        if task in PAIR_TASKS:
            raise ConfigError(
                f"bench {bench} holds no pairs: task {task!r} needs the folders input/ and target/ in it{_folders(bench)}"
            )
        return tuple(Case(name, None, path) for name, path in _pictures(bench).items())
    if task not in PAIR_TASKS and scale_of(task) == 1:
        fits = f"{', '.join(PAIR_TASKS)} and srN can be measured on it; or use {bench / 'target'} as BENCH"
        raise ConfigError(f"bench {bench} holds pairs, task {task!r} makes its own: {fits}")
    inputs, targets = _pictures(bench / "input"), _pictures(bench / "target")
    odd = sorted(inputs.keys() ^ targets.keys())
    if odd:
        side = "target" if odd[0] in inputs else "input"
        raise ConfigError(
            f"bench {bench}: {len(odd)} pictures have no partner, first: {odd[0]} is not in {side}/ "
            "(names must be equal before the dot)"
        )
    return tuple(Case(name, inputs[name], path) for name, path in targets.items())


def prepare(case: Case, task: str, protocol: EvaluationProtocol, degradation: Degradation | None = None) -> Prepared:
    """Read one picture, crop it as the protocol says and damage it, or read its damaged partner.

    Args:
        case: the picture's files.
        task: what is undone.
        protocol: how it is measured.
        degradation: what damages it; None: what `protocol.degradation(task)` returns.

    Raises:
        DecodeError: a file is damaged; named.
        ConfigError: a pair whose sizes do not fit.
        ImageError: a picture too small for the task.
    """
    truth, target_policy = read_samples(case.target)
    seed: int | None = None
    damage: str | None = None
    try:
        box = protocol.box(truth.shape[0], truth.shape[1], task)
        target = _cut(truth, box)
        if case.input is None:
            made = degradation or protocol.degradation(task)
            drawn = protocol.draw(made, case.target.name, task, (target.shape[1], target.shape[2]))
            small, damaged = _damage(target, made, drawn, scale_of(task))
            damage = json.dumps({"degradation": made.name, "parameters": drawn}, allow_nan=False)
            seed, input_policy = protocol.seed(case.target.name, task), ""
        else:
            small, damaged, input_policy = _read_damaged(case.input, truth.shape, box, task)
    except ImageError as error:
        if isinstance(error, DecodeError):
            raise
        raise ImageError(f"{case.target}: {error}") from error
    return Prepared(
        name=case.name, file=case.target.name, input=damaged, small=small, target=target, seed=seed, damage=damage,
        input_policy=input_policy, target_policy=target_policy,
    )  # fmt: skip


def read_samples(path: Path) -> tuple[Samples, str]:
    """Read a picture with all of its bits.

    Args:
        path: a file of any format that `curate` reads.

    Returns:
        (H, W, 3) RGB and its policy: uint16 of a 16-bit file (policy `16-kept` for `16-to-8`) unless it holds alpha, a
        profile or another encoding that must be converted, which is done in 8 bits; else uint8.

    Raises:
        DecodeError: the file is unreadable or damaged; named.
    """
    try:
        check_file_size(path.stat().st_size)
        data = path.read_bytes()
        facts = read_facts(data)
        codes = [code for code in facts.policy.split(",") if code]
        if "16-to-8" not in codes or not set(codes) <= _KEPT_DEEP:
            return decode_image(data, facts), facts.policy
        raw = decode_raw(data, read_header(data))
    except OSError as error:
        raise DecodeError("unreadable", f"{path}: {error.strerror}") from error
    except DecodeError as error:
        raise DecodeError(error.reason, f"{path}: {error.detail}") from error
    colour = raw.colour if raw.colour.shape[2] == 3 else np.repeat(raw.colour, 3, axis=2)
    upright = colour if raw.upright else orient(colour, facts.orientation)  # type: ignore[arg-type]
    return np.ascontiguousarray(upright), facts.policy.replace("16-to-8", "16-kept")


def enlarge(image_CHW: Pixels, scale: int) -> Pixels:
    """Enlarge by MATLAB's bicubic, clipped to [0, 1], not rounded: what a network of one size gets."""
    _, height, width = image_CHW.shape
    large = resize_bicubic(image_CHW, height * scale, width * scale, scale=float(scale))
    return np.ascontiguousarray(np.clip(large, 0, 1), dtype=np.float32)


def _damage(target_CHW: Pixels, made: Degradation, drawn: Parameters, scale: int) -> tuple[Pixels | None, Pixels]:
    if scale > 1:
        small = shrink(target_CHW, scale)
        return small, enlarge(small, scale)
    return None, made.render(target_CHW, drawn)


def _read_damaged(path: Path, target_shape: tuple[int, ...], box: Box, task: str) -> tuple[Pixels | None, Pixels, str]:
    """Return (small picture or None, picture of the target's size, policy)."""
    damaged, policy = read_samples(path)
    scale = scale_of(task)
    wanted = (target_shape[0] // scale, target_shape[1] // scale)
    if damaged.shape[:2] != wanted:
        got = f"input is {_size(damaged.shape)}, target {_size(target_shape)}"
        raise ConfigError(f"pair {path.stem} of {path.parent.parent}: {got}; {task} wants an input of {_size(wanted)}")
    if scale == 1:
        return None, _cut(damaged, box), policy
    part = Box(box.top // scale, box.left // scale, box.height // scale, box.width // scale)
    small = _cut(damaged, part)
    return small, enlarge(small, scale), policy


def _cut(image: Samples, box: Box) -> Pixels:
    return to_pixels(image[box.top : box.top + box.height, box.left : box.left + box.width])


def _pictures(folder: Path) -> dict[str, Path]:
    """Map names before the dot to files, sorted by file name."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        if found.setdefault(path.stem, path) != path:
            raise ConfigError(
                f"bench {folder} holds {found[path.stem].name} and {path.name}: names must differ before the dot"
            )
    if not found:
        raise ConfigError(f"bench {folder} holds no picture{_folders(folder)}")
    return found


def _folders(folder: Path) -> str:
    below = sorted(path.name for path in folder.iterdir() if path.is_dir())
    return f"; it holds the folders {', '.join(below[:5])}" if below else ""


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"

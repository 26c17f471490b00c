"""Named evaluation protocols: crop, damage, clipping, rounding, colours, border, metrics, fixed together.

So no number stands alone: what a protocol does is `facts`, in words, and stands in every output.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from curate.core.config import to_plain
from curate.core.errors import ImageError, PluginError

from .degradations import Degradation, Pixels
from .degradations.bicubic import Plugin as Bicubic
from .degradations.gaussian_noise import Plugin as GaussianNoise
from .degradations.jpeg import Plugin as Jpeg
from .metrics import Array, gaussian_ssim, luma_bt601, psnr, ssim
from .tasks import CHAIN, CHAIN_PREFIX, PAIR_TASKS, make_degradation, settings_hash

_NOISE = re.compile(r"noise([\d-]+)$")
_FIXED_NOISE = re.compile(r"noise\d+$")
_SSIMS: Mapping[str, tuple[Callable[[Array, Array], float], str]] = MappingProxyType({
    "uniform": (ssim, "7x7 uniform window, sample covariance, K 0.01 and 0.03, 3 px border without a window"),
    "gaussian": (gaussian_ssim, "11x11 Gaussian window of sigma 1.5, K 0.01 and 0.03, valid region"),
})  # fmt: skip
_STORED = {"floor": "clipped to [0, 255] and floored to 8 bits", "none": "neither clipped nor rounded"}


@dataclass(frozen=True, slots=True)
class Box:
    """The part of a picture that is measured: offsets and sides in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationProtocol:
    """How pictures become numbers.

    Attributes:
        name: stands beside every number.
        crop_multiple_px: pictures are centre-cropped to multiples of this before they are damaged; 1: not cropped.
        noise_storage: what becomes of noisy pictures: `floor` or `none` (see `degradations/gaussian_noise.py`).
        seeded_by_name: True: each picture's RandomState is seeded by the CRC-32 of its file name and the noise's strength;
            False: for noiseN by 0, so that pictures of one size get the same noise; else as if True, as a strength would
            else be drawn once for all pictures.
        rounds_output: True: outputs (and inputs, for the identity row) are rounded to 8 bits before they are measured.
        on_luma: True: measured on the Y of BT.601; False: on RGB.
        ssim_window: `uniform` or `gaussian`.
        cuts_border: True: srN is measured without a border of N px.
    """

    name: str
    crop_multiple_px: int
    noise_storage: str
    seeded_by_name: bool
    rounds_output: bool
    on_luma: bool
    ssim_window: str
    cuts_border: bool

    def box(self, height: int, width: int, task: str) -> Box:
        """Choose what is kept of a clean picture.

        Sides become multiples of `crop_multiple_px` and of the task's scale (of the scale alone where they are too short for
        both), cut around the centre, with offsets that are multiples of the scale, so that a small picture's pixels are not
        cut through.

        Raises:
            ImageError: a side shorter than the scale.
        """
        scale = scale_of(task)
        sides, offsets = [], []
        for side in (height, width):
            kept = side - side % math.lcm(self.crop_multiple_px, scale) or side - side % scale
            if kept == 0:
                raise ImageError(f"a picture of {width}x{height} is too small for {task}")
            offset = (side - kept) // 2
            sides.append(kept)
            offsets.append(offset - offset % scale)
        return Box(*offsets, *sides)

    def degradation(self, task: str) -> Degradation:
        """Return what damages clean pictures of a task.

        Raises:
            PluginError: no such task, or one that is measured on pairs.
        """
        plugin = make_degradation(task)
        if isinstance(plugin, GaussianNoise):
            return dataclasses.replace(plugin, storage=self.noise_storage)
        return plugin

    def seed(self, file: str, task: str) -> int:
        """Return the seed of one picture's RandomState, from its file name and the task alone.

        Example:
            >>> PROMPTIR.seed("0000.png", "noise25") == zlib.crc32(b"0000.png:25")
            True
        """
        return zlib.crc32(f"{file}:{_strength(task)}".encode()) if self._seeded_by_name(task) else 0

    def generator(self, file: str, task: str) -> np.random.RandomState:
        """Start the random stream of one picture."""
        return np.random.RandomState(self.seed(file, task))

    def draw(self, degradation: Degradation, file: str, task: str, size: tuple[int, int]) -> dict[str, Any]:
        """Draw what becomes of one picture: `degradation.render` (or `tasks.replay`) makes it of these values.

        Args:
            degradation: what `degradation(task)` returned.
            file: the picture's file name.
            task: what is undone.
            size: (height, width) of the picture.
        """
        if isinstance(degradation, GaussianNoise) and degradation.is_fixed:
            return degradation.published(self.seed(file, task))
        return degradation.draw(self.generator(file, task), *size)

    def border_px(self, task: str) -> int:
        """Return how many pixels at each side are not measured."""
        return scale_of(task) if self.cuts_border and scale_of(task) > 1 else 0

    def judge(self, image_CHW: Array) -> Pixels:
        """Clamp a picture to [0, 1] and, if the protocol says so, round it to 8 bits: what is measured and shown."""
        clamped = np.clip(image_CHW, 0, 1).astype(np.float32)
        return np.rint(clamped * np.float32(255)) / np.float32(255) if self.rounds_output else clamped

    def measure(self, judged_CHW: Array, target_CHW: Array, task: str) -> dict[str, float]:
        """Compare a judged picture with the truth: `psnr_db` and `ssim`.

        Raises:
            ImageError: shapes differ, or a side is too short for the window.
            NumericsError: a value is not finite.
        """
        output, target = judged_CHW, target_CHW
        if self.on_luma:
            output, target = luma_bt601(output), luma_bt601(target)
        border = self.border_px(task)
        if min(output.shape[1:]) <= 2 * border:
            raise ImageError(f"a picture of {output.shape[2]}x{output.shape[1]} is all border ({border} px)")
        if border:
            inside = (slice(None), slice(border, -border), slice(border, -border))
            output, target = output[inside], target[inside]
        return {"psnr_db": psnr(output, target), "ssim": _SSIMS[self.ssim_window][0](output, target)}

    def facts(self, task: str, *, paired: bool, degradation: Degradation | None = None) -> dict[str, str]:
        """Say in words what is done: topic -> sentence, in the order of the work.

        Args:
            task: what is undone.
            paired: the damaged pictures come from files.
            degradation: what damages the others; None: what `degradation(task)` returns.
        """
        made = None if paired else degradation or self.degradation(task)
        crop, scale = self.crop_multiple_px, scale_of(task)
        unit = math.lcm(crop, scale)
        cropped = (
            "none"
            if unit == 1
            else f"to multiples of {unit} px" + (" around the centre" if crop > 1 else " at the right and bottom")
        )
        rounded = "output and identity row to 8 bits, half to even" if self.rounds_output else "none"
        colour = (
            "Y of BT.601, 16 to 235, not rounded (MATLAB's rgb2ycbcr)" if self.on_luma else "RGB, all three channels"
        )
        return {
            "protocol": self.name,
            "crop": cropped,
            "damage": "as in the files of input/" if made is None else self._damage_in_words(task, made),
            "clipping": "output and identity row clamped to [0, 1]",
            "rounding": rounded,
            "colour": colour,
            "border": f"{self.border_px(task)} px removed",
            "psnr_db": "dB, peak 1, of each picture; then the mean over pictures",
            "ssim": f"{_SSIMS[self.ssim_window][1]}; mean over {'' if self.on_luma else 'channels, then over '}pictures",
        }  # fmt: skip

    def _damage_in_words(self, task: str, made: Degradation) -> str:
        if isinstance(made, Bicubic):
            return f"MATLAB's bicubic to 1/{made.scale}, rounded to 8 bits; enlarged by it again for the identity row"
        if isinstance(made, Jpeg):
            words, drawn = _range(made.min_quality, made.max_quality)
            chroma = ":".join(made.subsampling)
            quality = f"JPEG of quality {words}, chroma {chroma}, by libjpeg-turbo"
            return f"{quality}, {self._stream(task)}" if drawn else quality
        if isinstance(made, GaussianNoise):
            words = _range(made.min_sigma_levels, made.max_sigma_levels, " levels")[0]
            return f"Gaussian noise of {words}, {_STORED[made.storage]}, {self._stream(task)}"
        if made.name == CHAIN:
            return f"{task}, sha256 of its settings {settings_hash(made)}, {self._stream(task)}"
        return f"{task}: {made.name} with {_settings(made)}, {self._stream(task)}"

    def _stream(self, task: str) -> str:
        by_name = self._seeded_by_name(task)
        seed = f"crc32('FILE:{_strength(task)}')" if by_name else "0"
        return f"RandomState({seed}) for each picture, sorted by name" + (", FILE its name" if by_name else "")

    def _seeded_by_name(self, task: str) -> bool:
        return self.seeded_by_name or _FIXED_NOISE.match(task) is None


def scale_of(task: str) -> int:
    """Return how many times smaller a task makes a picture: N of `srN`, 2 of `bicubic`, 1 of any other."""
    plugin = None if task.startswith(CHAIN_PREFIX) else make_degradation(task)
    return plugin.scale if isinstance(plugin, Bicubic) else 1


def _range(low: float, high: float, unit: str = "") -> tuple[str, bool]:
    """Say a strength, and whether it is drawn."""
    return (f"{low:g}-{high:g}{unit}, drawn for each picture", True) if high > low else (f"{low:g}{unit}", False)


def _settings(degradation: Degradation) -> str:
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in to_plain(degradation).items())


def _strength(task: str) -> str:
    match = _NOISE.match(task)
    return match[1] if match else task


PROMPTIR = EvaluationProtocol(
    name="promptir", crop_multiple_px=16, noise_storage="floor", seeded_by_name=True, rounds_output=False, on_luma=False,
    ssim_window="uniform", cuts_border=False,
)  # fmt: skip
"""Source: spec/dynet.md section 5. The published code draws all noise from one stream in the file system's order, so that
its pictures cannot be made again elsewhere; here a picture's noise depends on its name and the strength alone."""

RESTORMER = EvaluationProtocol(
    name="restormer", crop_multiple_px=1, noise_storage="none", seeded_by_name=False, rounds_output=True, on_luma=False,
    ssim_window="gaussian", cuts_border=False,
)  # fmt: skip
"""Source: spec/dynet.md section 5, spec/ipt.md section 9 (SSIM: Wang's, mean over RGB). For rain that field reports Y:
`ychannel`."""

YCHANNEL = EvaluationProtocol(
    name="ychannel", crop_multiple_px=1, noise_storage="floor", seeded_by_name=True, rounds_output=True, on_luma=True,
    ssim_window="gaussian", cuts_border=True,
)  # fmt: skip
"""Source: spec/ipt.md sections 4, 5 and 9. Y is not rounded, as in EDSR, IPT and BasicSR; MATLAB rounds that of uint8."""

PROTOCOLS: Mapping[str, EvaluationProtocol] = MappingProxyType({p.name: p for p in (PROMPTIR, RESTORMER, YCHANNEL)})


def protocol_by_name(name: str) -> EvaluationProtocol:
    """Return a named protocol.

    Raises:
        PluginError: no such protocol; lists all.
    """
    if name not in PROTOCOLS:
        raise PluginError(f"no protocol called {name!r}; known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def check_task(task: str) -> None:
    """Raise PluginError or ConfigError unless `task` can be measured."""
    if task not in PAIR_TASKS:
        make_degradation(task)

"""Resize and come back: what pictures go through on their way across the web, without the care MATLAB takes.

Source: spec/ipt.md 8.7: Real-ESRGAN and BSRGAN resize up, down or not at all, by area, bilinear or bicubic filters without
antialias (OpenCV's and torch's). `back=False` leaves the new size; only a chain may use it, which comes back at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from curate.core.errors import ConfigError

from . import Parameters, Pixels, Rng, check_pixels, clipped, render_drawn
from ._batch import batch_method
from ._draws import between, check_name, check_range, check_shares, choose
from ._taps import MODES, resample, resample_batch, taps_of

DIRECTIONS = ("up", "down", "keep")
LAWS = ("frac", "factor")
RELATIVE = ("current", "target")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A size and two filters drawn for every picture.

    Attributes:
        direction_shares: odds of enlarging, shrinking and keeping the size.
        min_frac: new side over old side; lower end of shrinking.
        max_frac: upper end of enlarging. Below 1 both directions end there.
        law: draw uniformly the `frac`, or its inverse, the `factor`.
        mode_shares: odds of area, bilinear, bicubic and nearest.
        relative_to: `current` size, or in a chain its `target` size (elsewhere the same).
        back: return to the size the picture came with.
    """

    name: ClassVar[str] = "resize"
    direction_shares: tuple[float, ...] = (0.2, 0.8, 0.0)  # a size that stays is a step of chains
    min_frac: float = 0.15
    max_frac: float = 1.5
    law: str = "frac"
    mode_shares: tuple[float, ...] = (1.0, 1.0, 1.0, 0.0)
    relative_to: str = "current"
    back: bool = True

    def __post_init__(self) -> None:
        """Check ranges."""
        check_shares(self.name, "direction_shares", self.direction_shares, len(DIRECTIONS))
        check_range(self.name, "frac", self.min_frac, self.max_frac, least=0.01, most=8)
        check_name(self.name, "law", self.law, LAWS)
        check_shares(self.name, "mode_shares", self.mode_shares, len(MODES))
        check_name(self.name, "relative_to", self.relative_to, RELATIVE)
        if self.direction_shares[0] > 0 and self.max_frac < 1:
            raise ConfigError(f"resize enlarges with odds {self.direction_shares[0]}, but max_frac is {self.max_frac}")
        if self.back and not any(self.mode_shares[:3]):
            raise ConfigError(
                f"resize comes back by {', '.join(MODES[:3])}, but mode_shares gives them none: got {list(self.mode_shares)}; "
                "give one a share, or set back = false in a chain"
            )

    def draw(self, rng: Rng, height: int, width: int) -> dict[str, Any]:
        """Draw the new size and the filters."""
        return self.draw_in_chain(rng, (height, width), (height, width))

    def draw_in_chain(self, rng: Rng, current: tuple[int, int], target: tuple[int, int]) -> dict[str, Any]:
        """Draw where the size a chain will end with is not the size it has now."""
        direction = choose(rng, DIRECTIONS, self.direction_shares)
        frac = self._draw_frac(rng, direction)
        height, width = (
            max(1, round(frac * side)) for side in (target if self.relative_to == "target" else current)
        )  # fmt: skip
        return {
            "height": height, "width": width, "mode": choose(rng, MODES, self.mode_shares),
            "back": choose(rng, MODES[:3], self.mode_shares[:3]) if self.back else "",
        }  # fmt: skip

    def render(self, image_CHW: Pixels, parameters: Parameters) -> Pixels:
        """Return a resized copy, of its old size again where the parameters say so."""
        check_pixels(image_CHW, where=self.name)
        small = resized(image_CHW, parameters["height"], parameters["width"], parameters["mode"])
        return (
            resized(small, image_CHW.shape[1], image_CHW.shape[2], parameters["back"]) if parameters["back"] else small
        )

    def apply(self, image_CHW: Pixels, rng: Rng) -> Pixels:
        """Return a damaged copy of a (3, H, W) float32 image."""
        return render_drawn(self, image_CHW, rng)

    @batch_method
    def render_batch(self, x_BCHW: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Return resized copies of a batch, picture by picture, as each has its own size."""
        damaged = []
        for x_1CHW, values in zip(torch.split(x_BCHW, 1), parameters, strict=True):
            small = resized_batch(x_1CHW, values["height"], values["width"], values["mode"])
            damaged.append(
                resized_batch(small, x_BCHW.shape[2], x_BCHW.shape[3], values["back"]) if values["back"] else small
            )
        return torch.cat(damaged)

    def _draw_frac(self, rng: Rng, direction: str) -> float:
        if direction == "keep":
            return 1.0
        low, high = (1.0, self.max_frac) if direction == "up" else (self.min_frac, min(self.max_frac, 1.0))
        low = min(low, high)
        return 1 / between(rng, 1 / high, 1 / low) if self.law == "factor" else between(rng, low, high)


def resized(image_CHW: Pixels, height: int, width: int, mode: str) -> Pixels:
    """Resize a (3, H, W) picture with one of `MODES`, clipped to [0, 1]."""
    if image_CHW.shape[1:] == (height, width):
        return clipped(image_CHW)
    rows, columns = taps_of(mode, image_CHW.shape[1], height), taps_of(mode, image_CHW.shape[2], width)
    return clipped(resample(image_CHW, rows, columns))


def resized_batch(x_BCHW: Tensor, height: int, width: int, mode: str) -> Tensor:
    """Do the same for a batch on its device."""
    if x_BCHW.shape[2:] == (height, width):
        return x_BCHW.clamp(0, 1)
    rows, columns = taps_of(mode, x_BCHW.shape[2], height), taps_of(mode, x_BCHW.shape[3], width)
    return resample_batch(x_BCHW, rows, columns).clamp(0, 1)

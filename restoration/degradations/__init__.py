"""Damage made on the fly, one file each: `class Plugin`, a frozen dataclass of ranges, after the protocol `Degradation`.

An image is (3, H, W) float32 in [0, 1], RGB. What is random is drawn first, into plain values (`draw`), and drawn values
alone decide the pixels (`render`): recorded in JSON, they make the same picture again, with any settings of the plug-in.
`render` is single-threaded NumPy, OpenCV or a real codec, for loader threads; `render_batch` is the same formula in torch
on the training device. Adding a degradation is adding a file; the contract test finds it by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ImageError

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.float32]
"""(3, H, W) float32, nominally in [0, 1], RGB."""

Rng = np.random.Generator | np.random.RandomState
"""RandomState only because published protocols are defined by its stream; everything of ours draws from Generator."""

Parameters = Mapping[str, Any]
"""What was drawn for one picture: plain JSON values. Random pixels are named by an integer `seed`."""


class Degradation(Protocol):
    """What every `Plugin` of this folder can do."""

    @property
    def name(self) -> str:
        """The file's name."""
        ...

    def draw(self, rng: Rng, height: int, width: int) -> dict[str, Any]:
        """Draw the parameters for a picture of this size."""
        ...

    def render(self, image_CHW: Pixels, parameters: Parameters) -> Pixels:
        """Return a damaged copy; a pure function of its arguments."""
        ...

    def apply(self, image_CHW: Pixels, rng: Rng) -> Pixels:
        """Return a damaged copy: draw, then render."""
        ...

    def render_batch(self, x_BCHW: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Return damaged copies of a batch on its own device, one set of parameters per picture."""
        ...


def check_pixels(image_CHW: Pixels, *, where: str) -> None:
    """Raise ImageError unless `image_CHW` is (3, H, W) float32 with at least one pixel."""
    if image_CHW.dtype != np.float32 or image_CHW.ndim != 3 or image_CHW.shape[0] != 3 or 0 in image_CHW.shape:
        raise ImageError(
            f"{where}: wanted a (3, H, W) float32 image, got shape {image_CHW.shape}, dtype {image_CHW.dtype}"
        )


def render_drawn(plugin: Degradation, image_CHW: Pixels, rng: Rng) -> Pixels:
    """Draw and render: what `apply` does everywhere."""
    check_pixels(image_CHW, where=plugin.name)
    return plugin.render(image_CHW, plugin.draw(rng, *image_CHW.shape[1:]))


def clipped(image_CHW: NDArray[np.floating]) -> Pixels:
    """Clip to [0, 1], as C-contiguous float32 of its own memory."""
    return np.ascontiguousarray(np.clip(image_CHW, 0, 1), dtype=np.float32)


def to_levels(image_CHW: Pixels) -> NDArray[np.uint8]:
    """Round to 8 bits: (3, H, W) float32 in [0, 1], clipped, to (H, W, 3) uint8, C-contiguous."""
    levels_CHW = np.clip(np.rint(image_CHW * np.float32(255)), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(levels_CHW.transpose(1, 2, 0))


def to_pixels(image_HWC: NDArray[np.uint8 | np.uint16]) -> Pixels:
    """Turn (H, W, 3) uint8 or uint16 into (3, H, W) float32 in [0, 1], C-contiguous: the only such conversion in the package.

    The same picture in 8 and in 16 bits (times 257) gives the same floats.
    """
    full = np.float32(np.iinfo(image_HWC.dtype).max)
    return np.ascontiguousarray(image_HWC.transpose(2, 0, 1), dtype=np.float32) / full

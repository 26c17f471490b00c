"""The forward of a transformer that is not a plain one: the model's own, with normalised pixels.

For timm's variants (rotary positions, gated MLPs, query norms, attention pools); slower than `_lean_vit`, right
by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._vit_parts import PIXEL_LEVELS

if TYPE_CHECKING:
    import torch


class EagerVit:
    """A module's own forward to hidden states."""

    def __init__(
        self, module: Any, forward: Callable[[Any], Any], mean: Sequence[float], std: Sequence[float], *,
        precision: str, device: str,
    ) -> None:  # fmt: skip
        import torch

        self._module, self._forward = module.requires_grad_(False).to(device), forward
        self._device, self._reduced = torch.device(device), precision == "bf16"
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=device).view(1, 3, 1, 1)

    def hidden(self, images_NHWC: NDArray[np.uint8]) -> torch.Tensor:
        """As `LeanVit.hidden`; in bfloat16 by autocast."""
        import torch

        pixels = torch.from_numpy(np.ascontiguousarray(images_NHWC)).to(self._device)
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._reduced):
            x_BCHW = (pixels.permute(0, 3, 1, 2).float() / PIXEL_LEVELS - self._mean) / self._std
            states: torch.Tensor = self._forward(x_BCHW)
            return states.float()

    def hidden_of(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """As `LeanVit.hidden_of`."""
        mean, std = self._mean.to(x_BCHW.device), self._std.to(x_BCHW.device)
        if x_BCHW.device != self._device:
            self._module.to(x_BCHW.device)
            self._device = x_BCHW.device
        states: torch.Tensor = self._forward((x_BCHW.float() - mean) / std)
        return states

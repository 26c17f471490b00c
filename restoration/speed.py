"""How a network is run fast: bfloat16 and `torch.compile`, both off unless asked for (on GPUs `auto` means bfloat16).

Float32 without compilation is fast already (restoration/models/_kernels.py) and is the only mode whose outputs equal the
published formula to 1e-4. What the others gain and cost: docs/speed.md.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from curate.core.errors import ConfigError

from .models import channels_last
from .models._precision import float32_exactly

PRECISIONS = ("auto", "float32", "bf16")


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Say whether a precision means bfloat16 on a device: `auto` does so on CUDA only.

    Raises:
        ConfigError: not one of PRECISIONS.

    Example:
        >>> uses_bf16("auto", torch.device("cpu")), uses_bf16("bf16", torch.device("cpu"))
        (False, True)
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    return precision == "bf16" or (precision == "auto" and device.type == "cuda")


def accelerate(module: nn.Module, *, precision: str = "auto", compiled: bool = False) -> Accelerated:
    """Wrap a network of `restoration.models` so that calls are fast; for training and for use.

    The weights stay float32, shared with `module`, whose convolutions are laid out channels-last in place. Move `module` to
    its device first.

    Args:
        module: the network.
        precision: `float32` (on CUDA without TF32; backward passes see to it themselves, as `Trainer.step` does); `bf16`:
            products in bfloat16 (autocast), norms, softmax and sums in float32; or `auto`: bf16 on CUDA only.
        compiled: fuse with `torch.compile`: the first call of a kind (training or not) takes minutes on a CPU, one with
            another size or depth compiles once more; needs a C++ compiler (Triton on CUDA). Networks bound to shared
            statistics (tiles) must not be compiled.

    Returns:
        A module that is called like `module` and has its attributes; outputs are in the dtype of the input.

    Raises:
        ConfigError: no such precision.

    Example:
        >>> from restoration import make_model
        >>> accelerate(make_model("tiny"), precision="bf16")(torch.rand(1, 3, 8, 8)).dtype
        torch.float32
    """
    return Accelerated(module, precision=precision, compiled=compiled)


class Accelerated(nn.Module):
    """See `accelerate`. Unknown attributes (`config`, `tasks`, `reuse`, ...) are those of `module`."""

    def __init__(self, module: nn.Module, *, precision: str, compiled: bool) -> None:
        super().__init__()
        uses_bf16(precision, torch.device("cpu"))  # refuses nonsense before the first call
        self.module = channels_last(module)
        self._precision = precision
        self._run: Callable[..., Tensor] = torch.compile(module.forward) if compiled else module.__call__

    def forward(self, x_BCHW: Tensor, choice: Any = None) -> Tensor:
        """Run the network; same shape as its own output."""
        last_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        bf16 = uses_bf16(self._precision, x_BCHW.device)
        exactly = nullcontext() if bf16 else float32_exactly(x_BCHW.device.type)
        with exactly, torch.autocast(x_BCHW.device.type, torch.bfloat16, enabled=bf16):
            return self._run(last_BCHW, choice).to(x_BCHW.dtype)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

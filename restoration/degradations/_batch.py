"""What the torch versions share: one check and float32 on the way in, per-picture numbers and random fields on the device.

Random fields come from a torch.Generator on the batch's device, seeded with each picture's own `seed`: the same for any
batch around it, but other pixels than `render` draws from NumPy (and other ones on another kind of device). Their law is the
same. Limit: autocast is switched off inside, so a bf16 training step damages its pictures in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curate.core.errors import ImageError

from . import Parameters, Pixels

P = TypeVar("P")
Method = Callable[[P, Tensor, Sequence[Parameters]], Tensor]


def batch_method(function: Method[P]) -> Method[P]:
    """Check a batch, compute in float32 without autocast, clip, and return the type that came in."""

    @functools.wraps(function)
    def checked(plugin: P, x_BCHW: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        name = getattr(plugin, "name", "degradation")
        if x_BCHW.ndim != 4 or x_BCHW.shape[1] != 3 or 0 in x_BCHW.shape or not x_BCHW.is_floating_point():
            raise ImageError(
                f"{name}: wanted a (B, 3, H, W) floating batch, got shape {tuple(x_BCHW.shape)}, {x_BCHW.dtype}"
            )
        if len(parameters) != len(x_BCHW):
            raise ImageError(f"{name}: {len(x_BCHW)} pictures, but parameters for {len(parameters)}")
        with torch.autocast(x_BCHW.device.type, enabled=False):
            return function(plugin, x_BCHW.float(), parameters).to(x_BCHW.dtype)

    return checked


def per_picture(values: Iterable[float], like: Tensor) -> Tensor:
    """Make a (B, 1, 1, 1) float32 tensor on the device of `like`."""
    return torch.tensor(list(values), dtype=torch.float32, device=like.device).view(-1, 1, 1, 1)


def flags(values: Iterable[bool], like: Tensor) -> Tensor:
    """Make a (B, 1, 1, 1) mask on the device of `like`."""
    return torch.tensor(list(values), dtype=torch.bool, device=like.device).view(-1, 1, 1, 1)


def generators(parameters: Sequence[Parameters], like: Tensor) -> list[torch.Generator]:
    """Start one generator per picture from its `seed`."""
    return [torch.Generator(device=like.device).manual_seed(int(values["seed"])) for values in parameters]


def normal_fields(streams: Sequence[torch.Generator], shape: Sequence[int], like: Tensor) -> Tensor:
    """Draw (B, *shape) standard normal numbers."""
    return torch.stack([torch.randn(tuple(shape), generator=stream, device=like.device) for stream in streams])


def uniform_fields(streams: Sequence[torch.Generator], shape: Sequence[int], like: Tensor) -> Tensor:
    """Draw (B, *shape) numbers uniform in [0, 1)."""
    return torch.stack([torch.rand(tuple(shape), generator=stream, device=like.device) for stream in streams])


def upload(array: NDArray[Any], like: Tensor) -> Tensor:
    """Copy a small host array to the device, float32 if it is floating."""
    tensor = torch.from_numpy(np.array(array))  # a copy: cached arrays are read-only
    return tensor.to(device=like.device, dtype=torch.float32 if tensor.is_floating_point() else tensor.dtype)


def on_the_host(
    render: Callable[[Pixels, Parameters], Pixels], x_BCHW: Tensor, parameters: Sequence[Parameters]
) -> Tensor:
    """Run `render` picture by picture on the CPU: for real codecs, which exist nowhere else."""
    images = x_BCHW.detach().cpu().numpy()
    damaged = [render(np.ascontiguousarray(image), values) for image, values in zip(images, parameters, strict=True)]
    return torch.from_numpy(np.stack(damaged)).to(x_BCHW.device)

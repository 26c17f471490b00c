"""Layers of falling things: sparse seeds, each drawn out into a streak or flake, summed. Rain and snow are made of them.

A layer is `{kind, density, length_px, angle_deg, width_px, weight}`: `streak` or `flake`, the share of pixels where one lies,
its kernel's shape (peak 1), and its brightness. A seed's own brightness is uniform in [0.5, 1] (spec/ipt.md 8.1). The field is
wider than the picture, so that streaks also enter from outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import Parameters, Pixels
from ._batch import generators
from ._filters import Kernel, convolve_inside, convolve_planes
from ._kernels import flake_kernel, streak_kernel

MIN_SEED_WEIGHT = 0.5

Layer = Mapping[str, Any]


def streaks(parameters: Parameters, height: int, width: int) -> Pixels:
    """Make the (H, W) sum of all layers of one picture, 0 to 1."""
    rng = np.random.default_rng(parameters["seed"])
    total = np.zeros((height, width), np.float32)
    for layer in parameters["layers"]:
        kernel = _kernel(layer)
        half = kernel.shape[0] // 2
        field = np.zeros((height + 2 * half, width + 2 * half), np.float32)
        num = rng.binomial(field.size, layer["density"])
        field.reshape(-1)[rng.integers(field.size, size=num)] = rng.uniform(MIN_SEED_WEIGHT, 1, num)
        drawn_out = convolve_planes(field, kernel)[half : half + height, half : half + width]
        total += np.float32(layer["weight"]) * np.clip(drawn_out, 0, 1)
    return np.clip(total, 0, 1)


def streaks_batch(parameters: Sequence[Parameters], like: Tensor) -> Tensor:
    """Make such sums on the device: (B, 1, H, W); other streaks of the same law."""
    pictures = []
    for values, stream in zip(parameters, generators(parameters, like), strict=True):
        total = torch.zeros((1, 1, *like.shape[2:]), device=like.device)
        for layer in values["layers"]:
            total += layer["weight"] * _layer_on_device(layer, stream, like).clamp(0, 1)
        pictures.append(total.clamp(0, 1))
    return torch.cat(pictures)


def _layer_on_device(layer: Layer, stream: torch.Generator, like: Tensor) -> Tensor:
    kernel = _kernel(layer)
    margin = 2 * (kernel.shape[0] // 2)
    shape = (1, 1, like.shape[2] + margin, like.shape[3] + margin)
    fate, weight = (torch.rand(shape, generator=stream, device=like.device) for _ in range(2))
    field = torch.where(fate < layer["density"], MIN_SEED_WEIGHT + (1 - MIN_SEED_WEIGHT) * weight, 0.0)
    return convolve_inside(field, [kernel])


def _kernel(layer: Layer) -> Kernel:
    make = flake_kernel if layer["kind"] == "flake" else streak_kernel
    return make(layer["length_px"], layer["angle_deg"], layer["width_px"])

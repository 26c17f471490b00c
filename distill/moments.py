"""What pictures look like to networks that were never trained: means and deviations of three random convolution blocks.

phi_2 keeps what a ViT ignores (brightness, noise, fine texture). A new network is drawn for every step, as in DM.

Source: spec/tripled.md section 4.4; Zhao and Bilen, Dataset Condensation with Distribution Matching, WACV 2023 (ConvNet-3 of
width 128; its `groupnorm` has 4 groups); Sun and Saenko, Deep CORAL, 2016 (covariances).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .field import draw_convolution

if TYPE_CHECKING:
    import torch

BLOCKS, WIDTH, GROUPS = 3, 128, 4
CROP_PX = 224  # spec/tripled.md section 4.4
NUM_MOMENTS = 2 * BLOCKS * WIDTH  # 768
_LEAST_VARIANCE = 1e-8  # keeps the gradient of a constant plane finite


def draw_blocks(rng: np.random.Generator, device: str, dtype: Any) -> list[torch.nn.Sequential]:
    """Make a random ConvNet-3: per block conv 3x3, GroupNorm, ReLU, average pool 2x2; frozen.

    Args:
        rng: draws the convolutions.
        device: where it computes.
        dtype: of weights and inputs.
    """
    from torch import nn

    blocks, channels = [], 3
    for _ in range(BLOCKS):
        convolution = nn.Conv2d(channels, WIDTH, 3, padding=1)
        draw_convolution(convolution, rng)
        block = nn.Sequential(convolution, nn.GroupNorm(GROUPS, WIDTH), nn.ReLU(), nn.AvgPool2d(2))
        blocks.append(block.to(device, dtype).requires_grad_(False))
        channels = WIDTH
    return blocks


def moments(blocks: Sequence[torch.nn.Sequential], crops: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the spatial mean and deviation of every channel of all blocks.

    Args:
        blocks: from `draw_blocks`.
        crops: (3, h, w) float32 in [0, 1] each, sides >= 8; sizes may differ.

    Returns:
        (len(crops), 768) float32, differentiable with respect to the crops.
    """
    import torch

    if len({tuple(crop.shape) for crop in crops}) > 1:
        return torch.cat([moments(blocks, [crop]) for crop in crops])
    values = torch.stack(list(crops)).to(next(blocks[0].parameters()).dtype)
    found = []
    for block in blocks:
        values = block(values)
        plain = values.float()
        found += [plain.mean(dim=(2, 3)), _deviation(plain)]
    return torch.cat(found, dim=1)


def _deviation(values_BCHW: torch.Tensor) -> torch.Tensor:
    """Population deviation over places."""
    result: torch.Tensor = (values_BCHW.var(dim=(2, 3), unbiased=False) + _LEAST_VARIANCE).sqrt()
    return result


def coral(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Squared Frobenius distance of the covariances of (n, r) and (m, r), divided by 4 r^2."""
    difference = covariance(left) - covariance(right)
    result: torch.Tensor = difference.square().sum() / (4 * left.shape[1] ** 2)
    return result


def covariance(rows: torch.Tensor) -> torch.Tensor:
    """Unbiased (r, r) covariance of (n, r) rows; zero of a single row."""
    centred = rows - rows.mean(dim=0)
    result: torch.Tensor = centred.T @ centred / max(1, len(rows) - 1)
    return result

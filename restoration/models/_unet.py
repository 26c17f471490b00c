"""What the U-shaped transformers share beside their blocks: resampling, prompts, padding.

Source: Restormer (Zamir et al., CVPR 2022) and PromptIR (Potlapalli et al., NeurIPS 2023), written from spec/dynet.md
sections 1.1 to 1.3; no code of theirs was read.

Shapes: B batch, C channels, H height, W width, P prompt components, S side of a prompt's grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from curate.core.errors import ConfigError, ImageError

from ..statistics import SharedStatistics
from ._transformer import TransformerBlock


class Embed(nn.Module):
    """First convolution; a module of its own only because checkpoints call it `patch_embed.proj`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, 3, padding=1, bias=False)


class Resample(nn.Module):
    """3x3 convolution, then a pixel shuffle: half or twice the size."""

    def __init__(self, channels: int, out_channels: int, *, down: bool) -> None:
        super().__init__()
        convolved = out_channels // 4 if down else out_channels * 4
        shuffle: nn.Module = nn.PixelUnshuffle(2) if down else nn.PixelShuffle(2)
        self.body = nn.Sequential(nn.Conv2d(channels, convolved, 3, padding=1, bias=False), shuffle)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Halve (`down`) or double height and width."""
        return self.body(x_BCHW)  # type: ignore[no-any-return]


class PromptGenerator(nn.Module):
    """Mixes learned components by the picture's own content: what kind of damage is this?

    `statistics` is the seam of restoration/statistics.py: the mixture, and where the prompt lies over the picture.
    """

    statistics: SharedStatistics | None = None

    def __init__(self, in_channels: int, channels: int, side_px: int, num_prompts: int) -> None:
        super().__init__()
        self.prompt_param = nn.Parameter(torch.rand(1, num_prompts, channels, side_px, side_px))
        self.linear_layer = nn.Linear(in_channels, num_prompts)
        self.conv3x3 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the prompt for these features, (B, channels, H, W)."""
        shared = self.statistics
        if shared is not None and shared.replaying:
            weights_BP = shared.take()
        else:
            mean_BC = (x_BCHW if shared is None else shared.inside(x_BCHW)).mean(dim=(-2, -1))
            mean_BC = mean_BC if shared is None else shared.mean(mean_BC)
            weights_BP = torch.softmax(self.linear_layer(mean_BC), dim=1)
            weights_BP = weights_BP if shared is None else shared.keep(weights_BP)
        prompt_BCSS = torch.einsum("bp,pcij->bcij", weights_BP, self.prompt_param[0])
        size = (x_BCHW.shape[2], x_BCHW.shape[3])
        if shared is None:
            prompt_BCHW = functional.interpolate(prompt_BCSS, size, mode="bilinear", align_corners=False)
        else:
            prompt_BCHW = shared.spread(prompt_BCSS, size)
        return self.conv3x3(prompt_BCHW)  # type: ignore[no-any-return]


def narrow(channels: int, out_channels: int) -> nn.Conv2d:
    """Make a 1x1 convolution without bias."""
    return nn.Conv2d(channels, out_channels, 1, bias=False)


def stack(num: int, channels: int, num_heads: int, expansion: float, norm: str = "with_bias") -> nn.Sequential:
    """Make `num` separate blocks."""
    return nn.Sequential(*(TransformerBlock(channels, num_heads, expansion, norm) for _ in range(num)))


def prompted(x_BCHW: Tensor, prompt: nn.Module, block: nn.Module, narrow: nn.Module) -> Tensor:
    """Join features with the prompt they ask for: (B, C, H, W) to what `narrow` makes of it."""
    return narrow(block(torch.cat([x_BCHW, prompt(x_BCHW)], 1)))  # type: ignore[no-any-return]


def pad_to_multiple(x_BCHW: Tensor, multiple: int) -> Tensor:
    """Pad below and to the right by reflection (by repetition where the picture is too small to reflect)."""
    height, width = x_BCHW.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if not (bottom or right):
        return x_BCHW
    mode = "reflect" if bottom < height and right < width else "replicate"
    return functional.pad(x_BCHW, (0, right, 0, bottom), mode=mode)


def check_batch(x_BCHW: Tensor, name: str) -> None:
    """Raise ImageError unless this is a (B, 3, H, W) batch."""
    if x_BCHW.ndim != 4 or x_BCHW.shape[1] != 3 or 0 in x_BCHW.shape:
        raise ImageError(f"{name}: wanted a (B, 3, H, W) batch, got shape {tuple(x_BCHW.shape)}")


def check_levels(
    name: str,
    channels: tuple[int, ...],
    num_heads: tuple[int, ...],
    prompt_channels: tuple[int, ...] = (),
    heads: int = 1,
) -> None:
    """Check the widths of a U-shaped network: levels 1 to 3 and the latent, and its prompts' where it has them.

    Raises:
        ConfigError: heads that do not divide, channels that cannot be shuffled.
    """
    if any(number % 4 for number in channels[1:]):
        raise ConfigError(f"{name}.channels below level 1 must be multiples of 4 (pixel shuffle), got {channels}")
    pairs = [*zip(channels, num_heads, strict=True), (2 * channels[0], num_heads[0])]
    pairs += [(width + prompt, heads) for width, prompt in zip(channels[1:], prompt_channels, strict=False)]
    for width, number in pairs:
        if width % number:
            raise ConfigError(f"{name}: {number} heads do not divide {width} channels")

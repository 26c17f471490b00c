"""NAFNet: a U-shaped convolutional network without activation functions, cheap for what it restores.

Source: Chen et al., "Simple Baselines for Image Restoration", ECCV 2022: layer norm over channels, two branches multiplied
instead of an activation (SimpleGate), a channel weight from the picture's averages instead of attention (SCA). Our own
writing; parameter names are those of the public checkpoints (MIT), so that these load. Ours: any height and width (padded
inside), and a last convolution that starts at zero, so that an untrained network returns its input.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from curate.core.errors import ConfigError

from ..statistics import SharedStatistics
from . import TrainingDefaults
from ._published import load_exactly
from ._unet import check_batch, pad_to_multiple

NORM_EPS = 1e-6  # inside the square root, as in the public code


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Sizes of a NAFNet; the defaults are `nafnet-small`: 9,706,275 parameters.

    Levels are counted from full resolution, each of half the size and twice the channels of the one above.

    Attributes:
        channels: of the first level.
        encoder_blocks: of each level on the way down; as many levels as numbers.
        middle_blocks: of the lowest level.
        decoder_blocks: of each level on the way up, the lowest first.
    """

    channels: int = 32  # as the paper's small networks
    encoder_blocks: tuple[int, ...] = (2, 2, 4, 6)
    middle_blocks: int = 2
    decoder_blocks: tuple[int, ...] = (2, 2, 2, 2)

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.channels >= 2 or self.channels % 2 or not 0 <= self.middle_blocks <= 64:
            raise ConfigError(f"nafnet.channels must be even and middle_blocks 0 to 64, got {self}")
        if not 1 <= len(self.encoder_blocks) == len(self.decoder_blocks) <= 6:
            raise ConfigError("nafnet needs as many decoder_blocks as encoder_blocks, 1 to 6 of each")
        if not all(0 <= count <= 64 for count in (*self.encoder_blocks, *self.decoder_blocks)):
            raise ConfigError("nafnet.encoder_blocks and decoder_blocks must be counts of 0 to 64")


class _Norm(nn.Module):
    """Layer norm over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BHWC = x_BCHW.permute(0, 2, 3, 1)
        normed_BHWC = functional.layer_norm(x_BHWC, x_BHWC.shape[-1:], self.weight, self.bias, NORM_EPS)
        return normed_BHWC.permute(0, 3, 1, 2)


class _ChannelWeights(nn.Sequential):
    """A weight for each channel from the averages over the whole picture.

    `statistics` is the seam of restoration/statistics.py.
    """

    statistics: SharedStatistics | None = None

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Identity(), nn.Conv2d(channels, channels, 1))  # the first: pooling, counted in checkpoints

    def forward(self, x_BCHW: Tensor) -> Tensor:
        shared = self.statistics
        if shared is not None and shared.replaying:
            return shared.take()
        pooled_BC11 = (x_BCHW if shared is None else shared.inside(x_BCHW)).mean(dim=(2, 3), keepdim=True)
        if shared is None:
            return self[1](pooled_BC11)  # type: ignore[no-any-return]
        return shared.keep(self[1](shared.mean(pooled_BC11)))


class _Block(nn.Module):
    """Mix pixels, then channels; both branches are added with a learned gain that starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = _Norm(channels)
        self.conv1 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.sca = _ChannelWeights(channels)
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.norm2 = _Norm(channels)
        self.conv4 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        gated_BCHW = _gate(self.conv2(self.conv1(self.norm1(x_BCHW))))
        x_BCHW = x_BCHW + self.beta * self.conv3(gated_BCHW * self.sca(gated_BCHW))
        return x_BCHW + self.gamma * self.conv5(_gate(self.conv4(self.norm2(x_BCHW))))  # type: ignore[no-any-return]


class NAFNet(nn.Module):
    """See the module's docstring.

    Example:
        >>> NAFNet(NAFNet.PRESETS["tiny"])(torch.rand(1, 3, 5, 7)).shape
        torch.Size([1, 3, 5, 7])
    """

    config_type: ClassVar = Config
    PRESETS: ClassVar[Mapping[str, Config]] = {
        "small": Config(),
        "tiny": Config(channels=12, encoder_blocks=(1, 1, 1), middle_blocks=1, decoder_blocks=(1, 1, 1)),
    }
    TRAINING: ClassVar[Mapping[str, TrainingDefaults]] = {
        "small": TrainingDefaults(peak_lr=1e-3, batch_size=32, crop_px=128),  # rate and batch of the paper, section 5
        "tiny": TrainingDefaults(peak_lr=2e-3, batch_size=8, crop_px=64),
    }

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.align_px = 1 << len(config.encoder_blocks)
        self.depths: dict[str, tuple[int, ...]] = {}
        self.reuse: tuple[int, ...] = ()
        self.tasks: dict[str, int] = {}
        levels = [config.channels << level for level in range(len(config.encoder_blocks) + 1)]
        rising = levels[-2::-1]
        self.intro = nn.Conv2d(3, levels[0], 3, padding=1)
        self.encoders = nn.ModuleList(map(_blocks, config.encoder_blocks, levels[:-1]))
        self.downs = nn.ModuleList(nn.Conv2d(channels, 2 * channels, 2, stride=2) for channels in levels[:-1])
        self.middle_blks = _blocks(config.middle_blocks, levels[-1])
        self.ups = nn.ModuleList(_up(2 * channels) for channels in rising)
        self.decoders = nn.ModuleList(map(_blocks, config.decoder_blocks, rising))
        self.ending = nn.Conv2d(levels[0], 3, 3, padding=1)
        for parameter in self.ending.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x_BCHW: Tensor, choice: None = None) -> Tensor:
        """Restore a batch.

        Args:
            x_BCHW: (B, 3, H, W) in [0, 1]; any H, W >= 1.
            choice: means nothing here.

        Returns:
            (B, 3, H, W), not clamped.

        Raises:
            ImageError: not (B, 3, H, W).
        """
        check_batch(x_BCHW, "nafnet")
        height, width = x_BCHW.shape[-2:]
        padded_BCHW = pad_to_multiple(x_BCHW, 1 << len(self.downs))
        restored_BCHW = padded_BCHW + self._residual(padded_BCHW).to(x_BCHW.dtype)
        return restored_BCHW[..., :height, :width]

    def _residual(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW, skips = self.intro(x_BCHW), []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            skips.append(encoder(x_BCHW))
            x_BCHW = down(skips[-1])
        x_BCHW = self.middle_blks(x_BCHW)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            x_BCHW = decoder(up(x_BCHW) + skips.pop())
        return self.ending(x_BCHW)  # type: ignore[no-any-return]

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Load parameters under their published names.

        Raises:
            ManifestError: a name is missing or unknown, or a shape differs.
        """
        load_exactly(self, state)


Plugin = NAFNet


def _gate(x_BCHW: Tensor) -> Tensor:
    """Multiply the two halves of the channels."""
    first_BCHW, second_BCHW = x_BCHW.chunk(2, dim=1)
    return first_BCHW * second_BCHW


def _blocks(num: int, channels: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(channels) for _ in range(num)))


def _up(channels: int) -> nn.Sequential:
    """Twice the size, half the channels."""
    return nn.Sequential(nn.Conv2d(channels, 2 * channels, 1, bias=False), nn.PixelShuffle(2))

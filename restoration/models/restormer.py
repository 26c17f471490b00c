"""Restormer: the U-shaped transformer of separate blocks that DyNet and PromptIR build on, without prompts.

Source: Zamir et al., "Restormer", CVPR 2022, written from spec/dynet.md sections 1.1, 1.2 and 3.4 alone (the authors' code is
under a non-commercial licence and was not read). Parameter names are the published ones. Ours: any height and width (padded
inside to a multiple of 8), and an output convolution that starts at zero, so that an untrained network returns its input.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from curate.core.errors import ConfigError, ManifestError

from . import TrainingDefaults
from ._published import load_exactly
from ._transformer import NORMS
from ._unet import Embed, Resample, check_batch, check_levels, narrow, pad_to_multiple, stack


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Sizes of a Restormer; the defaults are the published ones: 26,126,644 parameters.

    Levels are counted from full resolution; source of every default: spec/dynet.md 1.1 and 1.2.

    Attributes:
        channels: of levels 1, 2, 3 and the latent; multiples of 4 (pixel shuffle) below level 1.
        num_heads: of the blocks of the same levels.
        num_blocks: of the same levels, encoder and decoder alike.
        num_refinement: blocks at full resolution after the decoder.
        expansion: hidden channels of a feed-forward, as a multiple of its channels, rounded down.
        norm: `with_bias`, or `bias_free` as in the published checkpoints for Gaussian noise.
    """

    channels: tuple[int, int, int, int] = (48, 96, 192, 384)
    num_heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    num_blocks: tuple[int, int, int, int] = (4, 6, 6, 8)
    num_refinement: int = 4
    expansion: float = 2.66
    norm: str = "with_bias"

    def __post_init__(self) -> None:
        """Check ranges."""
        if (
            min(*self.channels, *self.num_heads, *self.num_blocks) < 1
            or self.num_refinement < 0
            or not self.expansion > 0
        ):
            raise ConfigError(f"restormer: channels, heads, blocks and expansion must be > 0, got {self}")
        if self.norm not in NORMS:
            raise ConfigError(f"restormer.norm must be one of {', '.join(NORMS)}, got {self.norm!r}")
        check_levels("restormer", self.channels, self.num_heads)


class Restormer(nn.Module):
    """See the module's docstring.

    Example:
        >>> config = Config(channels=(8, 16, 24, 32), num_heads=(1, 2, 2, 4), num_blocks=(1, 1, 1, 1))
        >>> Restormer(config)(torch.rand(1, 3, 5, 7)).shape
        torch.Size([1, 3, 5, 7])
    """

    config_type: ClassVar = Config
    align_px: ClassVar[int] = 8
    PRESETS: ClassVar[Mapping[str, Config]] = {"": Config()}
    TRAINING: ClassVar[Mapping[str, TrainingDefaults]] = {
        "": TrainingDefaults(peak_lr=3e-4, batch_size=64, crop_px=128),  # spec/dynet.md 2.3, the first of its stages
    }

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.depths: dict[str, tuple[int, ...]] = {}
        self.reuse: tuple[int, ...] = ()
        self.tasks: dict[str, int] = {}
        c1, c2, c3, c4 = config.channels
        h1, h2, h3, h4 = config.num_heads
        n1, n2, n3, n4 = config.num_blocks

        def blocks(num: int, channels: int, num_heads: int) -> nn.Sequential:
            return stack(num, channels, num_heads, config.expansion, config.norm)

        self.patch_embed = Embed(c1)
        self.encoder_level1 = blocks(n1, c1, h1)
        self.down1_2 = Resample(c1, c2, down=True)
        self.encoder_level2 = blocks(n2, c2, h2)
        self.down2_3 = Resample(c2, c3, down=True)
        self.encoder_level3 = blocks(n3, c3, h3)
        self.down3_4 = Resample(c3, c4, down=True)
        self.latent = blocks(n4, c4, h4)

        self.up4_3 = Resample(c4, c3, down=False)
        self.reduce_chan_level3 = narrow(2 * c3, c3)
        self.decoder_level3 = blocks(n3, c3, h3)
        self.up3_2 = Resample(c3, c2, down=False)
        self.reduce_chan_level2 = narrow(2 * c2, c2)
        self.decoder_level2 = blocks(n2, c2, h2)
        self.up2_1 = Resample(c2, c1, down=False)
        self.decoder_level1 = blocks(n1, 2 * c1, h1)
        self.refinement = blocks(config.num_refinement, 2 * c1, h1)
        self.output = nn.Conv2d(2 * c1, 3, 3, padding=1, bias=False)
        nn.init.zeros_(self.output.weight)

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
        check_batch(x_BCHW, "restormer")
        height, width = x_BCHW.shape[-2:]
        padded_BCHW = pad_to_multiple(x_BCHW, 8)
        restored_BCHW = padded_BCHW + self._residual(padded_BCHW).to(x_BCHW.dtype)
        return restored_BCHW[..., :height, :width]

    def _residual(self, x_BCHW: Tensor) -> Tensor:
        enc1 = self.encoder_level1(self.patch_embed.proj(x_BCHW))
        enc2 = self.encoder_level2(self.down1_2(enc1))
        enc3 = self.encoder_level3(self.down2_3(enc2))
        latent = self.latent(self.down3_4(enc3))
        dec3 = self.decoder_level3(self.reduce_chan_level3(torch.cat([self.up4_3(latent), enc3], 1)))
        dec2 = self.decoder_level2(self.reduce_chan_level2(torch.cat([self.up3_2(dec3), enc2], 1)))
        dec1 = self.decoder_level1(torch.cat([self.up2_1(dec2), enc1], 1))
        return self.output(self.refinement(dec1))  # type: ignore[no-any-return]

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Load parameters under their published names.

        Raises:
            ManifestError: a name is missing or unknown, or a shape differs.
        """
        first = "encoder_level1.0.norm1.body.bias"
        free = first not in state
        if first.replace("bias", "weight") in state and free != (self.config.norm == "bias_free"):
            raise ManifestError(
                f'the norms of this file have {"no " if free else ""}bias: norm = "{"bias_free" if free else "with_bias"}"'
            )
        load_exactly(self, state)


Plugin = Restormer

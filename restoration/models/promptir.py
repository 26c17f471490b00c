"""PromptIR: Restormer's blocks, each with weights of its own, and prompts between the decoder's levels.

Source: Potlapalli et al., "PromptIR", NeurIPS 2023, written from spec/dynet.md section 1 alone (the authors' code is under a
non-commercial licence and was not read). Parameter names are the published ones, without the six layers that the published
network holds and never calls. Ours: any height and width (padded inside to a multiple of 8), and an output convolution that
starts at zero, so that an untrained network returns its input.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from curate.core.errors import ConfigError

from . import TrainingDefaults
from ._published import load_exactly
from ._transformer import TransformerBlock
from ._unet import Embed, PromptGenerator, Resample, check_batch, check_levels, narrow, pad_to_multiple, prompted, stack

DEAD_LAYERS = (
    *(f"reduce_noise_channel_{level}.weight" for level in (1, 2, 3)),
    *(f"chnl_reduce{level}.weight" for level in (1, 2, 3)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Sizes of a PromptIR; the defaults are the published ones: 35,376,967 parameters (35,592,263 with the dead layers).

    Levels are counted from full resolution; source of every default: spec/dynet.md 1.1 to 1.3.

    Attributes:
        channels: of levels 1, 2, 3 and the latent; multiples of 4 (pixel shuffle) below level 1.
        num_heads: of the blocks of the same levels.
        num_blocks: of the same levels, encoder and decoder alike.
        prompt_channels: of the prompts of levels 1, 2, 3.
        prompt_side_px: side of those prompts' learned grids, in feature cells.
        num_prompts: learned components of each prompt.
        prompt_num_heads: heads of the three prompt-interaction blocks.
        num_refinement: blocks at full resolution after the decoder.
        expansion: hidden channels of a feed-forward, as a multiple of its channels, rounded down.
    """

    channels: tuple[int, int, int, int] = (48, 96, 192, 384)
    num_heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    num_blocks: tuple[int, int, int, int] = (4, 6, 6, 8)
    prompt_channels: tuple[int, int, int] = (64, 128, 320)
    prompt_side_px: tuple[int, int, int] = (64, 32, 16)
    num_prompts: int = 5
    prompt_num_heads: int = 4
    num_refinement: int = 4
    expansion: float = 2.66

    def __post_init__(self) -> None:
        """Check ranges."""
        counts = (*self.channels, *self.num_heads, *self.num_blocks, *self.prompt_channels, *self.prompt_side_px)
        if min(*counts, self.num_prompts, self.prompt_num_heads) < 1:
            raise ConfigError(f"promptir: channels, heads, blocks and prompts must be >= 1, got {self}")
        if self.num_refinement < 0 or not self.expansion > 0:
            raise ConfigError("promptir needs num_refinement >= 0 and expansion > 0")
        check_levels("promptir", self.channels, self.num_heads, self.prompt_channels, self.prompt_num_heads)


class PromptIR(nn.Module):
    """See the module's docstring.

    Example:
        >>> config = Config(channels=(8, 16, 24, 32), num_heads=(1, 2, 2, 4), num_blocks=(1, 1, 1, 1))
        >>> PromptIR(config)(torch.rand(1, 3, 5, 7)).shape
        torch.Size([1, 3, 5, 7])
    """

    config_type: ClassVar = Config
    align_px: ClassVar[int] = 8
    PRESETS: ClassVar[Mapping[str, Config]] = {"": Config()}
    TRAINING: ClassVar[Mapping[str, TrainingDefaults]] = {
        "": TrainingDefaults(peak_lr=2e-4, batch_size=32, crop_px=128),  # spec/dynet.md 2.2
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
        p1, p2, p3 = config.prompt_channels
        s1, s2, s3 = config.prompt_side_px

        def blocks(num: int, channels: int, num_heads: int) -> nn.Sequential:
            return stack(num, channels, num_heads, config.expansion)

        def block(channels: int) -> TransformerBlock:
            return TransformerBlock(channels, config.prompt_num_heads, config.expansion)

        self.patch_embed = Embed(c1)
        self.encoder_level1 = blocks(n1, c1, h1)
        self.down1_2 = Resample(c1, c2, down=True)
        self.encoder_level2 = blocks(n2, c2, h2)
        self.down2_3 = Resample(c2, c3, down=True)
        self.encoder_level3 = blocks(n3, c3, h3)
        self.down3_4 = Resample(c3, c4, down=True)
        self.latent = blocks(n4, c4, h4)

        self.prompt3 = PromptGenerator(c4, p3, s3, config.num_prompts)
        self.noise_level3 = block(c4 + p3)
        self.reduce_noise_level3 = narrow(c4 + p3, c3)
        self.up4_3 = Resample(c3, c2, down=False)
        self.reduce_chan_level3 = narrow(c2 + c3, c3)
        self.decoder_level3 = blocks(n3, c3, h3)

        self.prompt2 = PromptGenerator(c3, p2, s2, config.num_prompts)
        self.noise_level2 = block(c3 + p2)
        self.reduce_noise_level2 = narrow(c3 + p2, c3)
        self.up3_2 = Resample(c3, c2, down=False)
        self.reduce_chan_level2 = narrow(2 * c2, c2)
        self.decoder_level2 = blocks(n2, c2, h2)

        self.prompt1 = PromptGenerator(c2, p1, s1, config.num_prompts)
        self.noise_level1 = block(c2 + p1)
        self.reduce_noise_level1 = narrow(c2 + p1, c2)
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
        check_batch(x_BCHW, "promptir")
        height, width = x_BCHW.shape[-2:]
        padded_BCHW = pad_to_multiple(x_BCHW, 8)
        restored_BCHW = padded_BCHW + self._residual(padded_BCHW).to(x_BCHW.dtype)
        return restored_BCHW[..., :height, :width]

    def _residual(self, x_BCHW: Tensor) -> Tensor:
        enc1 = self.encoder_level1(self.patch_embed.proj(x_BCHW))
        enc2 = self.encoder_level2(self.down1_2(enc1))
        enc3 = self.encoder_level3(self.down2_3(enc2))
        latent = self.latent(self.down3_4(enc3))

        below = prompted(latent, self.prompt3, self.noise_level3, self.reduce_noise_level3)
        dec3 = self.decoder_level3(self.reduce_chan_level3(torch.cat([self.up4_3(below), enc3], 1)))
        below = prompted(dec3, self.prompt2, self.noise_level2, self.reduce_noise_level2)
        dec2 = self.decoder_level2(self.reduce_chan_level2(torch.cat([self.up3_2(below), enc2], 1)))
        below = prompted(dec2, self.prompt1, self.noise_level1, self.reduce_noise_level1)
        dec1 = self.decoder_level1(torch.cat([self.up2_1(below), enc1], 1))
        return self.output(self.refinement(dec1))  # type: ignore[no-any-return]

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Load parameters under their published names; the six dead layers are accepted and dropped.

        Raises:
            ManifestError: a name is missing or unknown, or a shape differs.
        """
        load_exactly(self, state, dropped=DEAD_LAYERS)


Plugin = PromptIR

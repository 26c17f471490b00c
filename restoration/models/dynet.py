"""DyNet: a weight-shared, prompt-conditioned U-shaped transformer whose depth is chosen at run time.

Source: Dudhane et al., arXiv 2404.02154, written from spec/dynet.md section 1 alone (the authors' code is under a
non-commercial licence and was not read). Parameter names are the published ones, without the three `reduce_noise_channel_*`
layers that the published network holds and never calls. Ours: any height and width (padded inside to a multiple of 8),
and an output convolution that starts at zero, so that an untrained network returns its input.

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
from ._unet import Embed, PromptGenerator, Resample, check_batch, check_levels, narrow, pad_to_multiple, prompted

DEAD_LAYERS = ("reduce_noise_channel_1.weight", "reduce_noise_channel_2.weight", "reduce_noise_channel_3.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Sizes of a DyNet; the defaults are the published ones: 16,613,135 parameters (16,726,031 with the dead layers).

    Levels are counted from full resolution; source of every default: spec/dynet.md 1.1 to 1.3.

    Attributes:
        channels: of levels 1, 2, 3 and the latent; multiples of 4 (pixel shuffle) below level 1.
        num_heads: of the blocks of the same levels.
        reuse: how often each of the four levels' blocks is applied where a call names no depth.
        depth_s: the counts called `s`.
        depth_l: the counts called `l`.
        prompt_channels: of the prompts of levels 1, 2, 3.
        prompt_side_px: side of those prompts' learned grids, in feature cells.
        num_prompts: learned components of each prompt.
        prompt_num_heads: heads of the three prompt-interaction blocks.
        num_refinement: separate blocks at full resolution after the decoder.
        expansion: hidden channels of a feed-forward, as a multiple of its channels, rounded down.
        high_pass_gain: length of the first convolution's filters at the start of training, three quarters of which are then
            orthogonal and blind to brightness; 0: torch's own start.
        branch_gain: factor on every block's two output projections at the start of training.
    """

    channels: tuple[int, int, int, int] = (48, 96, 192, 384)
    num_heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    reuse: tuple[int, int, int, int] = (2, 3, 3, 4)
    depth_s: tuple[int, int, int, int] = (2, 3, 3, 4)
    depth_l: tuple[int, int, int, int] = (4, 6, 6, 8)
    prompt_channels: tuple[int, int, int] = (64, 128, 320)
    prompt_side_px: tuple[int, int, int] = (64, 32, 16)
    num_prompts: int = 5
    prompt_num_heads: int = 4
    num_refinement: int = 4
    expansion: float = 2.66
    high_pass_gain: float = 0.0
    branch_gain: float = 1.0

    def __post_init__(self) -> None:
        """Check ranges."""
        counts = (*self.channels, *self.num_heads, *self.prompt_channels, *self.prompt_side_px, self.num_prompts)
        if min(counts) < 1 or self.prompt_num_heads < 1 or self.num_refinement < 0 or not self.expansion > 0:
            raise ConfigError(f"dynet: channels, heads, prompts and expansion must be > 0, got {self}")
        if not self.high_pass_gain >= 0 or not self.branch_gain > 0:
            raise ConfigError("dynet needs high_pass_gain >= 0 and branch_gain > 0")
        for name in ("reuse", "depth_s", "depth_l"):
            check_reuse(getattr(self, name), where=f"dynet.{name}")
        check_levels("dynet", self.channels, self.num_heads, self.prompt_channels, self.prompt_num_heads)


def check_reuse(reuse: tuple[int, ...], *, where: str) -> tuple[int, ...]:
    """Return `reuse` if it is four counts of 1 to 64, else raise ConfigError."""
    if len(reuse) != 4 or not all(1 <= count <= 64 for count in reuse):
        raise ConfigError(f"{where} must be four counts from 1 to 64, such as 2,3,3,4, got {','.join(map(str, reuse))}")
    return reuse


class DyNet(nn.Module):
    """See the module's docstring.

    Example:
        >>> model = DyNet(DyNet.PRESETS["tiny"])
        >>> model(torch.rand(1, 3, 5, 7), (2, 2, 2, 3)).shape
        torch.Size([1, 3, 5, 7])
    """

    config_type: ClassVar = Config
    align_px: ClassVar[int] = 8
    PRESETS: ClassVar[Mapping[str, Config]] = {
        "s": Config(),
        "l": Config(reuse=(4, 6, 6, 8)),
        "tiny": Config(
            channels=(8, 16, 24, 32), num_heads=(1, 2, 2, 4), reuse=(1, 1, 1, 2), depth_s=(1, 1, 1, 2), depth_l=(2, 2, 2, 3),
            prompt_channels=(8, 8, 8), prompt_side_px=(16, 8, 4), num_refinement=0, expansion=2.0,
            high_pass_gain=4.0, branch_gain=0.3,  # 12 times the gain of 100 steps on sr2: docs/log.md
        ),
    }  # fmt: skip

    TRAINING: ClassVar[Mapping[str, TrainingDefaults]] = {
        "s": TrainingDefaults(peak_lr=2e-4, batch_size=32, crop_px=128),  # spec/dynet.md 2.2
        "l": TrainingDefaults(peak_lr=2e-4, batch_size=32, crop_px=128),  # spec/dynet.md 2.2
        "tiny": TrainingDefaults(peak_lr=4e-3, batch_size=8, crop_px=64),  # docs/log.md
    }

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.depths = {"s": config.depth_s, "l": config.depth_l}
        self.reuse: tuple[int, ...] = config.reuse
        self.tasks: dict[str, int] = {}
        c1, c2, c3, c4 = config.channels
        h1, h2, h3, h4 = config.num_heads
        p1, p2, p3 = config.prompt_channels
        s1, s2, s3 = config.prompt_side_px

        def block(channels: int, num_heads: int) -> TransformerBlock:
            return TransformerBlock(channels, num_heads, config.expansion)

        self.patch_embed = Embed(c1)
        self.encoder_level1 = block(c1, h1)
        self.down1_2 = Resample(c1, c2, down=True)
        self.encoder_level2 = block(c2, h2)
        self.down2_3 = Resample(c2, c3, down=True)
        self.encoder_level3 = block(c3, h3)
        self.down3_4 = Resample(c3, c4, down=True)
        self.latent = block(c4, h4)

        self.prompt3 = PromptGenerator(c4, p3, s3, config.num_prompts)
        self.noise_level3 = block(c4 + p3, config.prompt_num_heads)
        self.reduce_noise_level3 = narrow(c4 + p3, c3)
        self.up4_3 = Resample(c3, c2, down=False)
        self.prompt2 = PromptGenerator(c3, p2, s2, config.num_prompts)
        self.noise_level2 = block(c3 + p2, config.prompt_num_heads)
        self.reduce_noise_level2 = narrow(c3 + p2, c3)
        self.reduce_chan_level3 = narrow(c2 + c3, c3)
        self.decoder_level3 = block(c3, h3)

        self.up3_2 = Resample(c3, c2, down=False)
        self.prompt1 = PromptGenerator(c2, p1, s1, config.num_prompts)
        self.noise_level1 = block(c2 + p1, config.prompt_num_heads)
        self.reduce_noise_level1 = narrow(c2 + p1, c2)
        self.reduce_chan_level2 = narrow(2 * c2, c2)
        self.decoder_level2 = block(c2, h2)

        self.up2_1 = Resample(c2, c1, down=False)
        self.decoder_level1 = block(2 * c1, h1)
        self.refinement = nn.Sequential(*(block(2 * c1, h1) for _ in range(config.num_refinement)))
        self.output = nn.Conv2d(2 * c1, 3, 3, padding=1, bias=False)
        self._start(config)

    def forward(self, x_BCHW: Tensor, reuse: tuple[int, ...] | None = None) -> Tensor:
        """Restore a batch.

        Args:
            x_BCHW: (B, 3, H, W) in [0, 1]; any H, W >= 1.
            reuse: how often to apply the blocks of levels 1, 2, 3 and the latent; None: the config's.

        Returns:
            (B, 3, H, W), not clamped.

        Raises:
            ImageError: not (B, 3, H, W).
            ConfigError: `reuse` is not four counts.
        """
        check_batch(x_BCHW, "dynet")
        counts = check_reuse(self.reuse if reuse is None else reuse, where="dynet: reuse")
        height, width = x_BCHW.shape[-2:]
        padded_BCHW = pad_to_multiple(x_BCHW, 8)
        restored_BCHW = padded_BCHW + self._residual(padded_BCHW, counts).to(x_BCHW.dtype)
        return restored_BCHW[..., :height, :width]

    def _residual(self, x_BCHW: Tensor, reuse: tuple[int, ...]) -> Tensor:
        n1, n2, n3, n4 = reuse
        enc1 = _repeat(self.encoder_level1, self.patch_embed.proj(x_BCHW), n1)
        enc2 = _repeat(self.encoder_level2, self.down1_2(enc1), n2)
        enc3 = _repeat(self.encoder_level3, self.down2_3(enc2), n3)
        latent = _repeat(self.latent, self.down3_4(enc3), n4)

        below = self.up4_3(prompted(latent, self.prompt3, self.noise_level3, self.reduce_noise_level3))
        skip = prompted(enc3, self.prompt2, self.noise_level2, self.reduce_noise_level2)
        dec3 = _repeat(self.decoder_level3, self.reduce_chan_level3(torch.cat([below, skip], 1)), n3)
        skip = prompted(enc2, self.prompt1, self.noise_level1, self.reduce_noise_level1)
        dec2 = _repeat(self.decoder_level2, self.reduce_chan_level2(torch.cat([self.up3_2(dec3), skip], 1)), n2)
        dec1 = _repeat(self.decoder_level1, torch.cat([self.up2_1(dec2), enc1], 1), n1)
        return self.output(self.refinement(dec1))  # type: ignore[no-any-return]

    @torch.no_grad()
    def _start(self, config: Config) -> None:
        """Set the weights that training starts from; the rest keep torch's own."""
        nn.init.zeros_(self.output.weight)
        if config.high_pass_gain:
            filters = self.patch_embed.proj.weight[config.channels[0] // 4 :]
            filters -= filters.mean((2, 3), keepdim=True)
            u, _, v = torch.linalg.svd(filters.flatten(1), full_matrices=False)
            rank = min(len(filters), 24)  # 3 x 9 weights less 3 means
            filters.copy_(config.high_pass_gain * (u[:, :rank] @ v[:rank]).view_as(filters))
        for name, parameter in self.named_parameters():
            if name.endswith("project_out.weight"):
                parameter.mul_(config.branch_gain)

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Load parameters under their published names; the three dead layers are accepted and dropped.

        Raises:
            ManifestError: a name is missing or unknown, or a shape differs.
        """
        load_exactly(self, state, dropped=DEAD_LAYERS)


Plugin = DyNet


def _repeat(block: nn.Module, x_BCHW: Tensor, count: int) -> Tensor:
    for _ in range(count):
        x_BCHW = block(x_BCHW)
    return x_BCHW

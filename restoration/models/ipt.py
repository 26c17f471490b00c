"""IPT: a transformer over 3x3 patches of features, with a head, a tail and an embedding of its own for every task.

Source: Chen et al., "Pre-Trained Image Processing Transformer", CVPR 2021 (arXiv 2012.00364), written from spec/ipt.md
section 1. Parameter names are those of the public .pt files. The network sees pictures of one size (48x48); others go through
it in tiles (`_tiles.py`). Where autocast computes in bf16, the means, the first and last convolution and what the layers add
up stay in float32: bf16 has eight bits for levels of 0 to 255. There is no skip from input to output, so an untrained IPT
returns nothing like its input.

Shapes: B batch, C feature maps, H height, W width, N tokens of a tile, D = 9 * C width of a token, K heads, E = D / K.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from curate.core.errors import ConfigError, ImageError

from . import TrainingDefaults
from ._ipt_file import PUBLISHED_TASKS, state_of_tasks
from ._precision import float32_exactly
from ._published import load_exactly
from ._tiles import run_in_tiles

MEAN_LEVELS = (0.4488 * 255, 0.4371 * 255, 0.4040 * 255)  # of DIV2K, as in EDSR; spec/ipt.md 1, step 1
SCALES = (1, 2, 3, 4, 8)
UNUSED = "body.position_encoding.position_ids"  # the numbers 0..N-1, a constant


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Sizes of an IPT; the defaults are the published ones: 118,892,394 parameters with six heads.

    Source of every default but the last two: spec/ipt.md section 1.

    Attributes:
        channels: feature maps.
        patch_px: side of a token's patch of features.
        tile_px: side of the pictures it sees; a multiple of patch_px.
        num_heads: attention heads.
        num_encoder_layers: of the encoder.
        num_decoder_layers: of the decoder.
        expansion: hidden width of a feed-forward, as a multiple of a token's.
        tasks: head name -> how many times larger its output is (1, 2, 3, 4 or 8), in the order of the checkpoint's heads.
        overlap_px: what neighbouring tiles share at least where a picture is not tile_px large; blended linearly.
        tiles_per_batch: tiles computed at once; changes memory, not the result.
    """

    channels: int = 64
    patch_px: int = 3
    tile_px: int = 48
    num_heads: int = 12
    num_encoder_layers: int = 12
    num_decoder_layers: int = 12
    expansion: int = 4
    tasks: Mapping[str, int] = field(default_factory=lambda: dict(PUBLISHED_TASKS))
    overlap_px: int = 12  # spec/ipt.md 3: paper 10, released code 12 or 36
    tiles_per_batch: int = 16

    def __post_init__(self) -> None:
        """Check ranges."""
        sizes = (self.channels, self.patch_px, self.num_heads, self.expansion, self.tiles_per_batch)
        if min(sizes) < 1 or min(self.num_encoder_layers, self.num_decoder_layers) < 0:
            raise ConfigError(f"ipt: channels, heads, expansion and tiles_per_batch must be >= 1, got {self}")
        if self.tile_px < self.patch_px or self.tile_px % self.patch_px:
            raise ConfigError(f"ipt.tile_px must be a multiple of patch_px {self.patch_px}, got {self.tile_px}")
        if self.width % self.num_heads:
            raise ConfigError(f"ipt: {self.num_heads} heads do not divide a token of {self.width} values")
        if not self.tasks or not set(self.tasks.values()) <= set(SCALES):
            raise ConfigError(f"ipt.tasks must give heads a scale of {SCALES}, got {dict(self.tasks)}")
        if not 0 <= self.overlap_px <= self.tile_px // 2:
            raise ConfigError(f"ipt.overlap_px must be 0 to tile_px / 2, got {self.overlap_px}")

    @property
    def width(self) -> int:
        """Values of a token."""
        return self.channels * self.patch_px**2

    @property
    def num_tokens(self) -> int:
        """Tokens of a tile."""
        return (self.tile_px // self.patch_px) ** 2


class _Attention(nn.Module):
    """Multi-head attention without biases; its caller projects, because what is projected differs."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.out_proj = nn.Linear(width, width, bias=False)
        nn.init.kaiming_uniform_(self.in_proj_weight, a=5**0.5)

    def forward(self, q_BND: Tensor, k_BND: Tensor, v_BND: Tensor) -> Tensor:
        B, N, D = q_BND.shape
        split = (B, N, self.num_heads, D // self.num_heads)
        q_BKNE, k_BKNE, v_BKNE = (x_BND.reshape(split).transpose(1, 2) for x_BND in (q_BND, k_BND, v_BND))
        out_BKNE = _attend(q_BKNE * math.sqrt(1 / q_BKNE.shape[-1]), k_BKNE, v_BKNE)
        return self.out_proj(out_BKNE.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class _EncoderLayer(nn.Module):
    def __init__(self, width: int, num_heads: int, expansion: int) -> None:
        super().__init__()
        self.self_attn = _Attention(width, num_heads)
        self.linear1 = nn.Linear(width, expansion * width)
        self.linear2 = nn.Linear(expansion * width, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x_BND: Tensor) -> Tensor:
        qkv = functional.linear(self.norm1(x_BND), self.self_attn.in_proj_weight)
        x_BND = x_BND + self.self_attn(*qkv.chunk(3, dim=-1))
        return x_BND + self.linear2(functional.relu(self.linear1(self.norm2(x_BND))))  # type: ignore[no-any-return]


class _DecoderLayer(nn.Module):
    """The task's embedding joins queries and keys of the first attention and the queries of the second, never values."""

    def __init__(self, width: int, num_heads: int, expansion: int) -> None:
        super().__init__()
        self.self_attn = _Attention(width, num_heads)
        self.multihead_attn = _Attention(width, num_heads)
        self.linear1 = nn.Linear(width, expansion * width)
        self.linear2 = nn.Linear(expansion * width, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x_BND: Tensor, memory_BND: Tensor, task_ND: Tensor) -> Tensor:
        D = x_BND.shape[-1]
        qk_weight, v_weight = torch.split(self.self_attn.in_proj_weight, [2 * D, D])
        normed_BND = self.norm1(x_BND)
        q_BND, k_BND = functional.linear(normed_BND + task_ND, qk_weight).chunk(2, dim=-1)
        x_BND = x_BND + self.self_attn(q_BND, k_BND, functional.linear(normed_BND, v_weight))
        q_weight, kv_weight = torch.split(self.multihead_attn.in_proj_weight, [D, 2 * D])
        q_BND = functional.linear(self.norm2(x_BND) + task_ND, q_weight)
        x_BND = x_BND + self.multihead_attn(q_BND, *functional.linear(memory_BND, kv_weight).chunk(2, dim=-1))
        return x_BND + self.linear2(functional.relu(self.linear1(self.norm3(x_BND))))  # type: ignore[no-any-return]


class _Layers(nn.Module):
    """Holds layers; a module of its own only because checkpoints call them `encoder.layers`."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class _Position(nn.Module):
    """Holds the learned position embedding, added once before the encoder."""

    def __init__(self, num_tokens: int, width: int) -> None:
        super().__init__()
        self.pe = nn.Embedding(num_tokens, width)


class _Body(nn.Module):
    """Tokens to tokens: encoder, decoder, and the residual layers before and after them."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, heads, expansion = config.width, config.num_heads, config.expansion
        self.linear_encoding = nn.Linear(width, width)
        self.mlp_head = nn.Sequential(
            nn.Linear(width, expansion * width), nn.Identity(), nn.ReLU(), nn.Linear(expansion * width, width)
        )  # the second stands for a dropout of 0, which checkpoints count
        self.query_embed = nn.Embedding(len(config.tasks), config.num_tokens * width)
        self.encoder = _Layers([_EncoderLayer(width, heads, expansion) for _ in range(config.num_encoder_layers)])
        self.decoder = _Layers([_DecoderLayer(width, heads, expansion) for _ in range(config.num_decoder_layers)])
        self.position_encoding = _Position(config.num_tokens, width)

    def forward(self, x_BND: Tensor, task: int) -> Tensor:
        """Return the decoder's tokens."""
        x_BND = x_BND + self.linear_encoding(x_BND) + self.position_encoding.pe.weight
        for layer in self.encoder.layers:
            x_BND = layer(x_BND)
        memory_BND, task_ND = x_BND, self.query_embed.weight[task].view(x_BND.shape[1:])
        for layer in self.decoder.layers:
            x_BND = layer(x_BND, memory_BND, task_ND)
        return x_BND


class _Block(nn.Module):
    """Two 5x5 convolutions and a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 5, padding=2), nn.ReLU(), nn.Conv2d(channels, channels, 5, padding=2)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW + self.body(x_BCHW)  # type: ignore[no-any-return]


class _Head(nn.Sequential):
    """Three channels to features."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Conv2d(3, channels, 3, padding=1), _Block(channels), _Block(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        features_BCHW = _exactly(self[0], x_BCHW).to(next(self[0].parameters()).dtype)  # bf16 where weights are
        return self[2](self[1](features_BCHW))  # type: ignore[no-any-return]


class _Tail(nn.Sequential):
    """Features, enlarged (powers of two in steps of two), to three channels."""

    def __init__(self, channels: int, scale: int) -> None:
        enlarge: list[nn.Module] = []
        for factor in [3] if scale == 3 else [2] * (scale.bit_length() - 1):
            enlarge += [nn.Conv2d(channels, factor**2 * channels, 3, padding=1), nn.PixelShuffle(factor)]
        super().__init__(nn.Sequential(*enlarge), nn.Conv2d(channels, 3, 3, padding=1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return _exactly(self[1], self[0](x_BCHW))


class IPT(nn.Module):
    """See the module's docstring.

    Example:
        >>> model = IPT(IPT.PRESETS["tiny"])
        >>> model(torch.rand(1, 3, 50, 7), "sr3").shape
        torch.Size([1, 3, 150, 21])
    """

    config_type: ClassVar = Config
    PRESETS: ClassVar[Mapping[str, Config]] = {
        "": Config(),
        "tiny": Config(channels=16, num_heads=4, num_encoder_layers=2, num_decoder_layers=2),
    }
    TRAINING: ClassVar[Mapping[str, TrainingDefaults]] = {
        "": TrainingDefaults(peak_lr=5e-5, batch_size=256, crop_px=48),  # spec/ipt.md 2
        "tiny": TrainingDefaults(peak_lr=5e-4, batch_size=16, crop_px=48),  # for trials on a CPU
    }

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.align_px = 1
        step = config.tile_px - config.overlap_px  # two squares that are cut into more tiles than are held at once
        tiles = math.isqrt(config.tiles_per_batch - 1) + 1
        self.probe_sides_px = (config.tile_px + (tiles - 1) * step, config.tile_px + (tiles + 1) * step)
        self.depths: dict[str, tuple[int, ...]] = {}
        self.reuse: tuple[int, ...] = ()
        self.tasks: dict[str, int] = dict(config.tasks)
        self.sub_mean = _mean_shift(-1)
        self.add_mean = _mean_shift(1)
        self.head = nn.ModuleList(_Head(config.channels) for _ in self.tasks)
        self.body = _Body(config)
        self.tail = nn.ModuleList(_Tail(config.channels, scale) for scale in self.tasks.values())

    def forward(self, x_BCHW: Tensor, task: str | None = None) -> Tensor:
        """Restore a batch.

        Args:
            x_BCHW: (B, 3, H, W) in [0, 1]; any H, W >= 1.
            task: name of a head; None: the only one.

        Returns:
            (B, 3, scale * H, scale * W), not clamped.

        Raises:
            ImageError: not (B, 3, H, W).
            ConfigError: no such head, or several and none named.
        """
        name, side_px = self._head_name(task), self.config.tile_px
        if x_BCHW.ndim != 4 or x_BCHW.shape[1] != 3 or 0 in x_BCHW.shape:
            raise ImageError(f"ipt: wanted a (B, 3, H, W) batch, got shape {tuple(x_BCHW.shape)}")
        if x_BCHW.shape[-2:] == (side_px, side_px):
            return self._restore_tile(x_BCHW, name)
        return run_in_tiles(
            x_BCHW, lambda tiles: self._restore_tile(tiles, name), tile_px=side_px, scale=self.tasks[name],
            overlap_px=self.config.overlap_px, tiles_per_batch=self.config.tiles_per_batch,
        ).to(x_BCHW.dtype)  # fmt: skip

    def encode(self, x_BCHW: Tensor, task: str | None = None) -> tuple[Tensor, Tensor]:
        """Go as far as the decoder's end; `decode` goes on.

        Args:
            x_BCHW: (B, 3, tile_px, tile_px) in [0, 1].
            task: name of a head; None: the only one.

        Returns:
            The head's features (B, C, tile_px, tile_px) and the decoder's tokens (B, N, D), on which the paper's contrastive
            loss is taken (spec/ipt.md section 2).
        """
        number = list(self.tasks).index(self._head_name(task))
        features_BCHW = self.head[number](_exactly(self.sub_mean, 255 * x_BCHW))
        return features_BCHW, self.body(_unfold(features_BCHW, self.config.patch_px), number)

    def decode(self, features_BCHW: Tensor, tokens_BND: Tensor, task: str | None = None) -> Tensor:
        """Make pictures of what `encode` returned: (B, 3, scale * tile_px, scale * tile_px), float32 or better."""
        number = list(self.tasks).index(self._head_name(task))
        tokens_BND = tokens_BND + self.body.mlp_head(tokens_BND)
        body_BCHW = _fold(tokens_BND, self.config.channels, self.config.patch_px)
        return _exactly(self.add_mean, self.tail[number](features_BCHW + body_BCHW)) / 255

    def tokens(self, x_BCHW: Tensor, task: str | None = None) -> Tensor:
        """Return the decoder's tokens (B, N, D) of pictures of (B, 3, tile_px, tile_px) in [0, 1]."""
        return self.encode(x_BCHW, task)[1]

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Load parameters under their published names.

        Heads are numbered, not named, in a file: see `_ipt_file.state_of_tasks` for which of them become whose.

        Raises:
            ManifestError: another number of heads, a name is missing or unknown, or a shape differs.
        """
        load_exactly(self, state_of_tasks(state, self.tasks), dropped=(UNUSED,))

    def _restore_tile(self, x_BCHW: Tensor, task: str) -> Tensor:
        features_BCHW, tokens_BND = self.encode(x_BCHW, task)
        return self.decode(features_BCHW, tokens_BND, task).to(x_BCHW.dtype)

    def _head_name(self, task: str | None) -> str:
        if task is None and len(self.tasks) == 1:
            [task] = self.tasks
        if task not in self.tasks:
            raise ConfigError(f"ipt: task must be one of {', '.join(self.tasks)}, got {task!r}")
        return task


Plugin = IPT


def _mean_shift(sign: int) -> nn.Conv2d:
    """A frozen 1x1 convolution that adds or takes away the mean; the published count of parameters includes it."""
    shift = nn.Conv2d(3, 3, 1).requires_grad_(False)
    with torch.no_grad():
        shift.weight.copy_(torch.eye(3)[:, :, None, None])
        shift.bias.copy_(sign * torch.tensor(MEAN_LEVELS))  # type: ignore[union-attr]
    return shift


def _attend(q_BKNE: Tensor, k_BKNE: Tensor, v_BKNE: Tensor) -> Tensor:
    """Softmax attention of queries that are scaled already.

    On a CPU in three products: with N = 256 that costs about the same as the fused kernel in float32 and 0.4 to 0.6 of it in
    bf16. It is also what the published outputs can be compared with: the keys of the decoder's second attention have passed
    no norm, logits come near 1000, and another order of additions there changes a filled network's output by a tenth.
    """
    if q_BKNE.device.type not in ("cpu", "meta"):
        return functional.scaled_dot_product_attention(q_BKNE, k_BKNE, v_BKNE, scale=1.0)
    return torch.softmax(q_BKNE @ k_BKNE.transpose(-2, -1), dim=-1) @ v_BKNE


def _exactly(conv: nn.Module, x_BCHW: Tensor) -> Tensor:
    """Apply a convolution in float32 or better, whatever autocast or the weights say."""
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    dtype, device = torch.promote_types(x_BCHW.dtype, torch.float32), x_BCHW.device.type
    known = torch.amp.is_autocast_available(device)  # not on meta
    with (
        torch.autocast(device, enabled=False) if known else contextlib.nullcontext(),
        contextlib.nullcontext() if torch.compiler.is_compiling() else float32_exactly(device),
    ):
        exact_BCHW: Tensor = conv._conv_forward(x_BCHW.to(dtype), conv.weight.to(dtype), conv.bias.to(dtype))
        return exact_BCHW


def _unfold(x_BCHW: Tensor, patch_px: int) -> Tensor:
    """Cut features into patches: (B, N, C * patch_px^2), channel slowest, as `torch.nn.Unfold` orders them."""
    B, C, H, W = x_BCHW.shape
    cut = x_BCHW.reshape(B, C, H // patch_px, patch_px, W // patch_px, patch_px)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C * patch_px**2)


def _fold(x_BND: Tensor, channels: int, patch_px: int) -> Tensor:
    """Undo `_unfold`; the result lies channels-last in memory."""
    B, N, _ = x_BND.shape
    side = int(N**0.5)
    cut = x_BND.reshape(B, side, side, channels, patch_px, patch_px)
    features_BHWC = cut.permute(0, 1, 4, 2, 5, 3).reshape(B, side * patch_px, side * patch_px, channels)
    return features_BHWC.permute(0, 3, 1, 2)

"""Restormer's transformer block, arranged to be fast; equal to the literal formula (tests/oracle checks values and gradients).

Source: Zamir et al., CVPR 2022 (the block), written from spec/dynet.md section 1.2. Rearrangements, none of which changes
the result: native `layer_norm` on the channels-last view; the attention matrix folded into the output projection,
W (A V) = (W A) V, so that the large product is done once; L2 norms divided out after the product, q k^T / (|q| |k|); q, k, v
and the two branches of the feed-forward apart from the start; hidden channels filled up with zeros to whole vectors; backward
passes of our own (_kernels.py). What each gains: docs/speed.md.

Shapes: B batch, C channels, H height, W width, N = H * W pixels, K heads, D = C / K channels of a head, E hidden channels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..statistics import SharedStatistics
from ._kernels import channel_gram, depthwise3x3, gated_projection, in_strips, mix_channels

NORM_EPS = 1e-5  # inside the square root; spec/dynet.md 1.2
LANES = 16  # float32 values in an AVX-512 register; a multiple of what tensor cores ask for, too
L2_EPS = 1e-12  # a constant-zero channel has norm 0; torch's normalize() uses the same floor


class _Affine(nn.Module):
    """Holds a norm's parameters; a module of its own only because checkpoints call them `norm1.body.weight`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel, with weight and bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = _Affine(channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise; same shape, channels-last."""
        x_BHWC = x_BCHW.permute(0, 2, 3, 1)
        weight, bias = self.body.weight, self.body.bias
        normed_BHWC: Tensor = functional.layer_norm(x_BHWC, x_BHWC.shape[-1:], weight, bias, NORM_EPS)
        return normed_BHWC.permute(0, 3, 1, 2)


class _Scale(nn.Module):
    """Holds the one parameter of a norm without bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))


class BiasFreeNorm(nn.Module):
    """Divide each pixel's channels by their deviation about their mean, which is not taken away (spec/dynet.md 1.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = _Scale(channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise; same shape, channels-last."""
        x_BHWC = x_BCHW.permute(0, 2, 3, 1)
        var_BHW1 = x_BHWC.var(dim=-1, unbiased=False, keepdim=True)
        normed_BHWC = x_BHWC * torch.rsqrt(var_BHW1 + NORM_EPS) * self.body.weight
        return normed_BHWC.permute(0, 3, 1, 2)


NORMS: Mapping[str, type[nn.Module]] = {"with_bias": ChannelNorm, "bias_free": BiasFreeNorm}


class ChannelAttention(nn.Module):
    """Multi-Dconv head transposed attention: channels attend to channels, so the cost is linear in the pixels.

    `statistics` is the seam of restoration/statistics.py: the folded matrix is what the whole picture decides.
    """

    statistics: SharedStatistics | None = None

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_dwconv = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Attend over the whole picture; same shape."""
        shared = self.statistics
        if shared is not None and shared.replaying:
            return mix_channels(self._project(x_BCHW, 2), shared.take())
        q_BCHW, k_BCHW, v_BCHW = (self._project(x_BCHW, part) for part in range(3))
        if shared is None:
            return mix_channels(v_BCHW, self._fold(q_BCHW, k_BCHW))
        folded_BCC = self._fold(shared.inside(q_BCHW), shared.inside(k_BCHW), shared)
        return mix_channels(v_BCHW, shared.keep(folded_BCC))

    def _project(self, x_BCHW: Tensor, part: int) -> Tensor:
        """Return q, k or v (0, 1, 2). A small convolution each: no part has to be cut out, and so copied, later."""
        point, around = self.qkv.weight.chunk(3)[part], self.qkv_dwconv.weight.chunk(3)[part]
        return depthwise3x3(functional.conv2d(x_BCHW, point), around)

    def _fold(self, q_BCHW: Tensor, k_BCHW: Tensor, shared: SharedStatistics | None = None) -> Tensor:
        """Return what the layer does to each picture's v: the output projection after the attention, (B or 1, C, C)."""
        C, K = q_BCHW.shape[1], self.temperature.shape[0]
        gram_BKDD, q_length_BC, k_length_BC = channel_gram(q_BCHW, k_BCHW, K)
        if shared is not None:
            q_length_BC, k_length_BC = (shared.total(x_BC.square()).sqrt() for x_BC in (q_length_BC, k_length_BC))
            gram_BKDD = shared.total(gram_BKDD)
        q_length_BKD1 = q_length_BC.clamp_min(L2_EPS).reshape(-1, K, C // K, 1)
        k_length_BK1D = k_length_BC.clamp_min(L2_EPS).reshape(-1, K, 1, C // K)
        logits_BKDD = gram_BKDD / (q_length_BKD1 * k_length_BK1D)  # lengths are float32 or better, so the logits too
        attention_BKDD = torch.softmax(logits_BKDD * self.temperature, dim=-1)
        weight_KCD = self.project_out.weight.reshape(C, K, C // K).permute(1, 0, 2)
        return (weight_KCD @ attention_BKDD.to(weight_KCD.dtype)).transpose(1, 2).reshape(-1, C, C)


class GatedFeedForward(nn.Module):
    """Gated-Dconv feed-forward: two branches, one through an exact GELU, multiplied."""

    def __init__(self, channels: int, expansion: float) -> None:
        super().__init__()
        hidden = int(expansion * channels)
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Mix channels pixel by pixel; same shape."""
        spare = _spare_channels(self.project_out.weight)
        points = [_filled(weight, 0, spare) for weight in self.project_in.weight.chunk(2)]
        around = [_filled(weight, 0, spare) for weight in self.dwconv.weight.chunk(2)]
        weight_CE11 = _filled(self.project_out.weight, 1, spare)

        def mix(rows_BCHW: Tensor) -> Tensor:
            gate_BEHW, value_BEHW = (
                depthwise3x3(functional.conv2d(rows_BCHW, p), a) for p, a in zip(points, around, strict=True)
            )
            return gated_projection(gate_BEHW, value_BEHW, weight_CE11)

        row_values = x_BCHW.shape[0] * x_BCHW.shape[3] * weight_CE11.shape[1]
        return in_strips(mix, x_BCHW, row_values=row_values, halo_rows=1)


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, channels: int, num_heads: int, expansion: float, norm: str = "with_bias") -> None:
        super().__init__()
        self.norm1 = NORMS[norm](channels)
        self.attn = ChannelAttention(channels, num_heads)
        self.norm2 = NORMS[norm](channels)
        self.ffn = GatedFeedForward(channels, expansion)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Apply the block once; same shape."""
        x_BCHW = x_BCHW + self.attn(self.norm1(x_BCHW))
        return x_BCHW + self.ffn(self.norm2(x_BCHW))  # type: ignore[no-any-return]


def _spare_channels(weight_CE11: Tensor) -> int:
    """Say how many hidden channels to add, all zero, so that their number is one that vector units like.

    The published widths (127, 255, 510, 1021) are odd: 16 more or less aligned lanes cost less than every pixel's remainder.
    """
    if torch.compiler.is_exporting() or weight_CE11.device.type == "meta":
        return 0
    return -weight_CE11.shape[1] % LANES


def _filled(weight: Tensor, dim: int, num: int) -> Tensor:
    """Add zeros at the end of a dimension of a convolution's weight."""
    return functional.pad(weight, (0, 0) * (3 - dim) + (0, num)) if num else weight

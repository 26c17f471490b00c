"""Restormer's transformer block, arranged to be fast; equal to the literal formula (tests/oracle checks values and gradients).

Source: Zamir et al., CVPR 2022 (the block), written from spec/dynet.md section 1.2. Three rearrangements, none of which
changes the result (spec/performance.md: 1.5x a training step): native `layer_norm` on the channels-last view; the
attention matrix folded into the output projection, W (A V) = (W A) V, so that the large product is done once; L2 norms
divided out after the product, q k^T / (|q| |k|).

Shapes: B batch, C channels, H height, W width, N = H * W pixels, K heads, D = C / K channels of a head, E hidden channels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..statistics import SharedStatistics

NORM_EPS = 1e-5  # inside the square root; spec/dynet.md 1.2
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
            return _mix(self._value(x_BCHW), shared.take())
        C, K = x_BCHW.shape[1], self.temperature.shape[0]
        qkv_BCHW = self.qkv_dwconv(self.qkv(x_BCHW))
        seen_BCHW = qkv_BCHW if shared is None else shared.inside(qkv_BCHW)
        q_BNC, k_BNC, _ = seen_BCHW.permute(0, 2, 3, 1).flatten(1, 2).chunk(3, dim=-1)
        q_BKDN = q_BNC.unflatten(-1, (K, C // K)).permute(0, 2, 3, 1)
        k_BKND = k_BNC.unflatten(-1, (K, C // K)).permute(0, 2, 1, 3)
        q_norm_BC, k_norm_BC, gram_BKDD = _l2_norm(q_BNC), _l2_norm(k_BNC), q_BKDN @ k_BKND
        if shared is not None:
            q_norm_BC, k_norm_BC = (shared.total(norm.square()).sqrt() for norm in (q_norm_BC, k_norm_BC))
            gram_BKDD = shared.total(gram_BKDD)
        norms_BKDD = q_norm_BC.reshape(-1, K, C // K, 1) * k_norm_BC.reshape(-1, K, 1, C // K)
        logits_BKDD = gram_BKDD / norms_BKDD  # norms are float32 or better, so the logits too
        attention_BKDD = torch.softmax(logits_BKDD * self.temperature, dim=-1)
        weight_KCD = self.project_out.weight.reshape(C, K, C // K).permute(1, 0, 2)
        folded_BCC = (weight_KCD @ attention_BKDD).transpose(1, 2).reshape(-1, C, C)
        if shared is not None:
            folded_BCC = shared.keep(folded_BCC)
        return _mix(qkv_BCHW[:, 2 * C :].permute(0, 2, 3, 1), folded_BCC)

    def _value(self, x_BCHW: Tensor) -> Tensor:
        """Compute v alone, (B, H, W, C): a third of the convolutions."""
        C = x_BCHW.shape[1]
        v_BCHW = functional.conv2d(x_BCHW, self.qkv.weight[2 * C :])
        v_BCHW = functional.conv2d(v_BCHW, self.qkv_dwconv.weight[2 * C :], padding=1, groups=C)
        return v_BCHW.permute(0, 2, 3, 1)


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
        gate_BEHW, value_BEHW = self.dwconv(self.project_in(x_BCHW)).chunk(2, dim=1)
        return self.project_out(functional.gelu(gate_BEHW) * value_BEHW)  # type: ignore[no-any-return]


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


def _mix(v_BHWC: Tensor, folded_BCC: Tensor) -> Tensor:
    """Apply the folded matrix, (B or 1, C, C), to every pixel; (B, C, H, W), channels-last."""
    B, H, W, C = v_BHWC.shape
    out_BNC: Tensor = v_BHWC.reshape(B, H * W, C) @ folded_BCC.transpose(1, 2)
    return out_BNC.reshape(B, H, W, C).permute(0, 3, 1, 2)


def _l2_norm(x_BNC: Tensor) -> Tensor:
    """Length of each channel along the pixels, (B, C), never below the floor that torch's normalize() uses."""
    lengths_BC: Tensor = torch.linalg.vector_norm(x_BNC, dim=1, dtype=torch.promote_types(x_BNC.dtype, torch.float32))
    return lengths_BC.clamp_min(L2_EPS)

"""The inner loops of the transformer block, with backward passes of their own where torch's are slow or remember too much.

Each function equals the plain formula in its docstring, in values and gradients (tests/oracle). Without gradients, and
while a network is exported, the plain formula itself runs. Why each exists: docs/speed.md.

Shapes: B batch, C channels, H height, W width, K heads, D = C / K channels of a head, E hidden channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.grad import conv2d_weight

STRIP_BYTES = (
    8 << 20
)  # of the largest tensor inside a strip: as fast as whole pictures, a third of their memory (docs/speed.md)
MIN_CONVOLVED_PRODUCTS = 4000000  # of a picture: about 50 us saved, twice what a call costs
MIN_STRIP_ROWS = 16  # so that repeated halo rows cost at most an eighth


def depthwise3x3(x_BCHW: Tensor, weight_C133: Tensor) -> Tensor:
    """Convolve every channel with its own 3x3 kernel: `conv2d(x, weight, padding=1, groups=C)`."""
    if _plain(x_BCHW, weight_C133):
        return functional.conv2d(x_BCHW, weight_C133, padding=1, groups=x_BCHW.shape[1])
    return _Depthwise.apply(x_BCHW, weight_C133.to(x_BCHW.dtype))  # type: ignore[no-any-return]


def gated_projection(gate_BEHW: Tensor, value_BEHW: Tensor, weight_CE11: Tensor) -> Tensor:
    """Let one branch gate the other, then mix channels: `conv2d(gelu(gate) * value, weight)`; (B, C, H, W)."""
    if _plain(gate_BEHW, value_BEHW, weight_CE11):
        return functional.conv2d(functional.gelu(gate_BEHW).mul_(value_BEHW), weight_CE11)
    return _GatedProjection.apply(gate_BEHW, value_BEHW, weight_CE11.to(gate_BEHW.dtype))  # type: ignore[no-any-return]


def channel_gram(q_BCHW: Tensor, k_BCHW: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Multiply every channel of q with every channel of k of the same head, summed over the pixels.

    Returns:
        (B, K, D, D) products, then the L2 norms of q's and of k's channels over the pixels, (B, C), in float32 or better.
    """
    if _plain(q_BCHW, k_BCHW):
        return _gram(q_BCHW, k_BCHW, num_heads), _length(q_BCHW), _length(k_BCHW)
    return _Gram.apply(q_BCHW, k_BCHW, num_heads)  # type: ignore[no-any-return]


def mix_channels(x_BCHW: Tensor, matrix_BCC: Tensor) -> Tensor:
    """Multiply every pixel of picture b with matrix b, (C, C), or (without gradients) with the one there is: (B, C, H, W)."""
    if _plain(x_BCHW, matrix_BCC):
        return _mix(x_BCHW, matrix_BCC)
    return _Mix.apply(x_BCHW, matrix_BCC.to(x_BCHW.dtype))  # type: ignore[no-any-return]


def in_strips(run: Callable[[Tensor], Tensor], x_BCHW: Tensor, *, row_values: int, halo_rows: int) -> Tensor:
    """Apply `run` to horizontal strips, so that what it makes inside stays small; equal to `run(x_BCHW)`.

    Only on CPUs, without gradients and outside of `torch.compile` and export: else `run` sees everything at once.

    Args:
        run: keeps the shape; a row of its output depends on at most `halo_rows` rows above and below.
        x_BCHW: the input.
        row_values: values of one row of the largest tensor made inside.
        halo_rows: see `run`.
    """
    rows = max(MIN_STRIP_ROWS, STRIP_BYTES // (row_values * x_BCHW.element_size()))
    height = x_BCHW.shape[2]
    if torch.is_grad_enabled() or x_BCHW.device.type != "cpu" or torch.compiler.is_compiling() or height <= 2 * rows:
        return run(x_BCHW)
    out_BCHW: Tensor | None = None
    for top in range(0, height, rows):
        bottom, above = min(top + rows, height), min(top, halo_rows)
        strip_BCHW = run(x_BCHW[:, :, top - above : bottom + halo_rows])[:, :, above : above + bottom - top]
        if out_BCHW is None:
            out_BCHW = torch.empty_like(x_BCHW, dtype=strip_BCHW.dtype)
        out_BCHW[:, :, top:bottom] = strip_BCHW
    assert out_BCHW is not None, "a picture has rows"
    return out_BCHW


def _plain(*inputs: Tensor) -> bool:
    return torch.compiler.is_exporting() or not (torch.is_grad_enabled() and any(t.requires_grad for t in inputs))


def _rows(x_BCHW: Tensor) -> Tensor:
    """(B, H * W, C); a view where x is channels-last."""
    return x_BCHW.permute(0, 2, 3, 1).flatten(1, 2)


def _heads(x_BCHW: Tensor, num_heads: int) -> Tensor:
    """(B, K, H * W, D)."""
    rows_BNC = _rows(x_BCHW)
    B, N, C = rows_BNC.shape
    return rows_BNC.reshape(B, N, num_heads, C // num_heads).transpose(1, 2)


def _gram(q_BCHW: Tensor, k_BCHW: Tensor, num_heads: int) -> Tensor:
    gram_BKDD: Tensor = _heads(q_BCHW, num_heads).transpose(-2, -1) @ _heads(k_BCHW, num_heads)
    return gram_BKDD


def _length(x_BCHW: Tensor) -> Tensor:
    """L2 norm over the pixels; four times as fast on CPUs as `vector_norm`, whose loop over rows has no vectors."""
    dtype = torch.float64 if x_BCHW.dtype == torch.float64 else torch.float32
    return _rows(x_BCHW).square().sum(1, dtype=dtype).sqrt()


def _mix(x_BCHW: Tensor, matrix_BCC: Tensor, num_groups: int = 1) -> Tensor:
    """1x1 convolution with each picture's own matrix, (B, C, C / groups), or one for all, (1, C, C / groups).

    Where BLAS is MKL on a CPU that is not Intel's, oneDNN's convolution is 2 to 2.5 times as fast in float32 as `@`, which
    pays for one call a picture unless pictures are small.
    """
    B, C, H, W = x_BCHW.shape
    float32_on_cpu = x_BCHW.device.type == "cpu" and x_BCHW.dtype == torch.float32
    if float32_on_cpu and not torch.compiler.is_exporting() and H * W * C * C >= MIN_CONVOLVED_PRODUCTS:
        kernels = matrix_BCC[..., None, None].unbind()
        pictures = [x_BCHW] if len(kernels) == 1 else [x_BCHW[number : number + 1] for number in range(B)]
        mixed = [functional.conv2d(x, kernel, groups=num_groups) for x, kernel in zip(pictures, kernels, strict=True)]
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)
    matrix_BKDD = matrix_BCC.reshape(-1, num_groups, C // num_groups, C // num_groups).transpose(-2, -1)
    mixed_BKND = _heads(x_BCHW, num_groups) @ matrix_BKDD
    return mixed_BKND.transpose(1, 2).reshape(B, H, W, C).permute(0, 3, 1, 2)


class _Depthwise(torch.autograd.Function):
    """Backward to the input is a forward convolution with turned kernels: up to 4 times as fast as torch's own."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return functional.conv2d(x, weight, padding=1, groups=x.shape[1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = _like_layout(grad, x)
        channels, (need_x, need_weight) = x.shape[1], ctx.needs_input_grad
        grad_x = functional.conv2d(grad, weight.flip(2, 3), padding=1, groups=channels) if need_x else None
        grad_weight = _weight_gradient(x, weight, grad, padding=1, groups=channels) if need_weight else None
        return grad_x, grad_weight


class _GatedProjection(torch.autograd.Function):
    """Remembers the two branches alone; the activation and the product are made again."""

    @staticmethod
    def forward(gate: Tensor, value: Tensor, weight: Tensor) -> Tensor:
        return functional.conv2d(functional.gelu(gate).mul_(value), weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gate, value, weight = ctx.saved_tensors
        grad = _like_layout(grad, gate)
        active = functional.gelu(gate)
        product = active * value
        grad_weight = _weight_gradient(product, weight, grad)
        grad_product = functional.conv2d(grad, weight.transpose(0, 1))
        grad_gate = torch.ops.aten.gelu_backward(torch.mul(grad_product, value, out=product), gate)
        return grad_gate, grad_product.mul_(active), grad_weight


class _Gram(torch.autograd.Function):
    """Both gradients of q (through the products and through its norm) in two passes over the pixels."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
        return _gram(q, k, num_heads), _length(q), _length(k)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs[:2], *output[1:])
        ctx.num_heads = inputs[2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_gram: Tensor, grad_q_length: Tensor, grad_k_length: Tensor) -> tuple[Any, ...]:
        q, k, q_length, k_length = ctx.saved_tensors
        to_q, to_k = grad_gram.flatten(1, 2), grad_gram.transpose(-2, -1).flatten(1, 2)
        grad_q = _mix(k, to_q, ctx.num_heads).addcmul_(q, _per_length(grad_q_length, q_length, q.dtype))
        grad_k = _mix(q, to_k, ctx.num_heads).addcmul_(k, _per_length(grad_k_length, k_length, k.dtype))
        return grad_q, grad_k, None


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, matrix: Tensor) -> Tensor:
        return _mix(x, matrix)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, matrix = ctx.saved_tensors
        grad = _like_layout(grad, x)
        return _mix(grad, matrix.transpose(1, 2)), _gram(grad, x, 1)[:, 0]


def _weight_gradient(x: Tensor, weight: Tensor, grad: Tensor, *, padding: int = 0, groups: int = 1) -> Tensor:
    gradient: Tensor = conv2d_weight(x, weight.shape, grad, padding=padding, groups=groups)  # type: ignore[no-untyped-call]
    return gradient


def _like_layout(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient in the dtype and layout of what it belongs to."""
    last = x.is_contiguous(memory_format=torch.channels_last)
    return grad.to(x.dtype).contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _per_length(grad_BC: Tensor, length_BC: Tensor, dtype: torch.dtype) -> Tensor:
    """d|q| / dq = q / |q|; a channel of zeros gets no gradient."""
    return torch.where(length_BC > 0, grad_BC / length_BC, 0.0).to(dtype)[:, :, None, None]

"""A forward of a plain vision transformer that does nothing but the arithmetic, in bfloat16 where the machine has it.

Why: with bfloat16 matrix products, PyTorch's own attention takes a quarter of a ViT-S's time on a CPU without AMX: its fused
kernel is slower there in bfloat16 than in float32. Two batched products and a softmax take half of that. Norms, scales and the
input's normalisation are folded into the products (`_vit_parts`), whose weights are packed once for oneDNN.

Shapes: B images, N = P + T tokens, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ConfigError
from ._vit_parts import PIXEL_LEVELS, Linear, Norm, VitParts

if TYPE_CHECKING:
    import torch

PRECISIONS, DEVICES = ("auto", "fp32", "bf16"), ("auto", "cpu", "cuda")
_CENTRE_LEVELS = (
    116  # subtracted from pixels, so that their bfloat16 is exact and as small as may be; about ImageNet's mean
)
_IMAGES_AT_ONCE = 4  # what a block's intermediate values fit the cache with; benchmarks/bench_encode.py
_Product = Callable[[Any], Any]


def check_choices(where: str, precision: str, device: str) -> None:
    """Raise ConfigError unless both are known."""
    if precision not in PRECISIONS:
        raise ConfigError(f"{where}: precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if device not in DEVICES:
        raise ConfigError(f"{where}: device must be one of {', '.join(DEVICES)}, got {device!r}")


def resolve_device(device: str) -> str:
    """Turn `auto` into what this machine has.

    Raises:
        ConfigError: `cuda` is asked for and there is none.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch finds no GPU here; use device = 'auto' or 'cpu'")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def resolve_precision(precision: str, device: str) -> str:
    """Turn `auto` into `bf16` where that is faster: on a GPU, and on a CPU with instructions for it."""
    if precision != "auto":
        return precision
    return "bf16" if device == "cuda" or _cpu_multiplies_bf16() else "fp32"


def _cpu_multiplies_bf16() -> bool:
    """Say whether this CPU has AVX512_BF16 or AMX; elsewhere bfloat16 is emulated, and slower than float32."""
    import torch

    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in asked)


@dataclass(frozen=True, slots=True)
class _Block:
    qkv: _Product
    out: _Product
    up: _Product
    down: _Product
    eps1: float
    eps2: float


class LeanVit:
    """The forward, its weights ready for one device and precision."""

    def __init__(self, parts: VitParts, *, precision: str, device: str) -> None:
        import torch

        self._parts, self._device = parts, torch.device(device)
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._num_rows = _IMAGES_AT_ONCE * (len(parts.prefix) + len(parts.position))
        self._activate = _activation(parts.activation)
        centred = Linear(
            weight=parts.patch.weight, bias=parts.patch.bias + _CENTRE_LEVELS * parts.patch.weight.sum(dim=1)
        )
        self._patch = self._product(centred)
        self._blocks = [
            _Block(
                self._product(one.qkv),
                self._product(one.out),
                self._product(one.up),
                self._product(one.down),
                one.eps1,
                one.eps2,
            )
            for one in parts.blocks
        ]
        self._exact: LeanVit | None = None

    def hidden(self, images_NHWC: NDArray[np.uint8]) -> torch.Tensor:
        """Run all blocks.

        Args:
            images_NHWC: (N, input_px, input_px, 3) uint8 RGB. Not modified.

        Returns:
            (N, P + T, D) float32 on the device.
        """
        import torch

        with torch.inference_mode():
            pixels = torch.from_numpy(np.ascontiguousarray(images_NHWC))
            chunks = torch.split(pixels, _IMAGES_AT_ONCE if self._device.type == "cpu" else len(pixels))
            return torch.cat([self._hidden(self._patches(chunk)).float() for chunk in chunks])

    def hidden_of(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Run all blocks in float32, differentiable with respect to the input.

        Args:
            x_BCHW: (B, 3, input_px, input_px) float32 in [0, 1].

        Returns:
            (B, P + T, D) float32.
        """
        import torch

        if self._dtype != torch.float32 or x_BCHW.device != self._device:
            if self._exact is None or self._exact._device != x_BCHW.device:
                self._exact = LeanVit(self._parts, precision="fp32", device=str(x_BCHW.device))
            return self._exact.hidden_of(x_BCHW)
        side = self._parts.patch_px
        size, along = x_BCHW.shape[0], self._parts.input_px // side
        cells = (x_BCHW.float() * PIXEL_LEVELS - _CENTRE_LEVELS).reshape(size, 3, along, side, along, side)
        return self._hidden(cells.permute(0, 2, 4, 3, 5, 1).reshape(size, along * along, -1))

    def _product(self, linear: Linear) -> _Product:
        """Make a function x -> x W' + b; on a CPU in bfloat16 with weights in oneDNN's own layout."""
        import torch

        weight = linear.weight.to(self._device, self._dtype)
        bias = linear.bias.to(self._device, self._dtype)
        pack = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
        if self._device.type != "cpu" or self._dtype != torch.bfloat16 or pack is None:
            return lambda x: torch.nn.functional.linear(x, weight, bias)
        packed = pack(weight, self._num_rows)  # PyTorch's compiler does the same; 5 % faster than `linear`
        multiply = torch.ops.mkldnn._linear_pointwise
        return lambda x: multiply(x, packed, bias, "none", [], "")

    def _patches(self, pixels_BYXC: torch.Tensor) -> torch.Tensor:
        side, along = self._parts.patch_px, self._parts.input_px // self._parts.patch_px
        cells = pixels_BYXC.reshape(-1, along, side, along, side, 3).permute(0, 1, 3, 2, 4, 5)
        flat = cells.reshape(len(pixels_BYXC), along * along, -1)
        return flat.to(self._device).to(self._dtype).sub_(_CENTRE_LEVELS)

    def _hidden(self, patches_BTK: torch.Tensor) -> torch.Tensor:
        import torch
        from torch.nn.functional import layer_norm

        parts = self._parts
        seen = self._patch(patches_BTK) + parts.position.to(self._device, self._dtype)
        prefix = parts.prefix.to(self._device, self._dtype).expand(len(seen), -1, -1)
        x = torch.cat([prefix, seen], dim=1)
        x = _normed(x, parts.first_norm)
        width = x.shape[-1:]
        for block in self._blocks:
            x = x + block.out(self._attend(block.qkv(layer_norm(x, width, eps=block.eps1))))
            x = x + block.down(self._activate(block.up(layer_norm(x, width, eps=block.eps2))))
        return _normed(x, parts.last_norm)

    def _attend(self, qkv_BNE: torch.Tensor) -> torch.Tensor:
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        size, num, wide = qkv_BNE.shape
        heads, depth = self._parts.num_heads, wide // (3 * self._parts.num_heads)
        q, k, v = qkv_BNE.view(size, num, 3, heads, depth).permute(2, 0, 3, 1, 4).unbind(0)
        if self._device.type != "cpu" or self._dtype != torch.bfloat16:
            mixed = scaled_dot_product_attention(q, k, v, scale=1.0)
        else:
            q, k, v = (part.reshape(size * heads, num, depth) for part in (q, k, v))
            mixed = torch.bmm(torch.bmm(q, k.mT).softmax(dim=-1), v).view(size, heads, num, depth)
        return mixed.transpose(1, 2).reshape(size, num, heads * depth)


def _normed(x: torch.Tensor, norm: Norm | None) -> torch.Tensor:
    from torch.nn.functional import layer_norm

    if norm is None:
        return x
    weight, bias = norm.weight.to(x.device, x.dtype), norm.bias.to(x.device, x.dtype)
    return layer_norm(x, x.shape[-1:], weight, bias, norm.eps)


def _activation(name: str) -> Callable[[Any], Any]:
    from torch.nn.functional import gelu

    if name == "quick_gelu":
        return lambda x: x * (1.702 * x).sigmoid()  # Hendrycks and Gimpel, arXiv 1606.08415, section 2; OpenAI's CLIP
    return lambda x: gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")

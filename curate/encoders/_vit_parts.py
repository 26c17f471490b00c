"""The weights of a plain vision transformer, taken out of timm's or open_clip's model and folded for a lean forward.

What comes right before a matrix product goes into its matrix: scale and shift of each layer norm, layer scale, the softmax's
scale, and the input's mean and deviation, so that a forward multiplies 8-bit pixels. Folding changes no value beyond rounding.

Shapes: D width, T patch tokens, P prefix tokens (class, registers), F hidden width of the MLP, K = 3 * patch_px**2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PIXEL_LEVELS = 255.0
ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu"}
"""Class of an activation without weights -> our name for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A matrix product: weight (out, in) and bias (out,), float32."""

    weight: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """A layer norm that could not be folded: weight and bias (D,), float32."""

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockParts:
    """One block: x += out(attention(qkv(norm(x)))), then x += down(activation(up(norm(x)))); norms without weights."""

    qkv: Linear
    out: Linear
    up: Linear
    down: Linear
    eps1: float
    eps2: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VitParts:
    """A whole transformer up to its last wanted block.

    Attributes:
        input_px: side of its square input.
        patch_px: side of a patch.
        num_heads: of every block.
        activation: a value of `ACTIVATIONS`.
        patch: K inputs in the order (y, x, channel), pixels in 8-bit levels.
        position: (T, D), of each patch token.
        prefix: (P, D), class token and registers, with their positions.
        first_norm: before the first block (CLIP), or None.
        blocks: in order.
        last_norm: after the last block, or None.
    """

    input_px: int
    patch_px: int
    num_heads: int
    activation: str
    patch: Linear
    position: torch.Tensor
    prefix: torch.Tensor
    first_norm: Norm | None
    blocks: tuple[BlockParts, ...]
    last_norm: Norm | None


def timm_parts(
    model: Any, mean: Sequence[float], std: Sequence[float], *, num_blocks: int, last_norm: bool
) -> VitParts | None:
    """Take the parts of timm's `VisionTransformer`.

    Args:
        model: in evaluation mode, float32; not modified.
        mean: of the input it was trained with, R, G, B in [0, 1].
        std: the same.
        num_blocks: how many blocks are wanted.
        last_norm: whether its own last norm follows.

    Returns:
        None for a variant that is not a plain transformer (another attention, MLP or position): its own forward is to be used.
    """
    import torch

    blocks = list(model.blocks)[:num_blocks]
    plain = (
        type(model).__name__ == "VisionTransformer" and type(model.patch_embed).__name__ == "PatchEmbed"
        and not model.dynamic_img_size and model.pos_embed is not None
        and model.patch_embed.patch_size[0] == model.patch_embed.patch_size[1]
        and model.patch_embed.img_size[0] == model.patch_embed.img_size[1]
        and _are_identities(model.patch_embed.norm) and all(map(_is_plain_timm_block, blocks))
    )  # fmt: skip
    activation = ACTIVATIONS.get(type(blocks[0].mlp.act).__name__) if plain else None
    if not plain or activation is None:
        return None
    tokens = [token[0] for token in (model.cls_token, model.reg_token) if token is not None]
    prefix = torch.cat(tokens) if tokens else torch.zeros(0, model.embed_dim)
    position = model.pos_embed[0]
    if not model.no_embed_class:
        prefix = prefix + position[: len(prefix)]
        position = position[len(prefix) :]
    with torch.no_grad():
        return VitParts(
            input_px=model.patch_embed.img_size[0], patch_px=model.patch_embed.patch_size[0],
            num_heads=blocks[0].attn.num_heads, activation=activation,
            patch=_fold_pixels(model.patch_embed.proj, mean, std),
            position=position.detach().clone(), prefix=prefix.detach().clone(),
            first_norm=_norm(model.norm_pre), blocks=tuple(map(_timm_block, blocks)),
            last_norm=_norm(model.norm) if last_norm else None,
        )  # fmt: skip


def open_clip_parts(visual: Any, mean: Sequence[float], std: Sequence[float]) -> VitParts | None:
    """Take the parts of open_clip's `VisionTransformer`; None for a variant that is not a plain transformer."""
    import torch

    blocks = list(visual.transformer.resblocks) if type(visual).__name__ == "VisionTransformer" else []
    if not blocks or not all(map(_is_plain_clip_block, blocks)):
        return None
    activation = ACTIVATIONS.get(type(blocks[0].mlp.gelu).__name__)
    square = visual.image_size[0] == visual.image_size[1] and visual.patch_size[0] == visual.patch_size[1]
    if activation is None or not square or visual.attn_pool is not None or visual.final_ln_after_pool:
        return None
    with torch.no_grad():
        position = visual.positional_embedding
        return VitParts(
            input_px=visual.image_size[0], patch_px=visual.patch_size[0],
            num_heads=blocks[0].attn.num_heads, activation=activation,
            patch=_fold_pixels(visual.conv1, mean, std), position=position[1:].detach().clone(),
            prefix=(visual.class_embedding[None] + position[:1]).detach().clone(),
            first_norm=_norm(visual.ln_pre), blocks=tuple(map(_clip_block, blocks)), last_norm=_norm(visual.ln_post),
        )  # fmt: skip


def _are_identities(*modules: Any) -> bool:
    return all(type(module).__name__ == "Identity" for module in modules)


def _is_layer_norm(*modules: Any) -> bool:
    return all(
        type(module).__name__ in ("LayerNorm", "LayerNormFp32") and module.weight is not None for module in modules
    )


def _is_plain_timm_block(block: Any) -> bool:
    if type(block).__name__ != "Block" or type(block.attn).__name__ != "Attention" or type(block.mlp).__name__ != "Mlp":
        return False
    attention, mlp = block.attn, block.mlp
    scales = all(type(scale).__name__ in ("Identity", "LayerScale") for scale in (block.ls1, block.ls2))
    return (
        scales and _is_layer_norm(block.norm1, block.norm2) and attention.gate is None
        and _are_identities(attention.q_norm, attention.k_norm, attention.norm, mlp.norm)
        and attention.num_heads * attention.head_dim == attention.proj.in_features
    )  # fmt: skip


def _is_plain_clip_block(block: Any) -> bool:
    return (
        type(block).__name__ == "ResidualAttentionBlock" and not hasattr(block, "ln_1_kv")
        and _is_layer_norm(block.ln_1, block.ln_2) and block.attn.in_proj_weight is not None
        and block.attn.bias_k is None and block.attn.in_proj_bias is not None
    )  # fmt: skip


def _norm(module: Any) -> Norm | None:
    if _are_identities(module):
        return None
    return Norm(weight=module.weight.detach().clone(), bias=module.bias.detach().clone(), eps=module.eps)


def _fold_pixels(convolution: Any, mean: Sequence[float], std: Sequence[float]) -> Linear:
    """Let a patch's matrix take 8-bit levels: w ((v / 255 - mean) / std) = (w / (255 std)) v - w mean / std."""
    import torch

    weight_DCYX = convolution.weight.double()
    deviation = torch.tensor(std, dtype=torch.float64)[None, :, None, None]
    centre = torch.tensor(mean, dtype=torch.float64)[None, :, None, None]
    bias = -(weight_DCYX * centre / deviation).sum(dim=(1, 2, 3))
    if convolution.bias is not None:
        bias = bias + convolution.bias.double()
    scaled_DYXC = (weight_DCYX / (PIXEL_LEVELS * deviation)).permute(0, 2, 3, 1)
    return Linear(weight=scaled_DYXC.reshape(len(weight_DCYX), -1).float(), bias=bias.float())


def _fold(weight: Any, bias: Any, *, norm: Any = None, scale: Any = None) -> Linear:
    """Fold a norm's weight and bias from the left and a scale of the outputs from the right, in float64."""
    import torch

    matrix = weight.double()
    shift = bias.double() if bias is not None else torch.zeros(len(matrix), dtype=torch.float64)
    if norm is not None:
        shift = shift + matrix @ norm.bias.double()
        matrix = matrix * norm.weight.double()[None]
    if scale is not None:
        matrix, shift = matrix * scale.double()[:, None], shift * scale.double()
    return Linear(weight=matrix.float().contiguous(), bias=shift.float())


def _softmax_scale(width: int, num_heads: int) -> Any:
    """Multiply the queries by 1 / sqrt(head's width), keys and values by one."""
    import torch

    scale = torch.ones(3 * width, dtype=torch.float64)
    scale[:width] = (width // num_heads) ** -0.5
    return scale


def _timm_block(block: Any) -> BlockParts:
    attention, mlp, heads = block.attn, block.mlp, block.attn.num_heads
    scale = _softmax_scale(attention.qkv.out_features // 3, heads)
    scales = [None if _are_identities(one) else one.gamma for one in (block.ls1, block.ls2)]
    return BlockParts(
        qkv=_fold(attention.qkv.weight, attention.qkv.bias, norm=block.norm1, scale=scale),
        out=_fold(attention.proj.weight, attention.proj.bias, scale=scales[0]),
        up=_fold(mlp.fc1.weight, mlp.fc1.bias, norm=block.norm2),
        down=_fold(mlp.fc2.weight, mlp.fc2.bias, scale=scales[1]),
        eps1=block.norm1.eps, eps2=block.norm2.eps,
    )  # fmt: skip


def _clip_block(block: Any) -> BlockParts:
    attention, mlp = block.attn, block.mlp
    scale = _softmax_scale(attention.embed_dim, attention.num_heads)
    scales = [None if _are_identities(one) else one.gamma for one in (block.ls_1, block.ls_2)]
    return BlockParts(
        qkv=_fold(attention.in_proj_weight, attention.in_proj_bias, norm=block.ln_1, scale=scale),
        out=_fold(attention.out_proj.weight, attention.out_proj.bias, scale=scales[0]),
        up=_fold(mlp.c_fc.weight, mlp.c_fc.bias, norm=block.ln_2),
        down=_fold(mlp.c_proj.weight, mlp.c_proj.bias, scale=scales[1]),
        eps1=block.ln_1.eps, eps2=block.ln_2.eps,
    )  # fmt: skip

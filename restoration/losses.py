"""What training minimises, as named functions of (output, target) batches."""

from __future__ import annotations

from torch import Tensor


def l1(output_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """Mean absolute difference, in float32; a scalar.

    Source:
        spec/dynet.md 2.1 and 2.2 (DyNet, PromptIR). The output is not clamped first: a clamp would cut the gradient
        where the output leaves [0, 1] (spec/dynet.md section 7, trap 12).
    """
    return (output_BCHW.float() - target_BCHW.float()).abs().mean()

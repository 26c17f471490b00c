"""Float32 that is float32: on NVIDIA GPUs PyTorch lets convolutions round their inputs to TF32 (10 bits) unless told not to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_exactly(device_type: str) -> Iterator[None]:
    """Convolve without TF32 inside; matrix products are without it by PyTorch's own default.

    The switch is one for the whole process. Does nothing off CUDA, nor while torch.compile traces.

    Args:
        device_type: of the tensors, such as `cuda`.
    """
    if device_type != "cuda" or torch.compiler.is_compiling():
        yield
        return
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before

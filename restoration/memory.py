"""How much memory restoring takes, known before it is taken.

A forward pass is counted on a small batch with the network itself: every storage that an operation gives is followed from its
birth to its death, and the peak of what lives at once is taken. Two sizes give a constant and a cost a pixel. What the
operations use inside is not seen; `WORKSPACE_FACTOR` stands for it.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from curate.core.errors import ConfigError

# dynet-tiny, dynet-s, 128 to 768 px, 2 cores: the resident set grew by 0.9 to 1.6 times the counted bytes (docs/log.md)
WORKSPACE_FACTOR = 1.65
RESERVE_BYTES = 64 << 20  # codecs loaded later, the allocator's loose ends
DEFAULT_BYTES = 4_000_000_000  # on a CPU: fixed, since a picture's tiles, and so its last bits, depend on it
GPU_SHARE = 0.8  # of what is free there
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_PATTERN = re.compile(r"^(\d+(?:\.\d+)?)\s*([kmgt]i?|)b?$")
PROBE_SIDES_PX = (64, 128)  # a network that cuts its pictures up by itself names larger ones: `probe_sides_px`


@dataclass(frozen=True, slots=True)
class ForwardCost:
    """Bytes that live at once in a forward pass: fixed + per_pixel * pixels of the batch."""

    fixed: float
    per_pixel: float

    def of(self, num_pixels: int) -> float:
        """Return the bytes for a batch of so many pixels."""
        return self.fixed + self.per_pixel * num_pixels

    def pixels_in(self, num_bytes: float) -> int:
        """Return how many pixels fit."""
        return max(0, int((num_bytes - self.fixed) / self.per_pixel))


def parse_bytes(text: str, *, name: str) -> int:
    """Read `2GB`, `1.5 GiB`, `800M`: GB is 10^9, GiB 2^30.

    Raises:
        ConfigError: not a size.

    Example:
        >>> parse_bytes("2GB", name="max_memory"), parse_bytes("1.5GiB", name="max_memory")
        (2000000000, 1610612736)
    """
    match = _PATTERN.match(text.strip().lower())
    if match is None or not float(match[1]) > 0:
        raise ConfigError(f"{name} must be a size such as 2GB, 1.5GiB or 800MB, got {text!r}")
    return int(float(match[1]) * _UNITS[match[2]])


def memory_limit(text: str, device: torch.device) -> int:
    """Return the limit in bytes: of this process on a CPU, of the GPU's memory on a GPU; "" is the default.

    Raises:
        ConfigError: not a size.
    """
    if text:
        return parse_bytes(text, name="restore.max_memory")
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(GPU_SHARE * (free + torch.cuda.memory_reserved(device)))
    return DEFAULT_BYTES


def memory_in_use(device: torch.device) -> int:
    """Return what is taken before a picture is opened: this process, or its tensors on the GPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def forward_cost(
    run: Callable[[Tensor], Tensor], device: torch.device, sides_px: tuple[int, int] = PROBE_SIDES_PX
) -> ForwardCost:
    """Count a network's forward pass on two squares of noise."""
    small, large = (_PeakBytes.of(run, torch.rand(1, 3, side, side, device=device)) for side in sides_px)
    pixels = [side * side for side in sides_px]
    per_pixel = (large - small) / (pixels[1] - pixels[0])
    fixed = max(0.0, small - per_pixel * pixels[0])
    return ForwardCost(WORKSPACE_FACTOR * fixed, WORKSPACE_FACTOR * max(per_pixel, 1.0))


class _PeakBytes(TorchDispatchMode):
    """Follows every storage that an operation returns."""

    @classmethod
    @torch.inference_mode()
    def of(cls, run: Callable[[Tensor], Tensor], x_BCHW: Tensor) -> int:
        mode = cls()
        with mode:
            run(x_BCHW)
        return mode.peak

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._follow(leaf.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size

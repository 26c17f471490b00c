"""Named evaluation protocols: crop, damage, rounding and metrics, fixed together, so that a number never stands alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from curate.core.errors import PluginError

from .metrics import Array, psnr, ssim


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationProtocol:
    """How pictures become numbers.

    Attributes:
        name: stands beside every number.
        crop_multiple_px: pictures are centre-cropped to multiples of this before they are damaged.
        seed: of one RandomState that serves all pictures of a bench, sorted by name.
        metrics: name -> function of (output, target), both (3, H, W) in [0, 1]; the output is clamped, not rounded.
        description: in words, for tables and files.
    """

    name: str
    crop_multiple_px: int
    seed: int
    metrics: Mapping[str, Callable[[Array, Array], float]]
    description: str

    def generator(self) -> np.random.RandomState:
        """Start the random stream of one bench."""
        return np.random.RandomState(self.seed)


PROMPTIR = EvaluationProtocol(
    name="promptir",
    crop_multiple_px=16,
    seed=0,
    metrics=MappingProxyType({"psnr_db": psnr, "ssim": ssim}),
    description="RGB, centre crop to /16, noise clipped and floored to 8 bits, output clamped and not rounded, 7x7 SSIM",
)
"""Source: spec/dynet.md section 5. The published code takes pictures in the file system's order; we sort them by name, and
start the stream anew for each sigma."""

PROTOCOLS: Mapping[str, EvaluationProtocol] = MappingProxyType({PROMPTIR.name: PROMPTIR})


def protocol_by_name(name: str) -> EvaluationProtocol:
    """Return a named protocol.

    Raises:
        PluginError: no such protocol; lists all.
    """
    if name not in PROTOCOLS:
        raise PluginError(f"no protocol called {name!r}; known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]

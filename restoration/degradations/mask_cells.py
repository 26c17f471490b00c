"""Hide and spoil the cells of an 8x8 grid: the corruption of DyNet's pre-training, or masking alone.

Source: spec/dynet.md 2.1 (its "suggested reading"): half of the 64 cells degraded, 30 % masked white, disjoint, 80 %
modified. The paper gives no levels. Ours: a degraded cell is JPEG, Gaussian noise or random-valued impulses, equally likely;
noise draws its own strength per cell, JPEG one quality per picture (whole picture compressed, cells cut from it). A cell is
1/8 of each side, rounded to whole pixels; 16 px in a crop of 128.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curate.core.errors import ConfigError

from . import Parameters, Pixels, Rng, check_pixels, clipped, jpeg, render_drawn
from ._batch import batch_method, generators, normal_fields, uniform_fields, upload
from ._blocks import jpeg_batch
from ._draws import between, check_range, check_share, check_shares, choose, draw_seed, integer_between

GRID = 8
KINDS = ("jpeg", "gaussian", "impulse")
CLEAN, MASKED, JPEG, GAUSSIAN, IMPULSE = range(5)
SUBSAMPLING = "420"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Cells drawn for every picture.

    Attributes:
        masked_share: of the 64 cells, filled with `fill`.
        degraded_share: of the 64 cells, degraded; none is both.
        fill: what masked cells show, 0..1.
        kind_shares: odds of jpeg, gaussian and impulse in a degraded cell.
        min_quality: of JPEG; lower end.
        max_quality: upper end.
        max_sigma_levels: of Gaussian noise, drawn per cell from 0.
        max_impulse_frac: pixels replaced by random colours, drawn per cell from 0.
    """

    name: ClassVar[str] = "mask_cells"
    masked_share: float = 0.3
    degraded_share: float = 0.5
    fill: float = 1.0
    kind_shares: tuple[float, ...] = (1.0, 1.0, 1.0)
    min_quality: int = 5
    max_quality: int = 50
    max_sigma_levels: float = 50.0
    max_impulse_frac: float = 0.5

    def __post_init__(self) -> None:
        """Check ranges."""
        for field in ("masked_share", "degraded_share", "fill", "max_impulse_frac"):
            check_share(self.name, field, getattr(self, field))
        if self.masked_share + self.degraded_share > 1:
            raise ConfigError(
                "mask_cells: masked_share + degraded_share must be <= 1 (no cell is both), "
                f"got {self.masked_share} + {self.degraded_share}"
            )
        check_shares(self.name, "kind_shares", self.kind_shares, len(KINDS))
        check_range(self.name, "quality", self.min_quality, self.max_quality, least=1, most=100)
        check_range(self.name, "sigma_levels", 0, self.max_sigma_levels, least=0, most=255)

    def draw(self, rng: Rng, height: int, width: int) -> dict[str, Any]:
        """Draw the fate of every cell: row by row, `cells` holds its kind, `strengths` the noise's strength."""
        num_masked = round(self.masked_share * GRID**2)
        num_degraded = min(round(self.degraded_share * GRID**2), GRID**2 - num_masked)
        cells, strengths = [CLEAN] * GRID**2, [0.0] * GRID**2
        order = np.argsort([rng.uniform() for _ in range(GRID**2)], kind="stable").tolist()
        for place in order[:num_masked]:
            cells[place] = MASKED
        for place in order[num_masked : num_masked + num_degraded]:
            cells[place] = JPEG + KINDS.index(choose(rng, KINDS, self.kind_shares))
            largest = {GAUSSIAN: self.max_sigma_levels, IMPULSE: self.max_impulse_frac}.get(cells[place], 0.0)
            strengths[place] = between(rng, 0, largest)
        quality = integer_between(rng, self.min_quality, self.max_quality)
        return {
            "cells": cells, "strengths": strengths, "quality": quality, "fill": self.fill, "seed": draw_seed(rng),
        }  # fmt: skip

    def render(self, image_CHW: Pixels, parameters: Parameters) -> Pixels:
        """Return a copy with spoilt cells."""
        check_pixels(image_CHW, where=self.name)
        fate, strength = _maps(parameters, *image_CHW.shape[1:])
        rng = np.random.default_rng(parameters["seed"])
        noisy = image_CHW + rng.standard_normal(image_CHW.shape, np.float32) * (strength / np.float32(255))
        colours = rng.random(image_CHW.shape, np.float32)
        hit = rng.random(fate.shape, np.float32) < strength
        squeezed = jpeg.Plugin().render(
            image_CHW, {"quality": parameters["quality"], "subsampling": SUBSAMPLING}
        )  # fmt: skip
        damaged = np.where(fate == JPEG, squeezed, image_CHW)
        damaged = np.where(fate == GAUSSIAN, noisy, damaged)
        damaged = np.where((fate == IMPULSE) & hit, colours, damaged)
        return clipped(np.where(fate == MASKED, np.float32(parameters["fill"]), damaged))

    def apply(self, image_CHW: Pixels, rng: Rng) -> Pixels:
        """Return a damaged copy of a (3, H, W) float32 image."""
        return render_drawn(self, image_CHW, rng)

    @batch_method
    def render_batch(self, x_BCHW: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Return copies of a batch with spoilt cells."""
        maps = [_maps(values, *x_BCHW.shape[2:]) for values in parameters]
        fate, strength = (upload(np.stack(planes)[:, None], x_BCHW) for planes in zip(*maps, strict=True))
        streams = generators(parameters, x_BCHW)
        noisy = x_BCHW + normal_fields(streams, x_BCHW.shape[1:], x_BCHW) * (strength / 255)
        colours = uniform_fields(streams, x_BCHW.shape[1:], x_BCHW)
        hit = uniform_fields(streams, (1, *x_BCHW.shape[2:]), x_BCHW) < strength
        squeezed = jpeg_batch(x_BCHW, [values["quality"] for values in parameters], SUBSAMPLING)
        damaged = torch.where(fate == JPEG, squeezed, x_BCHW)
        damaged = torch.where(fate == GAUSSIAN, noisy, damaged)
        damaged = torch.where((fate == IMPULSE) & hit, colours, damaged)
        fill = torch.tensor([values["fill"] for values in parameters], device=x_BCHW.device).view(-1, 1, 1, 1)
        return torch.where(fate == MASKED, fill, damaged).clamp(0, 1)


def _maps(parameters: Parameters, height: int, width: int) -> tuple[NDArray[np.int64], Pixels]:
    """Spread the cells over the pixels: kind and strength, both (H, W)."""
    rows, columns = (np.minimum(np.arange(side) * GRID // side, GRID - 1) for side in (height, width))
    cells = np.array(parameters["cells"], np.int64).reshape(GRID, GRID)
    strengths = np.array(parameters["strengths"], np.float32).reshape(GRID, GRID)
    return cells[rows][:, columns], strengths[rows][:, columns]

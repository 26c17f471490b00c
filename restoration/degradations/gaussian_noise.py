"""Add Gaussian noise: independent per channel, the same in all three, or correlated between them.

Source: spec/dynet.md 2.2 and 5 (PromptIR's pictures are clipped and floored to 8 bits after the noise; `storage="floor"`);
spec/ipt.md 8.4 (`none` is the unclipped float noise of the denoising literature; grey noise is Real-ESRGAN's, noise
correlated between channels BSRGAN's). Noise is drawn in (H, W, 3) order, so that a RandomState gives the very pictures of
those protocols; `stream="mt19937"` replays such a stream from its seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import Parameters, Pixels, Rng, check_pixels
from ._batch import batch_method, flags, generators, normal_fields, per_picture
from ._draws import between, check_name, check_range, check_shares, choose, draw_seed

STORAGES = ("floor", "clip", "none")
KINDS = ("colour", "grey", "correlated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Noise of one strength, or of a strength drawn anew for every picture.

    Attributes:
        min_sigma_levels: standard deviation in 8-bit levels; lower end of the range.
        max_sigma_levels: upper end; equal to the lower end for a fixed strength.
        storage: `floor`: clip to [0, 255] and drop the fraction, as the picture's file would; `clip`: keep floats in
            [0, 1]; `none`: keep floats, also outside.
        kind_shares: odds of `colour`, `grey` and `correlated` noise.
    """

    name: ClassVar[str] = "gaussian_noise"
    min_sigma_levels: float = 25.0  # the middle one of the field's 15, 25, 50
    max_sigma_levels: float = 25.0
    storage: str = "floor"
    kind_shares: tuple[float, ...] = (1.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        """Check ranges."""
        check_range(self.name, "sigma_levels", self.min_sigma_levels, self.max_sigma_levels, least=0, most=255)
        check_name(self.name, "storage", self.storage, STORAGES)
        check_shares(self.name, "kind_shares", self.kind_shares, len(KINDS))

    @property
    def is_fixed(self) -> bool:
        """True: one strength and one kind, so that nothing is drawn but the noise itself."""
        possible = [kind for kind, share in zip(KINDS, self.kind_shares, strict=True) if share > 0]
        return self.min_sigma_levels == self.max_sigma_levels and len(possible) == 1 and possible[0] != "correlated"

    def draw(self, rng: Rng, height: int, width: int) -> dict[str, Any]:
        """Draw the strength, the kind and the seed."""
        return self._draw_strength(rng) | {"stream": "pcg64", "seed": draw_seed(rng)}

    def published(self, seed: int) -> dict[str, Any]:
        """Name the noise that `apply` takes from a fresh RandomState(seed), where `is_fixed`."""
        return self._draw_strength(np.random.RandomState(seed)) | {"stream": "mt19937", "seed": seed}

    def render(self, image_CHW: Pixels, parameters: Parameters) -> Pixels:
        """Return a noisy copy."""
        check_pixels(image_CHW, where=self.name)
        shape = (*image_CHW.shape[1:], 3)
        if parameters["stream"] == "mt19937":
            noise = np.random.RandomState(parameters["seed"]).standard_normal(shape)
            return _add(image_CHW, noise, parameters)
        return _add(image_CHW, np.random.default_rng(parameters["seed"]).standard_normal(shape, np.float32), parameters)

    def apply(self, image_CHW: Pixels, rng: Rng) -> Pixels:
        """Return a noisy copy of a (3, H, W) float32 image.

        Where `is_fixed`, a RandomState's own stream is the noise, as in published code.
        """
        check_pixels(image_CHW, where=self.name)
        if isinstance(rng, np.random.RandomState) and self.is_fixed:
            parameters = self._draw_strength(rng)
            return _add(image_CHW, rng.standard_normal((*image_CHW.shape[1:], 3)), parameters)
        return self.render(image_CHW, self.draw(rng, *image_CHW.shape[1:]))

    @batch_method
    def render_batch(self, x_BCHW: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Return noisy copies of a batch."""
        noise = normal_fields(generators(parameters, x_BCHW), x_BCHW.shape[1:], x_BCHW)
        mixing = torch.tensor([_mixing(values) for values in parameters], device=x_BCHW.device, dtype=torch.float32)
        mixed = torch.stack([(noise * mixing[:, row, :, None, None]).sum(1) for row in range(3)], dim=1)
        sigma = per_picture((values["sigma_levels"] for values in parameters), x_BCHW)
        noisy = (x_BCHW * 255000).round() / 1000 + mixed * sigma
        within = noisy.clamp(0, 255)
        stored = torch.where(flags((v["storage"] == "floor" for v in parameters), x_BCHW), within.floor(), within)
        return torch.where(flags((v["storage"] == "none" for v in parameters), x_BCHW), noisy, stored) / 255

    def _draw_strength(self, rng: Rng) -> dict[str, Any]:
        sigma = between(rng, self.min_sigma_levels, self.max_sigma_levels)
        kind = choose(rng, KINDS, self.kind_shares)
        parameters: dict[str, Any] = {"sigma_levels": sigma, "kind": kind, "storage": self.storage}
        if kind == "correlated":
            parameters["mixing"] = _draw_mixing(rng)
        return parameters


def _add(image_CHW: Pixels, noise_HWC: NDArray[Any], parameters: Parameters) -> Pixels:
    levels_CHW = np.round(image_CHW.astype(noise_HWC.dtype) * 255, 3)  # 8-bit values exactly, again
    if parameters["kind"] != "colour":
        noise_HWC = noise_HWC @ np.array(_mixing(parameters), noise_HWC.dtype).T
    levels_CHW += noise_HWC.transpose(2, 0, 1) * noise_HWC.dtype.type(parameters["sigma_levels"])
    if parameters["storage"] != "none":
        np.clip(levels_CHW, 0, 255, out=levels_CHW)
    if parameters["storage"] == "floor":
        np.floor(levels_CHW, out=levels_CHW)
    return np.ascontiguousarray(levels_CHW / 255, dtype=np.float32)


def _mixing(parameters: Parameters) -> list[list[float]]:
    """Give the 3x3 matrix that turns independent channels into the kind's."""
    if parameters["kind"] == "grey":
        return [[1.0, 0.0, 0.0]] * 3
    if parameters["kind"] == "correlated":
        return [[float(value) for value in row] for row in parameters["mixing"]]
    return np.eye(3).tolist()


def _draw_mixing(rng: Rng) -> list[list[float]]:
    """Draw BSRGAN's covariance |U' D U|, U orthogonal, D uniform in [0, 1), and return its square root."""
    scales = [between(rng, 0, 1) for _ in range(3)]
    entries = np.array([between(rng, 0, 1) for _ in range(9)]).reshape(3, 3)
    turn, _ = np.linalg.qr(entries)
    values, vectors = np.linalg.eigh(np.abs(turn.T @ np.diag(scales) @ turn))
    root: list[list[float]] = ((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T).tolist()
    return root

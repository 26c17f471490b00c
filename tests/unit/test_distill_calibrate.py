"""The calibrators on made pictures and a small encoder made here: guard, field, weights, and what each says of itself."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import optimize

from curate.core.errors import ConfigError
from distill.calibrate import cnn, kmm, none
from distill.calibration import CalibrationRequest, Changes
from distill.field import NUM_PARAMETERS, FieldChange, build_network
from distill.fitconfig import FitConfig
from distill.mmd import mmd2_biased, mmd2_unbiased
from distill.yardstick import YardstickConfig, build_yardstick

SIDE_PX, NUM, NUM_CHOSEN = 48, 160, 16
SHORT = FitConfig(steps_iter=16, side_px=64, lr=4e-3, corpus_batch=32, corpus_crops=6)


class SmallEncoder:
    """Mean of 4 x 4 pixel patches through a fixed random layer; a stand-in, trained on nothing."""

    name, input_px = "small", 32

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self.weight = torch.from_numpy(rng.normal(0, 0.3, (24, 3, 4, 4)).astype(np.float32))

    def mean_token(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.nn.functional.conv2d(x_BCHW - 0.5, self.weight, stride=4)).mean(dim=(2, 3))


class NoGradient:
    name = "handcrafted"


class Count:
    def __init__(self) -> None:
        self.total = self.done = 0

    def begin(self, total: int, done: int) -> None:
        self.total, self.done = total, done

    def step(self, num: int) -> None:
        self.done += num


def pictures(*, paired: bool = False) -> list:
    """Make grey textures under a coloured light; the light is what makes a subset differ."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(NUM):
        light = rng.normal(0, 7, 3)
        texture = rng.normal(128, 12, (SIDE_PX, SIDE_PX, 1)).clip(60, 200)
        clean = np.clip(texture + light, 0, 255).astype(np.uint8)
        rain = np.clip(clean + np.where(rng.random((SIDE_PX, SIDE_PX, 1)) < 0.1, 30, 0), 0, 255).astype(np.uint8)
        found.append((clean, rain if paired else None))
    return found


PICTURES = {paired: pictures(paired=paired) for paired in (False, True)}


def request(chosen, *, paired=False, encoder=None, **more) -> CalibrationRequest:
    from distill.seeing import shrink

    encoder = encoder or SmallEncoder()
    eye = encoder if hasattr(encoder, "mean_token") else SmallEncoder()

    def rows(member: int) -> np.ndarray:
        planes = [torch.from_numpy(pair[member].transpose(2, 0, 1).astype(np.float32) / 255) for pair in PICTURES[paired]]
        return eye.mean_token(torch.stack([shrink(plane, eye.input_px) for plane in planes])).numpy()

    return CalibrationRequest(
        rows=rows(0), degraded_rows=rows(1) if paired else None, chosen=np.asarray(chosen, dtype=np.int64),
        read=PICTURES[paired].__getitem__, encoder=encoder, watch=Count(), **more,
    )  # fmt: skip


def reddest() -> np.ndarray:
    return np.sort(np.argsort([pair[0][..., 0].mean() - pair[0][..., 2].mean() for pair in PICTURES[False]])[-NUM_CHOSEN:])


def anyhow() -> np.ndarray:
    return np.sort(np.random.default_rng(3).choice(NUM, NUM_CHOSEN, replace=False))


def test_guard_fits_a_shifted_subset_and_accepts_it():
    asked = request(reddest())
    got = cnn.Plugin(fit=SHORT).calibrate(asked)
    print(got.facts, got.seconds)
    assert got.facts["accepted"] is True

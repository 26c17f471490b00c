"""The blur kernels: (K, K) float64, K odd, sum 1, read-only, cached by their numbers. Formulas and sources: spec/ipt.md 8.3.

Angles are in degrees, anticlockwise as one sees the picture. Offsets are x to the right and y downwards.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import j1

from ._filters import Kernel

MIN_SIGMA_PX = 0.01  # below it a Gaussian is a point
DISC_SUBSAMPLES = 16  # of a pixel, per axis, where a disc's edge passes
STEPS = 2000  # of a hand's path (spec/ipt.md 8.3)
SHAKINESS = (0.01, 0.009, 0.008, 0.007, 0.005, 0.003)  # of them one per path, the same source
CENTRIPETAL, BIG_SHAKE, GAUSSIAN_SHAKE = 0.7, 0.2, 10.0


@functools.lru_cache(maxsize=512)
def gaussian_kernel(
    size_px: int, sigma_x_px: float, sigma_y_px: float, angle_deg: float, kind: str, beta: float
) -> Kernel:
    """Make a Gaussian, generalised Gaussian or plateau.

    Args:
        size_px: side, odd.
        sigma_x_px: along the axis turned by `angle_deg`.
        sigma_y_px: across it.
        angle_deg: of the first axis.
        kind: `gaussian` exp(-q/2), `generalised` exp(-q^beta/2) or `plateau` 1/(1 + q^beta), q = x' Sigma^-1 x.
        beta: shape; 1 is the Gaussian for the second, a smaller one has longer tails.
    """
    along, across = _turned(size_px, angle_deg)
    distance = (along / max(sigma_x_px, MIN_SIGMA_PX)) ** 2 + (across / max(sigma_y_px, MIN_SIGMA_PX)) ** 2
    if kind == "plateau":
        return _normalised(1 / (1 + distance**beta))
    return _normalised(np.exp(-0.5 * (distance**beta if kind == "generalised" else distance)))


@functools.lru_cache(maxsize=512)
def line_kernel(length_px: float, angle_deg: float) -> Kernel:
    """Make MATLAB's fspecial('motion'): a segment through the centre, weight max(0, 1 - distance to it)."""
    half = (length_px - 1) / 2
    along, across = _turned(2 * math.ceil(half + 1) + 1, angle_deg)
    beyond = np.maximum(np.abs(along) - half, 0)
    return _normalised(np.maximum(0, 1 - np.hypot(beyond, across)))


@functools.lru_cache(maxsize=512)
def path_kernel(length_px: float, seed: int) -> Kernel:
    """Make the trace of a shaken camera: a random walk with inertia, `length_px` long, centred on its centre of mass.

    Source:
        Boracchi and Foi 2012, as in DeblurGAN; numbers from spec/ipt.md 8.3.
    """
    rng = np.random.default_rng(seed)
    shakiness = SHAKINESS[int(rng.integers(len(SHAKINESS)))]
    centripetal, big_shake = CENTRIPETAL * rng.random(), BIG_SHAKE * rng.random()
    gaussian_shake = GAUSSIAN_SHAKE * rng.random()
    step = length_px / (STEPS - 1)
    turns = np.where(rng.random(STEPS) < big_shake * shakiness, rng.uniform(-0.5, 0.5, STEPS) + math.pi, np.nan)
    pushes = gaussian_shake * (rng.standard_normal(STEPS) + 1j * rng.standard_normal(STEPS))
    position, velocity = 0j, step * np.exp(1j * rng.uniform(0, 2 * math.pi))
    path = np.zeros(STEPS, np.complex128)
    for number, (turn, push) in enumerate(zip(turns.tolist(), pushes.tolist(), strict=True)):
        change = 0j if math.isnan(turn) else 2 * velocity * complex(math.cos(turn), math.sin(turn))
        velocity += change + shakiness * (push - centripetal * position) * step
        velocity *= step / max(abs(velocity), 1e-12)
        position += velocity
        path[number] = position
    return _splatted(path - path.mean())


@functools.lru_cache(maxsize=512)
def disc_kernel(radius_px: float) -> Kernel:
    """Make a filled circle with the share of every pixel that lies in it."""
    half = math.ceil(radius_px)
    fine = (np.arange((2 * half + 1) * DISC_SUBSAMPLES) + 0.5) / DISC_SUBSAMPLES - half - 0.5
    inside = fine[:, None] ** 2 + fine[None, :] ** 2 <= radius_px**2
    side = 2 * half + 1
    return _normalised(inside.reshape(side, DISC_SUBSAMPLES, side, DISC_SUBSAMPLES).sum(axis=(1, 3)).astype(np.float64))


@functools.lru_cache(maxsize=512)
def sinc_kernel(size_px: int, cutoff_rad: float) -> Kernel:
    """Make the ideal low-pass in two dimensions, cut off: w J1(w r) / (2 pi r), in the centre w^2 / (4 pi)."""
    x, y = _offsets(size_px)
    radius = np.hypot(x, y)
    safe = np.where(radius > 0, radius, 1.0)
    wave = cutoff_rad * j1(cutoff_rad * safe) / (2 * math.pi * safe)
    return _normalised(np.where(radius > 0, wave, cutoff_rad**2 / (4 * math.pi)))


@functools.lru_cache(maxsize=512)
def streak_kernel(length_px: float, angle_deg: float, width_px: float) -> Kernel:
    """Make what a falling drop leaves while the shutter is open: peak 1 (not sum 1), Gaussian across, soft at both ends."""
    half = max(length_px, 1.0) / 2
    along, across = _turned(2 * math.ceil(half + 2 * width_px) + 1, angle_deg)
    fade = np.clip((half - np.abs(along)) / (0.5 * half) + 0.5, 0, 1)
    kernel = fade**2 * (3 - 2 * fade) * np.exp(-0.5 * (across / width_px) ** 2)
    return _frozen(kernel / kernel.max())


@functools.lru_cache(maxsize=512)
def flake_kernel(length_px: float, angle_deg: float, width_px: float) -> Kernel:
    """Make a snowflake that falls while the shutter is open: peak 1, Gaussian along and across."""
    sigma = max(length_px / 4, width_px)
    along, across = _turned(2 * math.ceil(3 * sigma) + 1, angle_deg)
    return _frozen(np.exp(-0.5 * ((along / sigma) ** 2 + (across / width_px) ** 2)))


def _offsets(size_px: int) -> tuple[Kernel, Kernel]:
    axis = np.arange(size_px, dtype=np.float64) - (size_px - 1) / 2
    return np.broadcast_to(axis, (size_px, size_px)), np.broadcast_to(axis[:, None], (size_px, size_px))


def _turned(size_px: int, angle_deg: float) -> tuple[Kernel, Kernel]:
    """Give every pixel's place along and across an axis turned by the angle."""
    x, y = _offsets(size_px)
    cosine, sine = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    return x * cosine - y * sine, x * sine + y * cosine


def _splatted(path: NDArray[np.complex128]) -> Kernel:
    """Count a path's points on the grid, each shared among its four neighbours."""
    half = math.ceil(float(np.max(np.abs([path.real, path.imag])))) + 1
    kernel = np.zeros((2 * half + 1, 2 * half + 1))
    x, y = path.real + half, path.imag + half
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    for dy in (0, 1):
        for dx in (0, 1):
            share = np.abs(1 - dx - (x - left)) * np.abs(1 - dy - (y - top))
            np.add.at(kernel, (top + dy, left + dx), share)
    return _normalised(kernel)


def _normalised(kernel: Kernel) -> Kernel:
    return _frozen(kernel / kernel.sum())


def _frozen(kernel: Kernel) -> Kernel:
    kernel.setflags(write=False)
    return kernel

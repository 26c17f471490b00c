"""Pillow's LANCZOS resize of a grey plane, bit for bit and several times faster: what perceptual hashes are made from.

Pillow weighs 8-bit pixels with 22-bit fixed-point coefficients and rounds after each of its two passes (along rows, then along
columns; the other way round where the height shrinks most). Such sums are whole numbers, so the order of adding does not matter
as long as nothing is rounded: the passes run as matrix products on BLAS, over bands, because an output reads only the inputs
near it. float64 holds the sums exactly. float32, twice as fast, does not, but its error has a bound for any order of adding:
an output further than that from the middle between two levels rounds as the exact sum does, and the few others (one in 250 at
512 -> 32) are computed again in float64.

Limits: 8-bit, one channel; Pillow >= 13.0 (older ones took the passes in one order always). The sine comes from the C library,
as Pillow's does; on processors where a compiler fuses multiply and add (arm64) Pillow's coefficients may differ in a last bit.
BLAS must multiply float32 as float32 (all do unless told otherwise).

Source: Pillow `src/libImaging/Resample.c` (precompute_coeffs, normalize_coeffs_8bpc, ImagingResampleHorizontal_8bpc).
"""

from __future__ import annotations

import functools
import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from ..core.errors import ImageError

LOBES = 3  # half width of the Lanczos window, in samples of the coarser grid
PRECISION_BITS = 32 - 8 - 2  # Pillow's PRECISION_BITS: 32-bit sums of 8-bit pixels, 2 bits for overshoot
MAX_LEVEL = 255
COLUMNS_FIRST_RATIO = 2  # Pillow 13.0 (its pull request 9549): columns first where they lose over twice as many samples
FLOAT32_ROUNDING = 2.0**-24  # largest relative error of one float32 operation
EXACT_ROWS = 64  # so few rows: float64 at once, it saves the second look
EXACT_TAPS = 384  # so many inputs an output: float64 at once, float32 would leave many outputs in doubt
MIN_BLOCK_OUTPUTS, MAX_BLOCK_OUTPUTS = (
    4,
    64,
)  # outputs a product; of 1..16 the fastest at 512 -> 32 (float64: twice that)
CHUNK_PIXELS = 1 << 18  # 1 MiB of float32: fits a core's L2 cache, and a 24 MP plane never stands there as floats
_LOCAL = threading.local()
CACHED_SIZES = 64  # at most 0.5 MB each: coefficients of the sizes last met


def resize_lanczos(grey: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize one plane exactly as Pillow's `Image.resize((width, height), LANCZOS)` does.

    Args:
        grey: (H, W) uint8, H and W >= 1, any strides. Not modified.
        height: rows wanted, >= 1.
        width: columns wanted, >= 1.

    Returns:
        (height, width) uint8, a new array.

    Raises:
        ImageError: not a two-dimensional uint8 array, or a side below 1.

    Source:
        Pillow, `ImagingResample` for mode L; equality is tested against Pillow itself.

    Example:
        >>> resize_lanczos(np.full((512, 300), 7, np.uint8), 2, 3).tolist()
        [[7, 7, 7], [7, 7, 7]]
    """
    if grey.dtype != np.uint8 or grey.ndim != 2 or 0 in grey.shape:
        raise ImageError(f"expected an (H, W) uint8 plane with pixels, got {grey.dtype} of shape {grey.shape}")
    if height < 1 or width < 1:
        raise ImageError(f"a picture has sides >= 1, got height {height}, width {width}")
    if _columns_first(grey.shape, height, width):
        return np.array(_resize_rows(_resize_rows(grey.T, height).T, width), order="C")
    return np.array(_resize_rows(_resize_rows(grey, width).T, height).T, order="C")


def _columns_first(shape: tuple[int, ...], height: int, width: int) -> bool:
    """Tell in which order Pillow (since 13.0) makes its passes; the other order would round otherwise."""
    return height < shape[0] and shape[0] - height > COLUMNS_FIRST_RATIO * (shape[1] - width)


@dataclass(frozen=True, slots=True)
class _Plan:
    """One pass from `size_in` to `size_out` samples: bands of inputs and the coefficients that they meet.

    Attributes:
        blocks: the outputs and the inputs that they read.
        weights: for each block (inputs, outputs) coefficients, levels per level, exact in float32 too.
        starts: (size_out,) int64: the input that the first column of `kernels` meets.
        kernels: (size_out, T) float64: the weights of every output for T inputs in a row.
        margin_levels: bound of the error of a float32 product with them.
    """

    blocks: tuple[tuple[slice, slice], ...]
    weights: tuple[NDArray[Any], ...]
    starts: NDArray[np.int64]
    kernels: NDArray[np.float64]
    margin_levels: float


def _resize_rows(plane: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize every row of (R, C) to `size` samples, some rows at a time; as many samples as there are: nothing to do."""
    height, width = plane.shape
    if width == size:
        return plane
    exact = height <= EXACT_ROWS or 2 * LOBES * width > EXACT_TAPS * size
    plan = _plan(width, size, np.dtype(np.float64 if exact else np.float32))
    step = max(1, CHUNK_PIXELS // max(width, size))
    if step >= height:
        return _resize_chunk(plane, plan)
    done = np.empty((height, size), np.uint8)
    for first in range(0, height, step):
        done[first : first + step] = _resize_chunk(plane[first : first + step], plan)
    return done


def _resize_chunk(rows: NDArray[np.uint8], plan: _Plan) -> NDArray[np.uint8]:
    exact = plan.weights[0].dtype == np.float64
    samples: NDArray[Any] = rows.astype(np.float64) if exact else _float32(rows)
    sums = np.empty((len(rows), len(plan.starts)), samples.dtype)
    for (outputs, inputs), weights in zip(plan.blocks, plan.weights, strict=True):
        np.matmul(samples[:, inputs], weights, out=sums[:, outputs])
    if exact:
        sums += 0.5  # multiples of 2^-22 below 2^10: exact
        levels = np.floor(sums, out=sums)
    else:
        levels = _round(samples, sums, plan)
    return np.clip(levels, 0, MAX_LEVEL, out=levels).astype(np.uint8)


def _float32(rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the rows in float32, in the memory of this thread's last call if they have its shape.

    New memory for each of a hundred thousand patches may come from the system page by page: it tripled the time of a pass.
    """
    samples: NDArray[np.float32] | None = getattr(_LOCAL, "samples", None)
    if samples is None or samples.shape != rows.shape:
        samples = _LOCAL.samples = np.empty(rows.shape, np.float32)
    np.copyto(samples, rows)
    return samples


def _round(samples: NDArray[np.float32], sums: NDArray[np.float32], plan: _Plan) -> NDArray[np.float32]:
    """Round float32 sums to levels, those in doubt after another sum in float64; `sums` is used up."""
    levels = np.rint(sums)
    sums -= levels
    np.abs(sums, out=sums)
    doubtful = np.flatnonzero(sums >= 0.5 - plan.margin_levels)
    if len(doubtful):
        row, output = np.divmod(doubtful, len(plan.starts))
        taps, (down, right) = plan.kernels.shape[1], samples.strides
        shape = len(samples), samples.shape[1] - taps + 1, taps
        windows = as_strided(samples, shape, (down, right, right), writeable=False)
        exact = np.einsum("nt,nt->n", windows[row, plan.starts[output]], plan.kernels[output])
        levels.ravel()[doubtful] = np.floor(exact + 0.5)
    return levels


@functools.lru_cache(maxsize=CACHED_SIZES)
def _plan(size_in: int, size_out: int, kind: np.dtype[Any]) -> _Plan:
    """Make the coefficients of one pass and cut them into blocks."""
    starts, stops, coefficients = lanczos_coefficients(size_in, size_out)
    taps = min(coefficients.shape[1], size_in)
    first_read = np.minimum(starts, size_in - taps)
    smallest = MIN_BLOCK_OUTPUTS if kind == np.float32 else 2 * MIN_BLOCK_OUTPUTS
    block = min(max(smallest, round(2 * LOBES * size_out / size_in)), MAX_BLOCK_OUTPUTS)
    kernels = np.zeros((size_out, taps))
    blocks, parts = [], []
    for first in range(0, size_out, block):
        outputs = range(first, min(first + block, size_out))
        inputs = slice(int(starts[first]), int(stops[outputs[-1]]))
        weights = np.zeros((inputs.stop - inputs.start, len(outputs)), kind)
        for output in outputs:
            start, stop = int(starts[output]), int(stops[output])
            kernel = coefficients[output, : stop - start] / (1 << PRECISION_BITS)
            weights[start - inputs.start : stop - inputs.start, output - first] = kernel
            kernels[output, start - first_read[output] : stop - first_read[output]] = kernel
        blocks.append((slice(first, outputs.stop), inputs))
        parts.append(weights)
    return _Plan(tuple(blocks), tuple(parts), first_read, kernels, _margin_levels(kernels))


def _margin_levels(kernels: NDArray[np.float64]) -> float:
    """Bound the error of a float32 sum of products: Higham 2002, Accuracy and Stability, equation 3.5 (any order)."""
    roundings = kernels.shape[1] * FLOAT32_ROUNDING
    return float(np.abs(kernels).sum(axis=1).max() * MAX_LEVEL * roundings / (1 - roundings))


def lanczos_coefficients(size_in: int, size_out: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Make Pillow's fixed-point coefficients of one pass.

    Args:
        size_in: samples there are, >= 1.
        size_out: samples wanted, >= 1.

    Returns:
        (size_out,) int64: the first input that each output reads; (size_out,) int64: the one behind its last, both
        never falling; (size_out, T) int64: its coefficients times 2^22, zeros behind the last.

    Source:
        Pillow, `precompute_coeffs` and `normalize_coeffs_8bpc`, operation by operation in float64.
    """
    scale = size_in / size_out
    coarse = max(scale, 1.0)
    support, inverse = LOBES * coarse, 1.0 / coarse
    taps = math.ceil(support) * 2 + 1
    centre = (np.arange(size_out) + 0.5) * scale
    start = np.maximum(np.trunc(centre - support + 0.5).astype(np.int64), 0)
    stop = np.minimum(np.trunc(centre + support + 0.5).astype(np.int64), size_in)
    position = np.arange(taps) + start[:, None]
    inside = position < stop[:, None]
    weight = np.where(inside, _lanczos((position - centre[:, None] + 0.5) * inverse, inside), 0.0)
    total = np.add.accumulate(weight, axis=1)[:, -1:]  # from left to right, as Pillow adds; np.sum adds pairwise
    weight = np.divide(weight, total, out=weight, where=total != 0)
    scaled = weight * (1 << PRECISION_BITS)
    return start, stop, np.trunc(np.where(weight < 0, scaled - 0.5, scaled + 0.5)).astype(np.int64)


def _lanczos(x: NDArray[np.float64], wanted: NDArray[np.bool_]) -> NDArray[np.float64]:
    window = np.zeros_like(x)
    chosen = wanted & (x >= -LOBES) & (x < LOBES)
    window[chosen] = _sinc(x[chosen]) * _sinc(x[chosen] / LOBES)
    return window


def _sinc(x: NDArray[np.float64]) -> NDArray[np.float64]:
    angle = x * math.pi
    sine = np.fromiter(map(math.sin, angle.tolist()), np.float64, len(angle))  # libm's: NumPy's may differ by a bit
    return np.divide(sine, angle, out=np.ones_like(angle), where=x != 0)

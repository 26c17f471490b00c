"""How far two sets of rows are apart: squared maximum mean discrepancy under a mixture of five Gaussians.

k(a, b) = 1/5 sum over s in {1/4, 1/2, 1, 2, 4} of exp(-|a - b|^2 / (s h^2)), h the median distance of the reference. One
formula for NumPy and torch: exp(-q / 4), squared four times, gives all five.

Source: spec/tripled.md section 4.4; Gretton et al., JMLR 2012 (biased and unbiased forms); M3D (2312.15927).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
WIDEST = 4.0  # of the scales s; each squaring below halves s
MEDIAN_ROWS = 2000  # spec/tripled.md section 4.2
_BLOCK_VALUES = 1 << 21  # kernel values in memory at once: 16 MiB of float64
_SQUARINGS = 4
_LEAST_SHARE = 1e-9  # of pairs of two different rows, where one row has all the weight


def kernel(left: Any, right: Any, bandwidth: float) -> Any:
    """Return the (n, m) kernel values of two NumPy arrays or of two torch tensors, (n, r) and (m, r); 1 for equal rows.

    Differentiable in torch.
    """
    squares = (left * left).sum(1)[:, None] + (right * right).sum(1)[None] - 2 * (left @ right.T)
    exponents = squares.clip(0) / (-WIDEST * bandwidth * bandwidth)
    value = np.exp(exponents) if isinstance(exponents, np.ndarray) else exponents.exp()
    total = value
    for _ in range(_SQUARINGS):
        value = value * value
        total = total + value
    return total / (_SQUARINGS + 1)


def mmd2_biased(left: Any, right: Any, bandwidth: float) -> Any:
    """Squared distance of the two samples' means: mean k(a, a') - 2 mean k(a, b) + mean k(b, b'); 0 for equal samples.

    Args:
        left: (n, r) NumPy array or torch tensor; the result is differentiable in torch.
        right: (m, r) of the same kind.
        bandwidth: h.
    """
    within = kernel(left, left, bandwidth).mean() + kernel(right, right, bandwidth).mean()
    return within - 2 * kernel(left, right, bandwidth).mean()


def mmd2_unbiased(
    left: Rows, right: Rows, bandwidth: float, *, within_right: float | None = None, weights_right: Rows | None = None
) -> float:
    """Estimate the squared distance of the two distributions; 0 on average for equal ones, so it may be negative.

    Args:
        left: (n, r) float64, n >= 2. Not modified.
        right: (m, r) float64, m >= 2. Not modified.
        bandwidth: h.
        within_right: `mean_within(right, bandwidth, weights_right)`, if already known.
        weights_right: (m,) how much each row of `right` counts, summing to 1; None: all alike.
    """
    own = mean_within(right, bandwidth, weights_right) if within_right is None else within_right
    across = float(mean_kernel(left, right, bandwidth, weights_right).mean())
    return mean_within(left, bandwidth) + own - 2 * across


def mean_kernel(left: Rows, right: Rows, bandwidth: float, weights: Rows | None = None) -> Rows:
    """Return for each row of `left` the mean kernel value with all rows of `right`: (n,) float64, in blocks.

    `weights` (m,) say how much each row of `right` counts, and sum to 1; None: all alike.
    """
    step = max(1, _BLOCK_VALUES // max(1, len(left)))
    total = np.zeros(len(left))
    for start in range(0, len(right), step):
        values = kernel(left, right[start : start + step], bandwidth)
        total += values.sum(axis=1) if weights is None else values @ weights[start : start + step]
    return total / len(right) if weights is None else total


def mean_within(rows: Rows, bandwidth: float, weights: Rows | None = None) -> float:
    """Mean kernel value of two different rows of one sample of at least two; `weights` as in `mean_kernel`."""
    if weights is not None:
        same = float(weights @ weights)  # a row with itself, where the kernel is 1
        return float((weights @ mean_kernel(rows, rows, bandwidth, weights) - same) / max(1 - same, _LEAST_SHARE))
    num = len(rows)
    return float((mean_kernel(rows, rows, bandwidth).sum() * num - num) / (num * (num - 1)))


def median_distance(rows: Rows) -> float:
    """Median distance of two rows, of at most 2,000 spread evenly over the order; 1 if it would be 0."""
    sample = rows[:: -(-len(rows) // MEDIAN_ROWS)]
    squares = (sample * sample).sum(1)[:, None] + (sample * sample).sum(1)[None] - 2 * (sample @ sample.T)
    distances = np.sqrt(np.maximum(squares[np.triu_indices(len(sample), k=1)], 0))
    median = float(np.median(distances)) if len(distances) else 0.0
    return median if median > 0 else 1.0

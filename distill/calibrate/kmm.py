"""Leave pixels alone and weigh the chosen patches, so that their weighted mean in the kernel's space is the corpus's.

w = argmin 1/k^2 w' K_SS w - 2/k w' kbar, 0 <= w_i <= 5, |mean(w) - 1| <= 0.05, by 500 steps of projected gradient; these are
sampling weights. kbar_i is the mean kernel value of patch i with the corpus. Ours: Nesterov's momentum with restarts (plain
projected gradient is far from the optimum after 500 steps); subsets of more than `block_rows` are weighed in random blocks,
each against the whole corpus, so that K_SS fits in memory; of a corpus too large for all products a seeded sample stands for
it. Of several tasks the corpus counts with the subset's share of each.

Source: Huang et al., Correcting Sample Selection Bias by Unlabeled Data, NIPS 2006 (KMM); spec/tripled.md section 4.4.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from curate.core.errors import ConfigError

from ..calibration import Calibrated, CalibrationRequest
from ..mmd import Rows, kernel
from ..selection import Indices
from ..yardstick import TOO_SMALL, Member, Yardstick, YardstickConfig, balanced, build_yardstick

_READ_ROWS = 8192  # of the corpus at a time
_DIGITS = 9
_LEAST_SHARE = 1e-9  # of pairs of two patches, where one patch has all the weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Kernel mean matching; bounds and number of steps are the spec's."""

    name: ClassVar[str] = "kmm"
    differentiates: ClassVar[bool] = False
    max_weight: float = 5.0
    mean_slack: float = 0.05
    steps_iter: int = 500
    block_rows: int = 4096  # ours: K_SS takes 128 MiB
    max_products: int = 4_000_000_000  # ours, kernel values between subset and corpus: about a minute
    yardstick: YardstickConfig = field(default_factory=YardstickConfig)

    def __post_init__(self) -> None:
        if not self.max_weight >= 1:
            raise ConfigError(f"kmm.max_weight must be >= 1, got {self.max_weight}")
        if not 0 <= self.mean_slack < 1:
            raise ConfigError(f"kmm.mean_slack must lie in [0, 1), got {self.mean_slack}")
        for name in ("steps_iter", "block_rows", "max_products"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"kmm.{name} must be >= 1, got {getattr(self, name)}")

    def calibrate(self, request: CalibrationRequest) -> Calibrated:
        """Weigh; pixels stay as they are."""
        start, num = time.monotonic(), len(request.chosen)
        measured = build_yardstick(request.members(), request.chosen, self.yardstick, request.seed, request.task_of)
        if measured is None:
            return Calibrated(
                weights=np.ones(num), facts={"mode": self.name, "accepted": False, "reason": TOO_SMALL, "mmd2": None}
            )
        with threadpool_limits(1):
            compared = self._corpus_rows(request)
            weights, gained = self._weigh(request, measured, compared)
            after = {name: self._weighted_distance(request, measured, name, weights) for name in measured.members}
        members = {name: {"before": measured.before[name], "after": after[name]} for name in after}
        facts = {
            "mode": self.name, "accepted": True,
            "reason": f"weights change no pixel, so there is no guard (and have seen the half that is held out from cnn); "
            f"{measured.describe()}",
            "mmd2": measured.facts() | {"after": sum(after.values()), "members": members},
            "weights": {
                "min": float(weights.min()), "max": float(weights.max()), "mean": float(weights.mean()),
                "effective_patches": float(weights.sum() ** 2 / np.square(weights).sum()), "objective_gain": gained,
                "corpus_rows_compared": len(compared), "blocks": -(-num // self.block_rows),
            },
        }  # fmt: skip
        return Calibrated(weights=weights, facts=facts, seconds={"weigh": round(time.monotonic() - start, 3)})

    def _corpus_rows(self, request: CalibrationRequest) -> Indices:
        num = len(request.rows)
        most = max(self.yardstick.max_rows, self.max_products // len(request.chosen))
        if num <= most:
            return np.arange(num)
        return np.sort(np.random.default_rng((request.seed, num, most)).choice(num, most, replace=False))

    def _weigh(
        self, request: CalibrationRequest, measured: Yardstick, compared: Indices
    ) -> tuple[NDArray[np.float64], float]:
        num, members = len(request.chosen), request.members()
        shares = None if request.task_of is None else balanced(request.task_of, request.chosen, compared)
        phi = {name: member.project(members[name][request.chosen]) for name, member in measured.members.items()}
        target = np.zeros(num)
        for name, member in measured.members.items():
            target += _mean_with_corpus(member, phi[name], members[name], compared, shares)
        weights, gained = np.ones(num), 0.0
        order = np.random.default_rng((request.seed, num)).permutation(num)
        for start in range(0, num, self.block_rows):
            block = np.sort(order[start : start + self.block_rows])
            within = sum(kernel(phi[n][block], phi[n][block], m.bandwidth) for n, m in measured.members.items())
            weights[block], gain = solve(
                within, target[block], max_weight=self.max_weight, mean_slack=self.mean_slack, steps=self.steps_iter
            )
            gained += gain * len(block) / num
        return np.round(weights, _DIGITS), round(gained, _DIGITS)

    def _weighted_distance(
        self, request: CalibrationRequest, measured: Yardstick, name: str, weights: NDArray[np.float64]
    ) -> float:
        """Unbiased MMD^2 of the weighted subset to the held-out half: with even weights it is `Yardstick.before`."""
        member, places = measured.members[name], measured.chosen
        share = weights[places] / weights[places].sum()
        phi = member.project(request.members()[name][request.chosen[places]])
        own = share @ kernel(phi, phi, member.bandwidth) @ share
        same = float(share @ share)  # a patch with itself: the kernel is 1 there
        within = (own - same) / max(1 - same, _LEAST_SHARE)
        return round(float(within - 2 * share @ member.mean_kernel(phi) + member.within), _DIGITS)


def _mean_with_corpus(
    member: Member, phi: Rows, rows: NDArray[np.floating], compared: Indices, shares: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Return kbar of one member, weighed by `shares`, which sum to 1; the corpus is read in blocks."""
    total = np.zeros(len(phi))
    for start in range(0, len(compared), _READ_ROWS):
        where = slice(start, start + _READ_ROWS)
        block = member.project(rows[compared[where]])
        for at in range(0, len(phi), _READ_ROWS // 8):
            part = slice(at, at + _READ_ROWS // 8)
            values = kernel(phi[part], block, member.bandwidth)
            total[part] += values.sum(axis=1) if shares is None else values @ shares[where]
    return total / len(compared) if shares is None else total


def solve(
    within: Rows, target: NDArray[np.float64], *, max_weight: float, mean_slack: float, steps: int
) -> tuple[NDArray[np.float64], float]:
    """Minimise 1/k^2 w' K w - 2/k w' kbar in the box and band.

    Args:
        within: (k, k) positive semidefinite K_SS. Not modified.
        target: (k,) kbar. Not modified.
        max_weight: upper bound of a weight.
        mean_slack: the mean may be off 1 by so much.
        steps: of accelerated projected gradient.

    Returns:
        Weights (k,), and how much lower the objective is than with all weights 1 (>= 0).
    """
    num = len(target)
    pace = num * num / (2 * float(within.sum(axis=1).max()))  # 1 / Lipschitz: no eigenvalue exceeds a row's sum

    def objective(w: NDArray[np.float64]) -> float:
        return float(w @ within @ w / num**2 - 2 * w @ target / num)

    start = best = previous = np.ones(num)
    lowest = first = objective(start)
    ahead, momentum = start, 1.0
    for _ in range(steps):
        gradient = 2 * (within @ ahead) / num**2 - 2 * target / num
        weights = project(ahead - pace * gradient, max_weight, mean_slack)
        value = objective(weights)
        if value < lowest:
            lowest, best = value, weights
            following = (1 + np.sqrt(1 + 4 * momentum * momentum)) / 2
            ahead = weights + (momentum - 1) / following * (weights - previous)
            momentum = following
        else:
            ahead, momentum = best, 1.0  # overshot: go on from the best without momentum
        previous = weights
    return best, first - lowest


def project(values: NDArray[np.float64], max_weight: float, mean_slack: float) -> NDArray[np.float64]:
    """Return the nearest point with 0 <= w <= max_weight and |mean(w) - 1| <= mean_slack; exact.

    The nearest point is clip(values - shift): its sum falls piecewise linearly with the shift.
    """
    num = len(values)
    low, high = (1 - mean_slack) * num, min(1 + mean_slack, max_weight) * num
    clipped = np.clip(values, 0, max_weight)
    total = clipped.sum()
    if low <= total <= high:
        return clipped
    wanted = low if total < low else high
    knots = np.sort(np.concatenate([values - max_weight, values]))
    falls = np.where(np.argsort(np.concatenate([values - max_weight, values]), kind="stable") < num, 1.0, -1.0)
    slopes = np.cumsum(falls)[:-1]  # number of weights strictly inside the box between two knots
    sums = num * max_weight - np.concatenate([[0.0], np.cumsum(slopes * np.diff(knots))])
    place = int(np.clip(np.searchsorted(-sums, -wanted, side="left"), 1, len(knots) - 1))
    slope = max(slopes[place - 1], 1.0)
    shift = knots[place - 1] + (sums[place - 1] - wanted) / slope
    return np.asarray(np.clip(values - shift, 0, max_weight), dtype=np.float64)

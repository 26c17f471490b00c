"""Is a subset farther from its corpus than a random one of its size? The significance guard of the calibration.

The rows of the corpus (phi_1, what the encoder says of each clean patch, and of each degraded one) are reduced by PCA. Half of
them is held out; the other half is what a calibration may fit. 50 random draws of the subset's size say how far a random
subset would be from the held-out half: mean m0 and deviation s0 of the unbiased MMD^2.

Ours: the draws are from the whole corpus, as the subset is, so that draws and subset overlap the held-out half equally. PCA
scores are divided by one number, the root of their mean variance, so that covariances have no unit. A corpus of more rows
than `max_rows` is represented by a seeded sample of so many. For pairs distances of both members are added, as in the loss.

A subset of several tasks holds more of the rare ones than the corpus, by intention. So every random draw has the subset's
number of patches of each task, and the corpus's rows count with weights that give each task the subset's share: measured is
how a task was chosen from, not how budgets were shared.

Source: spec/tripled.md section 4.4 (features, guard).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from curate.core.errors import ConfigError, NumericsError

from .mmd import Rows, mean_kernel, mean_within, median_distance, mmd2_unbiased
from .selection import Indices

TOO_SMALL = "too few patches to measure a distance"
MIN_ROWS, MIN_CHOSEN = 4, 2  # an unbiased MMD^2 needs two rows on either side
_DIGITS = 12  # values below are rounding of the machine
CLEAN, DEGRADED = "x", "y"  # the members of a pair, named as in the spec


@dataclass(frozen=True, slots=True, kw_only=True)
class YardstickConfig:
    """How distances to the corpus are measured.

    Attributes:
        max_rows: most rows of the corpus that stand for it [OURS: 20,000 leave a deviation far below that of 64 patches].
        max_chosen: most patches of the subset that stand for it [OURS].
        null_draws: random draws of the subset's size [spec 4.4].
        guard_sigma: deviations that count as a difference [spec 4.4].
        min_rank: least and ...
        max_rank: ... most dimensions that PCA keeps, between them half the subset's size [spec 4.4].
    """

    max_rows: int = 20_000
    max_chosen: int = 1000
    null_draws: int = 50
    guard_sigma: float = 2.0
    min_rank: int = 8
    max_rank: int = 64

    def __post_init__(self) -> None:
        for name, least in (("max_rows", MIN_ROWS), ("max_chosen", MIN_CHOSEN), ("null_draws", 2), ("min_rank", 1)):
            if not getattr(self, name) >= least:
                raise ConfigError(f"yardstick.{name} must be >= {least}, got {getattr(self, name)}")
        if not self.max_rank >= self.min_rank:
            raise ConfigError(f"yardstick.max_rank must be >= min_rank = {self.min_rank}, got {self.max_rank}")
        if not self.guard_sigma >= 0:
            raise ConfigError(f"yardstick.guard_sigma must be >= 0, got {self.guard_sigma}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member of the pairs: how its rows become phi_1, and the corpus's own.

    Attributes:
        centre: (D,) float64, mean row.
        basis: (D, r) float64: phi_1 = (row - centre) @ basis.
        fit: (n, r) float64, phi_1 of the half that a calibration may see.
        held_out: (m, r) float64, of the other half.
        held_weights: (m,) float64 summing to 1, how much each of it counts; None: all alike.
        bandwidth: h of the kernel, from `fit`.
        within: mean kernel value inside `held_out`.
    """

    centre: Rows
    basis: Rows
    fit: Rows
    held_out: Rows
    bandwidth: float
    within: float
    held_weights: Rows | None = None

    def project(self, rows: NDArray[np.floating]) -> Rows:
        """Turn (n, D) rows of the encoder into (n, r) float64."""
        return np.asarray((np.asarray(rows, dtype=np.float64) - self.centre) @ self.basis)

    def distance(self, phi: Rows) -> float:
        """Unbiased MMD^2 of (n, r) float64 to the held-out half."""
        own, weights = self.within, self.held_weights
        return round(
            mmd2_unbiased(phi, self.held_out, self.bandwidth, within_right=own, weights_right=weights), _DIGITS
        )

    def mean_kernel(self, phi: Rows) -> Rows:
        """Return for each row of (n, r) its mean kernel value with the held-out half: (n,) float64."""
        return mean_kernel(phi, self.held_out, self.bandwidth, self.held_weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """The corpus, its null, and where the subset stands by the cached rows.

    Attributes:
        members: `x` and, for pairs, `y`.
        fit_rows: (n,) int64, rows of the corpus behind `Member.fit`.
        fit_weights: (n,) float64 summing to 1, how much each of them counts; None: all alike.
        chosen: places in the subset that stand for it, rising; all of them if there are at most `max_chosen`.
        before: member -> unbiased MMD^2 of the subset to the held-out half.
        null_mean: m0 of the sum over members.
        null_std: s0 of the same.
        guard_sigma: as configured.
    """

    members: Mapping[str, Member]
    fit_rows: Indices
    chosen: Indices
    before: Mapping[str, float]
    null_mean: float
    null_std: float
    guard_sigma: float
    fit_weights: Rows | None = None

    def weights(self) -> list[Rows]:
        """Return the weights of the corpus's rows, if they have any."""
        found = [self.fit_weights, *(member.held_weights for member in self.members.values())]
        return [one for one in found if one is not None]

    @property
    def total_before(self) -> float:
        """The subset's distance, summed over members."""
        return sum(self.before.values())

    def describe(self) -> str:
        """Say in words how far the subset is from its corpus."""
        than = "farther from its corpus than" if self.differs else "no farther from its corpus than"
        numbers = f"MMD2 {self.total_before:.3g}, theirs {self.null_mean:.3g} +- {self.null_std:.2g}"
        like = "size" if self.fit_weights is None else "size and tasks"
        return f"the subset is {than} random subsets of its {like} ({numbers})"

    @property
    def differs(self) -> bool:
        """Whether the subset is farther from the corpus than chance explains."""
        return self.total_before > self.null_mean + self.guard_sigma * self.null_std

    def facts(self) -> dict[str, object]:
        """Say what was measured, for the manifest; `after` is for who corrects the subset."""
        first = self.members[CLEAN]
        return {
            "before": self.total_before, "after": None, "null_mean": self.null_mean, "null_std": self.null_std,
            "guard_sigma": self.guard_sigma, "differs": self.differs,
            "members": {name: {"before": value} for name, value in self.before.items()},
            "chosen_compared": len(self.chosen), "held_out_rows": len(first.held_out), "fit_rows": len(first.fit),
            "rank": first.basis.shape[1], "bandwidth": {name: member.bandwidth for name, member in self.members.items()},
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draws:
    """Which rows of the corpus, and places in the subset, are looked at; weights sum to 1, None: all alike."""

    fit_rows: Indices
    held_rows: Indices
    places: Indices
    null: list[Indices]
    fit_weights: Rows | None = None
    held_weights: Rows | None = None


def build_yardstick(
    rows: Mapping[str, NDArray[np.floating]],
    chosen: Indices,
    config: YardstickConfig,
    seed: int,
    task_of: Indices | None = None,
) -> Yardstick | None:
    """Measure where a subset stands.

    Args:
        rows: member (`x`, `y`) -> (N, D) float16 or float32, may be memory maps. Not modified.
        chosen: (k,) rows of the corpus that are the subset.
        config: how.
        seed: root of the draws.
        task_of: (N,) int64, the task of every row; None: they are one task.

    Returns:
        None where there are too few rows (N < 4 or k < 2) to measure anything.

    Raises:
        NumericsError: a row is not finite.
    """
    num = len(rows[CLEAN])
    if num < MIN_ROWS or len(chosen) < MIN_CHOSEN:
        return None
    rng = np.random.default_rng((seed, num))
    drawn = _draw(num, chosen, config, rng) if task_of is None else _draw_by_task(task_of, chosen, config, rng)
    places = drawn.places
    rank = int(np.clip(len(chosen) // 2, config.min_rank, config.max_rank))
    with threadpool_limits(1):
        members = {name: _fit_member(array, drawn, rank) for name, array in rows.items()}
        before = {name: _distance(members[name], rows[name], chosen[places]) for name in rows}
        null = [sum(_distance(members[name], rows[name], draw) for name in rows) for draw in drawn.null]
    return Yardstick(
        members=members, fit_rows=drawn.fit_rows, chosen=places, before=before, null_mean=float(np.mean(null)),
        null_std=float(np.std(null, ddof=1)), guard_sigma=config.guard_sigma, fit_weights=drawn.fit_weights,
    )  # fmt: skip


def balanced(task_of: Indices, chosen: Indices, rows: Indices) -> Rows:
    """Weigh rows of the corpus, summing to 1, so that each task has the subset's share; one without rows leaves it to others.

    Args:
        task_of: (N,) int64, the task of every row of the corpus.
        chosen: (k,) rows that are the subset.
        rows: (n,) rows to weigh, at least one of a task that was chosen from.

    Returns:
        (n,) float64.
    """
    num_tasks = int(task_of.max()) + 1
    wanted = np.bincount(task_of[chosen], minlength=num_tasks)
    there = np.bincount(task_of[rows], minlength=num_tasks)
    weights = (wanted / np.maximum(there, 1))[task_of[rows]]
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def _draw(num: int, chosen: Indices, config: YardstickConfig, rng: np.random.Generator) -> _Draws:
    sample = np.sort(rng.choice(num, min(num, config.max_rows), replace=False))
    fit_rows, held_rows = np.split(rng.permutation(sample), [len(sample) // 2])
    places = np.sort(rng.choice(len(chosen), min(len(chosen), config.max_chosen), replace=False))
    null = [np.sort(rng.choice(num, len(places), replace=False)) for _ in range(config.null_draws)]
    return _Draws(fit_rows=np.sort(fit_rows), held_rows=np.sort(held_rows), places=places, null=null)


def _draw_by_task(task_of: Indices, chosen: Indices, config: YardstickConfig, rng: np.random.Generator) -> _Draws:
    """Draw each task for itself: halves of its rows, and as many of it as the subset holds."""
    places = np.sort(rng.choice(len(chosen), min(len(chosen), config.max_chosen), replace=False))
    looked_at = chosen[places]
    counts = np.bincount(task_of[looked_at])
    rows_of = {task: np.flatnonzero(task_of == task) for task in np.flatnonzero(counts).tolist()}
    fit, held = [], []
    for task, own in rows_of.items():
        most = max(MIN_ROWS, int(config.max_rows * counts[task] / len(places)))
        sample = rng.choice(own, min(len(own), most), replace=False)
        middle = len(sample) // 2
        fit.append(sample[: max(1, middle)])  # the only row of a task is in both halves
        held.append(sample[middle:])
    fit_rows, held_rows = np.sort(np.concatenate(fit)), np.sort(np.concatenate(held))
    null = [
        np.sort(np.concatenate([rng.choice(own, counts[task], replace=False) for task, own in rows_of.items()]))
        for _ in range(config.null_draws)
    ]
    return _Draws(
        fit_rows=fit_rows, held_rows=held_rows, places=places, null=null,
        fit_weights=balanced(task_of, looked_at, fit_rows), held_weights=balanced(task_of, looked_at, held_rows),
    )  # fmt: skip


def _distance(member: Member, rows: NDArray[np.floating], picked: Indices) -> float:
    return member.distance(member.project(rows[picked]))


def _fit_member(rows: NDArray[np.floating], drawn: _Draws, rank: int) -> Member:
    fit, held = (np.asarray(rows[half], dtype=np.float64) for half in (drawn.fit_rows, drawn.held_rows))
    if not (np.isfinite(fit).all() and np.isfinite(held).all()):
        raise NumericsError("calibrate: the encoder's rows hold values that are not finite; encode the corpus again")
    weights = drawn.fit_weights
    if weights is None:
        centre = fit.mean(axis=0)
        covariance = (fit - centre).T @ (fit - centre) / len(fit)
    else:
        centre = weights @ fit
        covariance = (fit - centre).T @ ((fit - centre) * weights[:, None])
    values, vectors = np.linalg.eigh(covariance)
    kept = np.argsort(values)[::-1][: min(rank, len(fit) - 1, len(values))]
    scale = np.sqrt(np.mean(np.maximum(values[kept], 0)))
    basis = vectors[:, kept] / (scale if scale > 0 else 1.0)
    phi_fit, phi_held = (fit - centre) @ basis, (held - centre) @ basis
    bandwidth = median_distance(phi_fit if weights is None else phi_fit[_spread(weights)])
    return Member(
        centre=centre, basis=basis, fit=phi_fit, held_out=phi_held, bandwidth=bandwidth,
        within=mean_within(phi_held, bandwidth, drawn.held_weights), held_weights=drawn.held_weights,
    )  # fmt: skip


def _spread(weights: Rows) -> Indices:
    """Take as many places as there are, each as often as it counts, evenly along the order."""
    steps = (np.arange(len(weights)) + 0.5) / len(weights)
    return np.minimum(np.searchsorted(np.cumsum(weights), steps), len(weights) - 1).astype(np.int64)

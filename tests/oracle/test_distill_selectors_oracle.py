"""Every selector against its definition, written again plainly: all pairs, all rows in every step, float64, no shared code.

Requests without ties are Gaussian; with ties, few distinct rows and scores, so that the earlier row has to win.
"""

from collections import Counter

import numpy as np
import pytest

from curate.core import plugins
from distill.partition import CellConfig, cells_of
from distill.selection import Features, Selection
from distill.selectors.ccs import Plugin as Ccs
from distill.selectors.d2 import Plugin as D2
from distill.selectors.fl import Plugin as Fl
from distill.selectors.herding import Plugin as Herding
from distill.selectors.kcenter import Plugin as KCenter
from distill.selectors.moderate import Plugin as Moderate
from distill.selectors.psnr_bic import Plugin as PsnrBic
from distill.selectors.random import Plugin as Random
from distill.selectors.strat_fl import Plugin as StratFl
from distill.selectors.window import Plugin as Window

Request = tuple[Features, np.ndarray, np.ndarray]
DIGITS = 6  # two numbers that agree so far are equal
SIZES = [(9, 9), (40, 7), (97, 30), (160, 20)]  # rows, to choose
CASES = [(seed, *size, ties) for seed in range(3) for size in SIZES for ties in (False, True)]
MEASURES = ("network_loss", "psnr_bicubic")
every_case = pytest.mark.parametrize(("seed", "num_rows", "num", "ties"), CASES)


def _request(seed: int, num_rows: int, *, ties: bool) -> Request:
    rng = np.random.default_rng(seed)
    rows, low = rng.normal(size=(num_rows, 16)), rng.normal(size=(num_rows, 8))
    numbers = {name: rng.random(num_rows) for name in ("scores", *MEASURES)}
    if ties:
        same = rng.integers(0, max(2, num_rows // 3), num_rows)
        rows, low = rows[same], low[same]
        numbers = {name: np.floor(values * 5) for name, values in numbers.items()}
    features = Features(
        rows=rows.astype(np.float32), descriptors=low.astype(np.float32),
        measures={name: numbers[name] for name in MEASURES},
    )  # fmt: skip
    return features, numbers["scores"], rng.integers(0, max(1, num_rows // 6), num_rows)


def _picked(plugin: object, request: Request, num: int, seed: int = 0) -> Selection:
    return plugin.select(*request, num, np.random.default_rng(seed))


# The definitions


def _standard(values: np.ndarray) -> np.ndarray:
    centred = values.astype(float) - values.astype(float).mean(axis=0)
    return centred / np.where(centred.std(axis=0) > 0, centred.std(axis=0), 1)


def _distances(points: np.ndarray) -> np.ndarray:
    return np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=-1))


def _median(points: np.ndarray) -> float:
    return float(np.median(_distances(points)[np.triu_indices(len(points), 1)]))


def _whitened(rows: np.ndarray) -> np.ndarray:
    """Spec 4.2: PCA-whitened, rank 64, at most N / 8 (ours); in units of sqrt(2) median distance, 1 where that is 0."""
    standard = _standard(rows)
    left, singular, _ = np.linalg.svd(standard, full_matrices=False)
    rank = min(64, max(1, len(rows) // 8), int((singular**2 > 1e-9 * singular[0] ** 2).sum()))
    white = left[:, :rank] * np.sqrt(len(rows))
    return white / (np.sqrt(2) * (_median(white) or 1 / np.sqrt(2)))


def _kappa(features: Features) -> np.ndarray:
    """Spec 4.2, the second formula."""
    total = np.zeros((len(features), len(features)))
    low = _standard(features.descriptors)
    low = low / (np.sqrt(2) * (_median(low) or 1 / np.sqrt(2)))
    for part in (_whitened(features.rows), low):
        total += 0.5 * np.exp(-(_distances(part) ** 2))
    return total


def _ranked(scores: np.ndarray, rows: list[int], *, falling: bool) -> list[int]:
    return sorted(rows, key=lambda row: (-scores[row] if falling else scores[row], row))


def _cut(scores: np.ndarray, share: float, num: int) -> list[int]:
    """Drop the highest scores; of equal scores the later row goes first."""
    rising = _ranked(scores, list(range(len(scores))), falling=False)
    return rising[: len(scores) - min(int(share * len(scores)), len(scores) - num)]


def _water(sizes: list[int], num: int) -> list[int]:
    """Spec 4.3: visit bins by increasing size."""
    budgets, rest, left = [0] * len(sizes), num, len(sizes)
    for number in sorted(range(len(sizes)), key=lambda number: (sizes[number], number)):
        budgets[number] = min(sizes[number], rest // left)
        rest, left = rest - budgets[number], left - 1
    for number in sorted(range(len(sizes)), key=lambda number: (-sizes[number], -number)):
        while rest and budgets[number] < sizes[number]:
            budgets[number], rest = budgets[number] + 1, rest - 1
    return budgets


def _greedy(request: Request, strata: list[list[int]], budgets: list[int], pool: list[int]) -> list[int]:
    """Spec 4.3, `inside a bin` and `groups`: every gain of every open row in every step."""
    features, _, groups = request
    kappa, num = _kappa(features), sum(budgets)
    cap = -(-num // len({int(groups[row]) for row in pool}))
    chosen: list[int] = []
    for stratum, budget in zip(strata, budgets, strict=True):
        extra = 0
        for _ in range(budget):
            used = Counter(int(groups[row]) for row in chosen)
            left = [row for row in sorted(stratum) if row not in chosen]
            while not [row for row in left if used[int(groups[row])] < cap + extra]:
                extra += 1
            left = [row for row in left if used[int(groups[row])] < cap + extra]
            covered = kappa[:, chosen].max(axis=1) if chosen else np.zeros(len(kappa))
            gains = [round(float(np.maximum(0, kappa[:, row] - covered).sum()), DIGITS) for row in left]
            chosen.append(left[gains.index(max(gains))])
    return chosen


def _herd(points: np.ndarray, num: int) -> list[int]:
    """Spec 4.3: argmin_x |(t+1) mu - sum_S z - z_x|."""
    chosen: list[int] = []
    for turn in range(num):
        wanted = (turn + 1) * points.mean(axis=0) - points[chosen].sum(axis=0)
        away = np.round(((wanted - points) ** 2).sum(axis=1), DIGITS)
        away[chosen] = np.inf
        chosen.append(int(np.argmin(away)))
    return chosen


def _farthest(points: np.ndarray, num: int) -> list[int]:
    """Gonzalez: from the row nearest to the mean, always the row whose nearest chosen row is farthest."""
    away = np.round(_distances(points), 5)
    chosen = [int(np.argmin(np.round(((points - points.mean(axis=0)) ** 2).sum(axis=1), DIGITS)))]
    while len(chosen) < num:
        nearest = away[:, chosen].min(axis=1)
        nearest[chosen] = -1
        chosen.append(int(np.argmax(nearest)))
    return chosen


def _d2(points: np.ndarray, scores: np.ndarray, num: int, kept: list[int]) -> list[int]:
    """D2: s_i + sum over 5 nearest of exp(-d) s_j; pick the largest; its neighbours lose exp(-0.1 d) times its value."""
    kept = sorted(kept)
    away = _distances(points[kept]) * np.sqrt(2)  # in units of the median
    importance = scores[kept] - min(0, scores.min())
    near = [
        sorted((j for j in range(len(kept)) if j != i), key=lambda j: (round(away[i, j], DIGITS), j))[:5]
        for i in range(len(kept))
    ]
    value = np.array(
        [importance[i] + sum(np.exp(-away[i, j]) * importance[j] for j in near[i]) for i in range(len(kept))]
    )
    chosen: list[int] = []
    while len(chosen) < num:
        open_value = np.round(value / (importance.max() or 1), DIGITS)
        open_value[chosen] = -np.inf
        best = int(np.argmax(open_value))
        chosen.append(best)
        for j in near[best]:
            value[j] -= np.exp(-0.1 * away[best, j]) * value[best] * (j not in chosen)
    return [kept[i] for i in chosen]


# One test each


@every_case
def test_strat_fl(seed: int, num_rows: int, num: int, ties: bool) -> None:
    request = _request(seed, num_rows, ties=ties)
    pool = _cut(request[1], 0.05, num)
    strata = [part.tolist() for part in np.array_split(np.array(pool), int(np.clip(num // 4, 1, 10)))]
    budgets = _water([len(stratum) for stratum in strata], num)
    picked = _picked(StratFl(), request, num)
    assert picked.indices.tolist() == _greedy(request, strata, budgets, pool)
    assert picked.strata.tolist() == [number for number, budget in enumerate(budgets) for _ in range(budget)]


@pytest.mark.parametrize("seed", range(3))
def test_strat_fl_of_equal_width(seed: int) -> None:
    request = _request(seed, 90, ties=seed == 2)
    pool = _cut(request[1], 0.05, 24)
    low, step = request[1][pool].min(), np.ptp(request[1][pool]) / 6
    strata: list[list[int]] = [[] for _ in range(6)]
    for row in pool:
        strata[min(5, int((request[1][row] - low) / step + 1e-9))].append(row)
    expected = _greedy(request, strata, _water([len(stratum) for stratum in strata], 24), pool)
    assert _picked(StratFl(binning="equalwidth"), request, 24).indices.tolist() == expected


@every_case
def test_fl(seed: int, num_rows: int, num: int, ties: bool) -> None:
    request = _request(seed, num_rows, ties=ties)
    every = list(range(num_rows))
    assert _picked(Fl(), request, num).indices.tolist() == _greedy(request, [every], [num], every)


@every_case
def test_herding(seed: int, num_rows: int, num: int, ties: bool) -> None:
    request = _request(seed, num_rows, ties=ties)
    assert _picked(Herding(), request, num).indices.tolist() == _herd(_whitened(request[0].rows), num)


@every_case
def test_kcenter(seed: int, num_rows: int, num: int, ties: bool) -> None:
    request = _request(seed, num_rows, ties=ties)
    picked, points = _picked(KCenter(), request, num), _whitened(request[0].rows)
    assert picked.indices.tolist() == _farthest(points, num)
    radius = _distances(points)
    before = [radius[row, picked.indices[:turn]].min() for turn, row in enumerate(picked.indices) if turn]
    assert picked.gains[1:] == pytest.approx(before, abs=1e-4)


@every_case
def test_d2(seed: int, num_rows: int, num: int, ties: bool) -> None:
    request = _request(seed, num_rows, ties=ties)
    kept = _cut(request[1], 0.4, num)
    expected = _d2(_whitened(request[0].rows), request[1], num, kept)
    assert _picked(D2(), request, num).indices.tolist() == expected


def test_d2_counts_from_the_lowest_of_negative_scores() -> None:
    features, scores, groups = _request(0, 80, ties=False)
    moved = scores - scores.min()
    assert _picked(D2(), (features, moved, groups), 20).indices.tolist() == (
        _picked(D2(), (features, moved - 7, groups), 20).indices.tolist()
    )


@every_case
def test_moderate(seed: int, num_rows: int, num: int, ties: bool) -> None:
    request = _request(seed, num_rows, ties=ties)
    points = _whitened(request[0].rows)
    away = np.round(np.sqrt(((points - np.median(points, axis=0)) ** 2).sum(axis=1)), DIGITS)
    start = (num_rows - num) // 2
    expected = _ranked(away, list(range(num_rows)), falling=False)[start : start + num]
    assert _picked(Moderate(), request, num).indices.tolist() == expected


@every_case
def test_the_ends_of_a_ranking(seed: int, num_rows: int, num: int, ties: bool) -> None:
    request = _request(seed, num_rows, ties=ties)
    features, scores, _ = request
    every, losses = list(range(num_rows)), features.measures["network_loss"]
    expected = {
        "top": _ranked(scores, every, falling=True)[:num], "bottom": _ranked(scores, every, falling=False)[:num],
        "moser_loss": _ranked(losses, _cut(losses, 0.05, num), falling=True)[:num],
        "psnr_bic": _ranked(features.measures["psnr_bicubic"], every, falling=True)[:num],
    }  # fmt: skip
    for name, rows in expected.items():
        assert _picked(plugins.load("distill.selectors", name)(), request, num).indices.tolist() == rows


@every_case
def test_psnr_bic_with_a_cap(seed: int, num_rows: int, num: int, ties: bool) -> None:
    features, scores, groups = _request(seed, num_rows, ties=ties)
    order = _ranked(features.measures["psnr_bicubic"], list(range(num_rows)), falling=True)
    cap, chosen = -(-num // len(set(groups.tolist()))), []
    while len(chosen) < num:
        for row in order:
            if len(chosen) < num and row not in chosen and groups[chosen].tolist().count(groups[row]) < cap:
                chosen.append(row)
        cap += 1
    assert _picked(PsnrBic(group_cap=True), (features, scores, groups), num).indices.tolist() == chosen


@every_case
def test_window(seed: int, num_rows: int, num: int, ties: bool) -> None:
    request = _request(seed, num_rows, ties=ties)
    order = _ranked(request[1], list(range(num_rows)), falling=False)
    middle = (num_rows - num) // 2
    assert _picked(Window(), request, num).indices.tolist() == order[middle : middle + num]
    assert _picked(Window(centre_frac=0.0), request, num).indices.tolist() == order[:num]
    assert _picked(Window(centre_frac=1.0), request, num).indices.tolist() == order[num_rows - num :]


def test_window_stays_within_its_bounds() -> None:
    request = _request(0, 100, ties=False)
    order = _ranked(request[1], list(range(100)), falling=False)
    assert _picked(Window(low_frac=0.29), request, 20).indices.tolist() == order[40:60]
    assert _picked(Window(centre_frac=0.1, low_frac=0.29), request, 20).indices.tolist() == order[29:49]
    assert _picked(Window(centre_frac=0.9, high_frac=0.57), request, 20).indices.tolist() == order[37:57]


@every_case
def test_ccs_shares_the_budget_as_algorithm_1_does(seed: int, num_rows: int, num: int, ties: bool) -> None:
    request = _request(seed, num_rows, ties=ties)
    scores, kept = request[1], _cut(request[1], 0.3, num)
    low, step = scores[kept].min(), np.ptp(scores[kept]) / 50
    strata: list[list[int]] = [[] for _ in range(50)]
    for row in kept:
        strata[min(49, int((scores[row] - low) / step + 1e-9)) if step else 49].append(row)
    budgets = _water([len(stratum) for stratum in strata], num)
    picked = _picked(Ccs(), request, num)
    assert np.bincount(picked.strata, minlength=50).tolist() == budgets
    assert all(row in strata[stratum] for row, stratum in zip(picked.indices, picked.strata, strict=True))


@pytest.mark.parametrize(("plugin", "expected"), [(Random(), 0.25), (Ccs(num_strata=1, mis_ratio_frac=0.5), 0.5)])
def test_draws_are_uniform(plugin: object, expected: float) -> None:
    request = _request(0, 40, ties=False)
    counts = np.zeros(40)
    for seed in range(1000):
        counts[_picked(plugin, request, 10, seed).indices] += 1
    shares = counts[counts > 0] / 1000
    assert shares == pytest.approx(np.full(len(shares), expected), abs=0.08)  # 5 standard deviations at 0.5
    assert shares.sum() == pytest.approx(10)


# In cells, and as the spec's unit checks have it

SMALL_CELLS = CellConfig(mean_rows=120, min_rows=80, max_rows=160)


def _cells(request: Request) -> list[np.ndarray]:
    return cells_of([_whitened(request[0].rows).astype(np.float32)], SMALL_CELLS)


@pytest.mark.parametrize("seed", range(3))
def test_cells_hold_every_row_once_and_rows_that_lie_together(seed: int) -> None:
    request = _request(seed, 700, ties=seed == 2)
    cells, points = _cells(request), _whitened(request[0].rows)
    assert sorted(row for cell in cells for row in cell.tolist()) == list(range(700))
    assert all(80 <= len(cell) <= 160 and (np.diff(cell) > 0).all() for cell in cells)
    inside = sum(points[cell].var(axis=0).sum() * len(cell) for cell in cells)
    assert inside < 0.9 * points.var(axis=0).sum() * 700


@pytest.mark.parametrize("seed", range(3))
def test_herding_in_cells_is_herding_of_each_cell(seed: int) -> None:
    request = _request(seed, 700, ties=False)
    points, expected = _whitened(request[0].rows), []
    cells = _cells(request)
    assert len(cells) > 3
    shares = [len(cell) * 70 / 700 for cell in cells]
    budgets = [int(share) for share in shares]
    by_remainder = sorted(range(len(cells)), key=lambda number: (budgets[number] - shares[number], number))
    for number in by_remainder[: 70 - sum(budgets)]:
        budgets[number] += 1
    for cell, budget in zip(cells, budgets, strict=True):
        expected += cell[_herd(points[cell], budget)].tolist()
    assert _picked(Herding(exact_rows=100, cells=SMALL_CELLS), request, 70).indices.tolist() == expected


@pytest.mark.parametrize("name", ["kcenter", "d2", "fl", "strat_fl"])
def test_one_cell_is_the_exact_answer(name: str) -> None:
    """Above `exact_rows`, but in one cell: the large-N path has to find what the exact path finds."""
    request, load = _request(0, 150, ties=False), plugins.load("distill.selectors", name)
    exact, in_cell = _picked(load(), request, 30), _picked(load(exact_rows=10, cells=SMALL_CELLS), request, 30)
    assert in_cell.indices.tolist() == exact.indices.tolist()
    assert in_cell.gains == pytest.approx(exact.gains, abs=1e-3)
    assert in_cell.strata.tolist() == exact.strata.tolist()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("plugin", [Fl, StratFl])
def test_facility_location_in_cells_is_nearly_exact(plugin: type, seed: int) -> None:
    request = _request(seed, 700, ties=False)
    kappa = _kappa(request[0])

    def value(picked: Selection) -> float:
        return kappa[:, picked.indices].max(axis=1).sum()

    exact = _picked(plugin(), request, 70)
    in_cells = _picked(plugin(exact_rows=100, cells=SMALL_CELLS), request, 70)
    draws = [value(_picked(Random(), request, 70, draw)) for draw in range(20)]
    assert value(in_cells) > 0.98 * value(exact)
    assert value(in_cells) > max(draws)
    assert np.bincount(in_cells.strata + 1).tolist() == np.bincount(exact.strata + 1).tolist()
    assert np.bincount(request[2][in_cells.indices]).max() <= np.bincount(request[2][exact.indices]).max() + 1


@pytest.mark.parametrize("seed", range(5))
def test_herding_is_nearer_to_the_mean_than_random_choice(seed: int) -> None:
    """Spec 2c: 0.24 against 1.24; the argmax form 3.44."""
    rng = np.random.default_rng(seed)
    features = Features(
        rows=rng.normal(size=(2000, 64)).astype(np.float32), descriptors=np.zeros((2000, 8), np.float32)
    )
    request = features, rng.random(2000), np.arange(2000)

    def error(picked: Selection) -> float:
        return float(np.linalg.norm(features.rows[picked.indices].mean(axis=0) - features.rows.mean(axis=0)))

    herded = error(_picked(Herding(), request, 40))
    drawn = [error(_picked(Random(), request, 40, draw)) for draw in range(20)]
    assert herded == pytest.approx(0.24, abs=0.03)
    assert np.mean(drawn) == pytest.approx(1.24, abs=0.08)
    assert herded < 0.4 * min(drawn)


@pytest.mark.parametrize("name", sorted(set(plugins.names("distill.selectors")) - {"random", "ccs"}))
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_rows_does_not_matter(name: str, seed: int) -> None:
    """Without ties; those that draw by place are equivariant through the keys that `choose` sorts by (property tests)."""
    features, scores, groups = _request(seed, 200, ties=False)
    order = np.random.default_rng(seed + 10).permutation(200)
    shuffled = Features(
        rows=features.rows[order], descriptors=features.descriptors[order],
        measures={measure: values[order] for measure, values in features.measures.items()},
    )  # fmt: skip
    plugin = plugins.load("distill.selectors", name)()
    here = _picked(plugin, (features, scores, groups), 33)
    there = _picked(plugin, (shuffled, scores[order], groups[order]), 33)
    assert order[there.indices].tolist() == here.indices.tolist()

"""Lazy greedy against the plain greedy of the definition, and stochastic greedy against its promise."""

import numpy as np
import pytest

from distill.kernel import fit_kernel
from distill.selection import Features
from distill.selectors.strat_fl import Plugin
from distill.strata import equal_mass, water_fill, without_ends


def _request(seed: int, num_rows: int, num_photos: int) -> tuple[Features, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = (rng.normal(size=(10, 16))[rng.integers(0, 10, num_rows)] + 0.4 * rng.normal(size=(num_rows, 16))).astype(
        np.float32
    )
    features = Features(rows=rows, descriptors=rng.normal(size=(num_rows, 8)).astype(np.float32))
    return features, rng.random(num_rows), rng.integers(0, num_photos, num_rows)


def _naive(features: Features, scores: np.ndarray, groups: np.ndarray, num: int, plugin: Plugin) -> list[int]:
    """Section 4.3 word for word: the whole kernel matrix, every gain in every step."""
    every = np.arange(len(scores))
    kappa = fit_kernel(features, plugin.rank).between(every, every)
    pool = without_ends(scores, 0.0, plugin.tail_cut_frac, num)
    strata = equal_mass(pool, int(np.clip(num // 4, 1, 10)))
    cap = -(-num // len(set(groups[pool].tolist())))
    chosen: list[int] = []
    for stratum, budget in zip(strata, water_fill([len(s) for s in strata], num), strict=True):
        extra = 0
        for _ in range(budget):
            used = (
                np.bincount(groups[chosen], minlength=groups.max() + 1) if chosen else np.zeros(groups.max() + 1, int)
            )
            left = [row for row in sorted(stratum.tolist()) if row not in chosen]
            while not (open_rows := [row for row in left if used[groups[row]] < cap + extra]):
                extra += 1
            covered = kappa[:, chosen].max(axis=1) if chosen else np.zeros(len(scores))
            gains = [round(float(np.maximum(kappa[:, row] - covered, 0).sum()), 9) for row in open_rows]
            chosen.append(open_rows[int(np.argmax(gains))])
    return chosen


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("num_rows", "num_photos", "num"), [(60, 60, 3), (120, 10, 24), (150, 4, 90), (90, 30, 90)])
def test_lazy_greedy_chooses_what_plain_greedy_chooses(seed: int, num_rows: int, num_photos: int, num: int) -> None:
    features, scores, groups = _request(seed, num_rows, num_photos)
    picked = Plugin().select(features, scores, groups, num, np.random.default_rng(0))
    assert picked.indices.tolist() == _naive(features, scores, groups, num, Plugin())


def test_the_group_cap_holds_while_groups_remain() -> None:
    features, scores, groups = _request(0, 300, 30)
    picked = Plugin(num_strata=1).select(features, scores, groups, 30, np.random.default_rng(0))
    assert np.bincount(groups[picked.indices]).max() == 1
    free = Plugin(num_strata=1, group_cap=False).select(features, scores, groups, 30, np.random.default_rng(0))
    assert np.bincount(groups[free.indices]).max() > 1


def test_every_stratum_is_served_and_the_tail_is_not() -> None:
    features, scores, groups = _request(1, 200, 200)
    picked = Plugin().select(features, scores, groups, 40, np.random.default_rng(0))
    assert np.bincount(picked.strata).tolist() == [4] * 10
    assert scores[picked.indices].max() < np.sort(scores)[190]
    means = [scores[picked.indices[picked.strata == stratum]].mean() for stratum in range(10)]
    assert means == sorted(means)


def test_stochastic_greedy_covers_nearly_as_much() -> None:
    features, scores, groups = _request(2, 1200, 300)
    kernel, every = fit_kernel(features, 64), np.arange(1200)
    exact = Plugin().select(features, scores, groups, 48, np.random.default_rng(0)).indices
    sampled = Plugin(exact_rows=100, large="stochastic", num_reference_rows=600).select(
        features, scores, groups, 48, np.random.default_rng(0)
    )
    assert len(set(sampled.indices.tolist())) == 48
    assert np.bincount(groups[sampled.indices]).max() == 1
    value = [kernel.between(every, rows).max(axis=1).sum() for rows in (sampled.indices, exact)]
    assert value[0] > 0.95 * value[1]


def test_equal_rows_are_chosen_in_key_order() -> None:
    features, scores, _ = _request(3, 40, 40)
    twice = Features(rows=np.repeat(features.rows, 2, axis=0), descriptors=np.repeat(features.descriptors, 2, axis=0))
    picked = Plugin(num_strata=1, group_cap=False).select(
        twice, np.repeat(scores, 2), np.arange(80), 12, np.random.default_rng(0)
    )
    assert all(row % 2 == 0 for row in picked.indices.tolist())

"""Selectors under random requests: exact budgets, unique rows, and the same keys however the rows are ordered."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.core import plugins
from distill.budget import count_budget
from distill.choose import Chosen, choose
from distill.selection import Selector
from distill.strata import largest_remainder, water_fill
from distill.table import FeatureTable

SELECTORS = plugins.names("distill.selectors")


def _table(num: int, num_photos: int, num_levels: int, seed: int) -> FeatureTable:
    """Make patches of few photographs with few distinct rows and scores, so that ties are the rule."""
    rng = np.random.default_rng(seed)
    levels = rng.normal(size=(num_levels, 6)).astype(np.float32)
    rows = levels[rng.integers(0, num_levels, num)]
    photos = rng.integers(0, num_photos, num)
    measured = {
        name: rng.integers(0, num_levels, num) / num_levels
        for selector in SELECTORS
        for name in plugins.load("distill.selectors", selector).needs
    }
    return FeatureTable(
        keys=np.array([f"{photo:020x}_{number:05d}_00000_64" for number, photo in enumerate(photos)]),
        rows=rows, descriptors=np.repeat(rows[:, :2], 4, axis=1), complexity=rng.integers(0, num_levels, num) / num_levels,
        measures=measured,
    )  # fmt: skip


def _choose(table: FeatureTable, selector: Selector, num: int, seed: int) -> Chosen:
    return choose(table, {"clean": np.arange(len(table))}, selector, {"clean": num}, seed)


@pytest.mark.parametrize("name", SELECTORS)
@settings(max_examples=25, deadline=None)
@given(
    num_rows=st.integers(1, 60), num_photos=st.integers(1, 12), num_levels=st.integers(1, 30), share=st.fractions(0, 1),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_exact_budget_unique_rows_and_order_does_not_matter(
    name: str, num_rows: int, num_photos: int, num_levels: int, share: Fraction, seed: int
) -> None:
    table = _table(num_rows, num_photos, num_levels, seed)
    num = max(1, int(share * num_rows))
    selector = plugins.load("distill.selectors", name)()
    chosen = _choose(table, selector, num, seed)
    assert len(chosen.key) == len(set(chosen.key)) == num
    assert set(chosen.key) <= set(table.keys.tolist())
    order = np.random.default_rng(seed + 1).permutation(num_rows)
    shuffled = FeatureTable(
        keys=table.keys[order],
        rows=table.rows[order],
        descriptors=table.descriptors[order],
        complexity=table.complexity[order],
        measures={measure: values[order] for measure, values in table.measures.items()},
    )
    again = _choose(shuffled, selector, num, seed)
    assert (again.key, again.stage, again.gain.tolist()) == (chosen.key, chosen.stage, chosen.gain.tolist())


@settings(max_examples=200, deadline=None)
@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=12), share=st.fractions(0, 1))
def test_water_filling_is_exact_and_fair(sizes: list[int], share: Fraction) -> None:
    num = int(share * sum(sizes))
    budgets = water_fill(sizes, num)
    assert sum(budgets) == num
    assert all(0 <= budget <= size for budget, size in zip(budgets, sizes, strict=True))
    short = [budget for budget, size in zip(budgets, sizes, strict=True) if budget < size]
    assert not short or min(short) >= max(budgets) - len(sizes)


@settings(max_examples=200, deadline=None)
@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=12), share=st.fractions(0, 1))
def test_largest_remainder_is_exact_and_proportional(sizes: list[int], share: Fraction) -> None:
    num = int(share * sum(sizes))
    budgets = largest_remainder(sizes, num)
    assert sum(budgets) == num
    assert all(0 <= budget <= size for budget, size in zip(budgets, sizes, strict=True))
    total = max(1, sum(sizes))
    assert all(abs(budget - Fraction(size * num, total)) < 1 for budget, size in zip(budgets, sizes, strict=True))


@settings(max_examples=200, deadline=None)
@given(hundredths=st.integers(1, 10_000), available=st.integers(1, 10**9))
def test_a_share_is_rounded_up_exactly(hundredths: int, available: int) -> None:
    text = f"{hundredths // 100}.{hundredths % 100:02d}%"
    assert count_budget(text, available) == -(-hundredths * available // 10_000)

"""The rounding rule of a budget, in exact fractions."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.core.errors import BudgetError, ConfigError
from distill.budget import count_budget, parse_budget, share_budget, task_floor


@pytest.mark.parametrize(
    ("text", "available", "num"),
    [
        ("2%", 1415, 29), ("2%", 100, 2), ("2%", 101, 3), ("0.5%", 1000, 5), ("0.5%", 1001, 6), ("7%", 100, 7),
        ("100%", 7, 7), ("0.000001%", 3, 1), (" 5 % ", 40, 2), ("5000", 5000, 5000), ("1", 9, 1), ("29.0%", 100, 29),
    ],
)  # fmt: skip
def test_a_budget_is_an_exact_count_rounded_up(text: str, available: int, num: int) -> None:
    assert count_budget(text, available) == num


@pytest.mark.parametrize(
    "text", ["", "%", "two", "2 percent", "-1", "-2%", "0", "0%", "0.0%", "100.1%", "250%", "0.02", "1e3",
     "2,5%", "nan", "inf%", "2%%", "٢%"]
)  # fmt: skip
def test_nonsense_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(BudgetError, match="budget") as caught:
        count_budget(text, 100)
    assert "\n" not in str(caught.value)


def test_more_than_there_is_names_what_there_is() -> None:
    with pytest.raises(BudgetError, match="asks for 201 patches, the corpus holds 200"):
        count_budget("201", 200)


def test_an_empty_corpus_meets_no_budget() -> None:
    with pytest.raises(BudgetError, match="holds 0 patches"):
        count_budget("2%", 0)


def test_a_share_stays_a_fraction_and_the_error_is_a_config_error() -> None:
    assert parse_budget("0.1%") == Fraction(1, 1000)
    assert issubclass(BudgetError, ConfigError)


ALL_IN_ONE = {"rain": 200, "haze": 72_135, "noise": 5144}


@pytest.mark.parametrize(
    ("text", "asked", "counts"),
    [
        ("2%", 0, [16, 1443, 103]), ("2%", 1, [4, 1443, 103]), ("2%", 30, [30, 1443, 103]), ("1562", 0, [16, 1443, 103]),
        ("1562", 1, [4, 1454, 104]), ("1562", 50, [50, 1411, 101]), ("60", 0, [16, 28, 16]), ("48", 0, [16, 16, 16]),
        ("47", 0, [15, 17, 15]),
        ("10", 0, [3, 4, 3]), ("3", 0, [1, 1, 1]), ("77479", 0, [200, 72_135, 5144]),
    ],
)  # fmt: skip
def test_rare_tasks_have_a_floor_in_shares_and_in_counts(text: str, asked: int, counts: list[int]) -> None:
    got = share_budget(text, ALL_IN_ONE, min_per_task=asked)
    assert list(got) == list(ALL_IN_ONE)
    assert list(got.values()) == counts


def test_a_floor_is_no_larger_than_its_task_and_one_task_has_none() -> None:
    assert share_budget("40", {"few": 5, "many": 900}) == {"few": 5, "many": 35}
    assert share_budget("1%", {"clean": 300}) == {"clean": 3}
    assert share_budget("2%", {"clean": 300}, min_per_task=20) == {"clean": 20}
    assert task_floor("40", ALL_IN_ONE) == 13
    with pytest.raises(BudgetError, match="smaller than the number of tasks, 3"):
        task_floor("2", ALL_IN_ONE)


@settings(max_examples=200, deadline=None)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6), share=st.fractions(0, 1), asked=st.integers(0, 40))
def test_counts_are_met_exactly_and_floors_kept(sizes: list[int], share: Fraction, asked: int) -> None:
    tasks = {str(number): size for number, size in enumerate(sizes)}
    num = max(len(sizes), int(share * sum(sizes)))
    floor = task_floor(str(num), tasks, min_per_task=asked)
    got = share_budget(str(num), tasks, min_per_task=asked)
    assert sum(got.values()) == num
    assert all(min(floor, size) <= got[task] <= size for task, size in tasks.items())

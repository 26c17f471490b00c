"""The rounding rule of a budget, in exact fractions."""

from fractions import Fraction

import pytest

from curate.core.errors import BudgetError, ConfigError
from distill.budget import count_budget, parse_budget


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

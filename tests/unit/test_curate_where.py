"""Expressions of `curate filter --where`: grammar, errors, nulls."""

import itertools

import numpy as np
import pytest

from curate.core.errors import ConfigError
from curate.where import Column, Comparison, evaluate, leaves, parse_where

NAN = float("nan")


def numbers(*values: float | None) -> Column:
    array = np.array([NAN if v is None else v for v in values], float)
    return Column(array, np.isnan(array), is_text=False)


def texts(*values: str | None) -> Column:
    return Column(np.array(values, object), np.array([v is None for v in values]), is_text=True)


def kept(text: str, **columns: Column) -> list[bool]:
    return evaluate(parse_where(text), columns).true.tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a < 2", [True, False, False]),
        ("a <= 2", [True, True, False]),
        ("a > 2", [False, False, True]),
        ("a >= 2.0", [False, True, True]),
        ("a == 2e0", [False, True, False]),
        ("a != 2", [True, False, True]),
        ("a > -.5", [True, True, True]),
        ("not a < 2", [False, True, True]),
        ("a < 2 or a > 2", [True, False, True]),
        ("a > 1 AND a < 3", [False, True, False]),
        ("a == 1 or a == 2 and a == 3", [True, False, False]),  # and binds tighter than or
        ("(a == 1 or a == 2) and a == 3", [False, False, False]),
        ("not a == 1 or a == 1", [True, True, True]),  # not binds tighter than or
        ("not not a == 1", [True, False, False]),
        ("s == 'x' and a==1", [True, False, False]),
        ('s != "x"', [False, True, True]),
        ("s > 'y'", [False, False, True]),
        ("s == 'it is \"null\" and (so on'", [False, False, False]),
    ],
)
def test_expressions_mean_what_they_say(text, expected):
    assert kept(text, a=numbers(1, 2, 3), s=texts("x", "y", "z")) == expected


@pytest.mark.parametrize("op", ["<", "<=", ">", ">=", "==", "!="])
def test_a_null_fails_a_comparison_and_its_negation(op):
    for column in (numbers(None, 5), numbers(NAN, 5)):
        assert not kept(f"a {op} 1", a=column)[0]
        assert not kept(f"not a {op} 1", a=column)[0]
        assert not kept(f"not (a {op} 1 and a {op} 1)", a=column)[0]
    assert not kept(f"not s {op} 'x'", s=texts(None, "x"))[0]


def test_a_null_can_be_asked_for():
    column = numbers(None, 90, 10)
    assert kept("q is null", q=column) == [True, False, False]
    assert kept("q is not null", q=column) == [False, True, True]
    assert kept("not q is null", q=column) == [False, True, True]
    assert kept("q is null or q > 80", q=column) == [True, True, False]
    assert kept("q > 80 or a == 1", q=column, a=numbers(1, 0, 0)) == [True, True, False]  # true or unknown is true


def test_logic_is_that_of_sql():
    """Every pair of true, false, unknown against the truth tables of three-valued logic."""
    values = {True: 1.0, False: 0.0, None: None}
    for left, right in itertools.product(values, values):
        columns = {"a": numbers(values[left]), "b": numbers(values[right])}
        both = False if False in (left, right) else None if None in (left, right) else True
        either = True if True in (left, right) else None if None in (left, right) else False
        for text, expected in (("a == 1 and b == 1", both), ("a == 1 or b == 1", either)):
            truth = evaluate(parse_where(text), columns)
            assert truth.true[0] == (expected is True) and truth.false[0] == (expected is False), (text, left, right)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "position 1: wanted the name of a score or column, got the end"),
        ("  ", "position 3: wanted the name"),
        ("a", "position 2: wanted < <= > >= == != or `is null` after a, got the end"),
        ("a <", "position 4: wanted a number or a quoted string, got the end"),
        ("a < b", "position 5: wanted a number or a quoted string, got 'b'"),
        ("a < null", "position 5: wanted a number or a quoted string, got 'null'"),
        ("a = 1", "position 3: .*write == for equal"),
        ("a < 1 b < 2", "position 7: wanted `and`, `or` or the end, got 'b'"),
        ("a < 1 < 2", "position 7: wanted `and`, `or` or the end, got '<'"),
        ("(a < 1", r"position 7: wanted `\)`, `and` or `or`, got the end"),
        ("a < 1)", "position 6: wanted `and`, `or` or the end"),
        ("a < 1 and", "position 10: wanted the name"),
        ("and < 1", "position 1: wanted the name"),
        ("a is 3", "position 6: wanted `null` or `not null`"),
        ("a < 1x", "position 5: wanted a name, number"),
        ("a < 'x", "position 5: wanted a name, number"),
        ("a < 1e999", "position 5: wanted a finite number"),
        ("1 < a", "position 1: wanted the name of a score or column, got '1'"),
        ("__import__('os').system('true')", r"position 11: .*after __import__, got '\('"),
        ("a < 1; b", "position 6: "),
        ("(" * 5000 + "a<1" + ")" * 5000, "at most 100 brackets"),
        ("not " * 5000 + "a<1", "at most 100 brackets"),
    ],
)
def test_an_error_names_its_position(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_where(text)


@pytest.mark.parametrize(("text", "wanted"), [("a < 'x'", "is a number; compare"), ("s < 1", "is text; compare")])
def test_a_number_is_not_compared_with_text(text, wanted):
    with pytest.raises(ConfigError, match=f"position 1: . {wanted}"):
        kept(text, a=numbers(1), s=texts("x"))


def test_a_tree_reads_back_as_itself():
    text = "not (a < 1.5 or s == 'x y') and b is not null and c is null"
    tree = parse_where(text)
    assert str(parse_where(str(tree))) == str(tree)
    assert [leaf.name for leaf in leaves(tree)] == ["a", "s", "b", "c"]
    assert next(leaves(tree)) == Comparison("a", "<", 1.5, 6)


def test_a_long_chain_is_no_deep_tree():
    tree = parse_where(" and ".join(f"a != {i}" for i in range(5000)))
    assert evaluate(tree, {"a": numbers(1, 5000)}).true.tolist() == [False, True]
    assert str(parse_where(str(tree))) == str(tree)

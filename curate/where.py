"""The expressions of `curate filter --where`: parsed into a small tree and evaluated over columns, never executed.

    flat_area < 0.5 and (jpeg_quality > 80 or jpeg_quality is null) and not source == "a.jpg"

Grammar: `or` binds least, then `and`, then `not`; a comparison is NAME OP VALUE with `< <= > >= == !=` and a number or a
quoted string, or `NAME is null`, `NAME is not null`. Keywords may be upper case. Null (and NaN) is unknown as in SQL: any
comparison with it is unknown, so is its negation, and only what is certainly true is kept.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .core.errors import ConfigError

Bools = NDArray[np.bool_]
MAX_DEPTH = 100
_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_KEYWORDS = ("and", "or", "not", "is", "null")
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    |(?P<name>[A-Za-z_]\w*)
    |(?P<text>"[^"]*"|'[^']*')
    |(?P<operator><=|>=|==|!=|<|>)
    |(?P<bracket>[()]))""",
    re.VERBOSE | re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """`name op value`; `position` (from 1) is where the name stands in the text."""

    name: str
    op: str
    value: float | str
    position: int = 0

    def __str__(self) -> str:
        return f"{self.name} {self.op} {self.value!r}" if isinstance(self.value, str) else self._with_number()

    def _with_number(self) -> str:
        return f"{self.name} {self.op} {self.value:.15g}"


@dataclass(frozen=True, slots=True)
class NullTest:
    """`name is null`, or `name is not null` if `negated`."""

    name: str
    negated: bool
    position: int = 0

    def __str__(self) -> str:
        return f"{self.name} is {'not ' if self.negated else ''}null"


@dataclass(frozen=True, slots=True)
class Not:
    """True where `inner` is certainly false."""

    inner: Where

    def __str__(self) -> str:
        return f"not ({self.inner})"


@dataclass(frozen=True, slots=True)
class Joined:
    """All of `parts`, or any of them if `either`; at least two."""

    parts: tuple[Where, ...]
    either: bool = False

    def __str__(self) -> str:
        return f"({(' or ' if self.either else ' and ').join(str(part) for part in self.parts)})"


Where = Comparison | NullTest | Not | Joined


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """The values of one column: (N,) float64, or (N,) object array of strings; `null` is (N,) bool."""

    values: NDArray[Any]
    null: Bools
    is_text: bool


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What is certainly true and what is certainly false of N rows, each (N,) bool; the rest is unknown."""

    true: Bools
    false: Bools


def parse_where(text: str) -> Where:
    """Parse an expression.

    Raises:
        ConfigError: it is not one; the message names the position (from 1) and what was wanted.
    """
    parser = _Parser(text)
    tree = parser.disjunction(0)
    if parser.kind:
        parser.fail("wanted `and`, `or` or the end")
    return tree


def leaves(where: Where) -> Iterator[Comparison | NullTest]:
    """Yield the comparisons and null tests, from left to right."""
    if isinstance(where, Not):
        yield from leaves(where.inner)
    elif isinstance(where, Joined):
        for part in where.parts:
            yield from leaves(part)
    else:
        yield where


def evaluate(where: Where, columns: Mapping[str, Column]) -> Truth:
    """Evaluate over whole columns.

    Args:
        where: a parsed expression.
        columns: name as written in the expression -> its column; all of one length.

    Returns:
        Three-valued truth of each row.

    Raises:
        ConfigError: a number compared with text, or the other way round.
    """
    if isinstance(where, Not):
        inner = evaluate(where.inner, columns)
        return Truth(inner.false, inner.true)
    if isinstance(where, Joined):
        first, *others = (evaluate(part, columns) for part in where.parts)
        for other in others:
            if where.either:
                first = Truth(first.true | other.true, first.false & other.false)
            else:
                first = Truth(first.true & other.true, first.false | other.false)
        return first
    column = columns[where.name]
    if isinstance(where, NullTest):
        return Truth(~column.null, column.null) if where.negated else Truth(column.null, ~column.null)
    return _compare(where, column)


def _compare(leaf: Comparison, column: Column) -> Truth:
    if isinstance(leaf.value, str) != column.is_text:
        kind, wanted = ("text", "a quoted string") if column.is_text else ("a number", "a number")
        raise ConfigError(f"--where: position {leaf.position}: {leaf.name} is {kind}; compare it with {wanted}")
    holds = np.zeros(len(column.null), np.bool_)
    known = ~column.null
    holds[known] = _OPERATORS[leaf.op](column.values[known], leaf.value)
    return Truth(holds, known & ~holds)


class _Parser:
    """Recursive descent over one text; `kind`, `token` and `start` describe the token that comes next, "" at the end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._end = 0
        self.kind, self.token, self.start = "", "", 0
        self._next()

    def fail(self, wanted: str) -> None:
        got = f"{self.token!r}" if self.kind else "the end"
        raise ConfigError(f"--where: position {self.start + 1}: {wanted}, got {got} in {self._text!r}")

    def disjunction(self, depth: int) -> Where:
        parts = [self._conjunction(depth)]
        while self._take_word("or"):
            parts.append(self._conjunction(depth))
        return Joined(tuple(parts), either=True) if parts[1:] else parts[0]

    def _conjunction(self, depth: int) -> Where:
        parts = [self._negation(depth)]
        while self._take_word("and"):
            parts.append(self._negation(depth))
        return Joined(tuple(parts)) if parts[1:] else parts[0]

    def _negation(self, depth: int) -> Where:
        if depth > MAX_DEPTH:
            self.fail(f"wanted at most {MAX_DEPTH} brackets and `not`s inside one another")
        if self._take_word("not"):
            return Not(self._negation(depth + 1))
        if self.token == "(" and self.kind == "bracket":
            self._next()
            tree = self.disjunction(depth + 1)
            if self.token != ")":
                self.fail("wanted `)`, `and` or `or`")
            self._next()
            return tree
        return self._test()

    def _test(self) -> Where:
        if self.kind != "name" or self.token.lower() in _KEYWORDS:
            self.fail("wanted the name of a score or column")
        name, position = self.token, self.start + 1
        self._next()
        if self._take_word("is"):
            negated = self._take_word("not")
            if not self._take_word("null"):
                self.fail("wanted `null` or `not null` after `is`")
            return NullTest(name, negated, position)
        if self.kind != "operator":
            self.fail(f"wanted < <= > >= == != or `is null` after {name}")
        op = self.token
        self._next()
        return Comparison(name, op, self._value(), position)

    def _value(self) -> float | str:
        if self.kind not in ("number", "text"):
            self.fail("wanted a number or a quoted string")
        value: float | str = float(self.token) if self.kind == "number" else self.token[1:-1]
        if value in (float("inf"), float("-inf")):
            self.fail("wanted a finite number")
        self._next()
        return value

    def _take_word(self, word: str) -> bool:
        if self.kind == "name" and self.token.lower() == word:
            self._next()
            return True
        return False

    def _next(self) -> None:
        self.start = self._end + len(self._text[self._end :]) - len(self._text[self._end :].lstrip())
        if self.start == len(self._text):
            self.kind, self.token, self._end = "", "", self.start
            return
        match = _TOKEN.match(self._text, self._end)
        if match is None or match.lastgroup is None:
            self.kind, self.token = "junk", self._text[self.start]
            hint = "; write == for equal" if self.token == "=" else ""
            self.fail(f"wanted a name, number, quoted string, comparison or bracket{hint}")
            return
        self.kind, self.token, self._end = match.lastgroup, match[match.lastgroup], match.end()

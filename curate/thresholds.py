"""Thresholds as lines on a score: where each one lies, which side it keeps, and what moving it would keep.

A filter only offers `judge`. Its thresholds are found by asking: a number among its fields is a threshold of a column if
the verdict turns over exactly there. What is found is checked against `judge` on real rows; a gate that does not behave
like a set of such lines stays a black box and is never moved.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .core.errors import ConfigError
from .recipes import Filter, Recipe
from .where import Bools, Column, Comparison, Joined, Not, NullTest, Where, evaluate, leaves

Numbers = NDArray[np.float64]
Values = Mapping[str, Numbers]
"""Column -> (N,) float64; NaN where null."""
MAX_CHECKED_ROWS = 500
FACTORS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One threshold.

    Attributes:
        gate: the filter's name, or `where`.
        field: the filter's field, or the comparison as written.
        column: what it is compared with, as the tables of patches call it.
        is_image: the gate judges whole pictures, before they are cut.
        value: the threshold.
        keeps_below: small values are kept.
        inclusive: a value equal to the threshold is kept.
        keeps_null: a null is kept (such as the JPEG quality of a PNG).
        values: other thresholds worth showing, in order, `value` among them.
        position: which comparison of the expression it is; -1 for a gate.
    """

    gate: str
    field: str
    column: str
    is_image: bool
    value: float
    keeps_below: bool
    inclusive: bool
    keeps_null: bool
    values: tuple[float, ...]
    position: int = -1

    @property
    def loosest(self) -> float:
        """The value that lets everything pass but a null."""
        return float("inf") if self.keeps_below else float("-inf")

    def passes(self, values: Numbers, threshold: float | None = None) -> Bools:
        """Compare (N,) values with the threshold (or another one); NaN means null."""
        at = self.value if threshold is None else threshold
        inside = (values < at) if self.keeps_below else (values > at)
        inside = inside | (values == at) if self.inclusive else inside
        return inside | np.isnan(values) if self.keeps_null else inside


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rules:
    """What decides over patches, with thresholds that can be moved.

    Attributes:
        cuts: the thresholds, in the order in which they judge.
        values: every numeric column of all N patches.
        black_boxes: (N,) bool, passed by the gates that are no set of thresholds.
        by_rule: (N,) bool, dropped by a rule that no threshold moves.
        on_purpose: (N,) bool, kept although a gate says no.
        where: the expression of a filtered corpus; None if the recipe's gates decide.
        names: its names -> columns.
    """

    cuts: tuple[Cut, ...]
    values: Values
    black_boxes: Bools
    by_rule: Bools
    on_purpose: Bools
    where: Where | None = None
    names: Mapping[str, Column] = dataclasses.field(default_factory=dict)

    def kept(self, moved: Cut | None = None, threshold: float = 0.0) -> Bools:
        """Say which patches are kept, with one threshold moved."""
        kept = self.black_boxes & ~self.by_rule
        if self.where is not None:
            tree = self.where if moved is None else _replaced(self.where, moved.position, threshold)
            kept = kept & evaluate(tree, self.names).true
        for cut in (cut for cut in self.cuts if cut.position < 0):
            kept = kept & cut.passes(self.values[cut.column], threshold if cut is moved else None)
        return kept | self.on_purpose


def recipe_rules(recipe: Recipe, values: Values, kept: Bools, by_rule: Bools) -> Rules:
    """Find the thresholds of a recipe's gates.

    Args:
        recipe: the recipe the corpus was built with.
        values: every numeric column of all patches (`image_` columns too).
        kept: (N,) bool, what the corpus holds.
        by_rule: (N,) bool, dropped by a rule that is no gate.
    """
    plugins = {plugin.name: plugin for plugin in recipe.filters()}
    cuts: list[Cut] = []
    black_boxes = np.ones(len(kept), bool)
    for gate in recipe.gates:
        plugin = plugins[gate]
        found = _find_cuts(plugin, values)
        cuts += found
        if not found and plugin.level == "patch":
            black_boxes &= np.array([plugin.judge(row).keep for row in _rows(plugin, values)], bool)
    rules = Rules(cuts=tuple(cuts), values=values, black_boxes=black_boxes, by_rule=by_rule, on_purpose=by_rule & False)
    return replace(rules, on_purpose=kept & ~rules.kept())


def where_rules(where: Where, names: Mapping[str, str], columns: Mapping[str, Column], recipe: Rules) -> Rules:
    """Take the comparisons of an expression with numbers as thresholds, and the recipe's gates over whole pictures.

    Args:
        where: the expression.
        names: its names -> columns of the tables.
        columns: its names -> values.
        recipe: the rules of the recipe, whose gates over patches the expression replaces.
    """
    values = {**recipe.values, **{names[name]: column.values for name, column in columns.items() if not column.is_text}}
    cuts = [cut for cut in recipe.cuts if cut.is_image]
    for position, (leaf, upright) in enumerate(_signed(where, True)):
        if isinstance(leaf, Comparison) and leaf.op in ("<", "<=", ">", ">=") and not isinstance(leaf.value, str):
            below = leaf.op.startswith("<") == upright
            cuts.append(Cut(
                gate="where", field=str(leaf), column=names[leaf.name], is_image=False, value=leaf.value, keeps_below=below,
                inclusive=leaf.op.endswith("=") == upright, keeps_null=False, position=position,
                values=_in_range(leaf.value, values[names[leaf.name]]),
            ))  # fmt: skip
    return replace(
        recipe, cuts=tuple(cuts), values=values, black_boxes=recipe.by_rule | True, on_purpose=recipe.by_rule & False,
        where=where, names=columns,
    )  # fmt: skip


def _find_cuts(plugin: Filter, values: Values) -> list[Cut]:
    prefix = "image_" if plugin.level == "image" else ""
    if any(f"{prefix}{name}" not in values for name in plugin.columns):
        return []
    rows = list(_rows(plugin, values, MAX_CHECKED_ROWS))
    base = next((row for row in rows if None not in row.values() and plugin.judge(row).keep), None)
    base = base or next((row for row in _rows(plugin, values) if plugin.judge(row).keep), None)
    if base is None:
        return []
    cuts = []
    for field in dataclasses.fields(plugin):  # type: ignore[arg-type]
        value = getattr(plugin, field.name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            for column in plugin.columns:
                below, at, above = (plugin.judge(base | {column: v}).keep for v in _beside(value))
                if below != above:
                    null = plugin.judge(base | {column: None}).keep
                    cuts.append(Cut(
                        gate=plugin.name, field=field.name, column=f"{prefix}{column}", is_image=bool(prefix),
                        value=float(value), keeps_below=below, inclusive=at, keeps_null=null,
                        values=_legal(plugin, field.name, value, values[f"{prefix}{column}"]),
                    ))  # fmt: skip
    return cuts if _agree(plugin, cuts, rows, values) else []


def _agree(plugin: Filter, cuts: Sequence[Cut], rows: Sequence[Mapping[str, Any]], values: Values) -> bool:
    """Check that all cuts together say the same as the gate, on the rows themselves."""
    said = np.array([plugin.judge(row).keep for row in rows], bool)
    by_cuts = np.ones(len(rows), bool)
    for cut in cuts:
        by_cuts &= cut.passes(_spread(values[cut.column], MAX_CHECKED_ROWS))
    return bool(cuts) and bool(np.array_equal(said, by_cuts))


def _rows(plugin: Filter, values: Values, num: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the gate's own columns row by row (null as None); `num` of them, evenly spread, if given."""
    prefix = "image_" if plugin.level == "image" else ""
    columns = {name: values[f"{prefix}{name}"] for name in plugin.columns}
    picked = {name: column if num is None else _spread(column, num) for name, column in columns.items()}
    for row in zip(*(column.tolist() for column in picked.values()), strict=True):
        yield {name: None if value != value else value for name, value in zip(picked, row, strict=True)}


def _spread(values: Numbers, num: int) -> Numbers:
    return values[:: max(1, -(-len(values) // num))]


def _beside(value: float) -> tuple[float, float, float]:
    step = max(abs(value), 1.0) * 1e-6
    return value - step, float(value), value + step


def _legal(plugin: Filter, field: str, value: float, values: Numbers) -> tuple[float, ...]:
    """Thresholds around the present one that the filter's config accepts."""
    legal = []
    for other in _around(float(value), values):
        number = round(other) if isinstance(value, int) else other
        try:
            dataclasses.replace(plugin, **{field: number})  # type: ignore[type-var]
        except ConfigError:
            continue
        legal.append(float(number))
    return tuple(dict.fromkeys(legal))


def _around(value: float, values: Numbers) -> tuple[float, ...]:
    """Round numbers on both sides of a threshold; of one at zero, quantiles of the data."""
    if value:
        return tuple(sorted(float(f"{factor * value:.3g}") if factor != 1 else value for factor in FACTORS))
    known = values[~np.isnan(values)]
    steps = np.quantile(known, (0.05, 0.25, 0.5, 0.75, 0.95)).tolist() if len(known) else []
    return tuple(sorted({0.0, *(float(f"{step:.2g}") for step in steps)}))


def _in_range(value: float, values: Numbers) -> tuple[float, ...]:
    known = values[~np.isnan(values)]
    low, high = (known.min(), known.max()) if len(known) else (value, value)
    return tuple(other for other in _around(value, values) if low <= other <= high or other == value)


def _signed(where: Where, upright: bool) -> Iterator[tuple[Comparison | NullTest, bool]]:
    """Yield the leaves in order, each with whether it stands under an even number of `not`s."""
    if isinstance(where, Not):
        yield from _signed(where.inner, not upright)
    elif isinstance(where, Joined):
        for part in where.parts:
            yield from _signed(part, upright)
    else:
        yield where, upright


def _replaced(where: Where, position: int, threshold: float) -> Where:
    """Give the leaf number `position` another threshold; a negative position changes nothing."""
    if position < 0:
        return where
    if isinstance(where, Not):
        return Not(_replaced(where.inner, position, threshold))
    if isinstance(where, Joined):
        parts: list[Where] = []
        for part in where.parts:
            num = _num_leaves(part)
            parts.append(_replaced(part, position, threshold) if 0 <= position < num else part)
            position -= num
        return Joined(tuple(parts), either=where.either)
    return replace(where, value=threshold) if isinstance(where, Comparison) else where


def _num_leaves(where: Where) -> int:
    return sum(1 for _ in leaves(where))

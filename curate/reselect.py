"""What a `--where` expression keeps of a corpus, from parquet alone: kept and dropped patches are judged alike."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .core import config
from .core.errors import ConfigError, ManifestError
from .core.records import ShardInfo
from .dataset import Dataset, open_dataset, read_table
from .recipes import Recipe
from .scan import judge
from .where import Bools, Column, Comparison, Where, evaluate, leaves

WHERE_REASON = "where"
_ROW_COLUMNS = ("key", "source", "num_bytes", "reason")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decision:
    """What an expression says of every patch.

    Attributes:
        table: N rows, shard after shard, in each its kept patches and then its dropped ones; with the columns `shard`
            (index) and `kept` (now).
        keep: (N,) bool, what is kept from now on.
        by_rule: (N,) bool, patches that a rule other than a gate dropped (a duplicate); the expression cannot bring them back.
        nulls: column -> patches that are not kept because it is null.
        held_back: reason -> patches `by_rule` that satisfy the expression and stay out all the same.
    """

    table: pa.Table
    keep: Bools
    by_rule: Bools
    nulls: Mapping[str, int]
    held_back: Mapping[str, int]

    @property
    def kept_now(self) -> Bools:
        """(N,) bool, what the corpus keeps now."""
        return self.table["kept"].to_numpy()  # type: ignore[no-any-return]


def open_corpus(root: Path, *, reader: str) -> Dataset:
    """Open a finished corpus for the command `reader`.

    Raises:
        ManifestError: no finished corpus at `root`.
    """
    dataset = open_dataset(root)
    if dataset.kind != "corpus":
        raise ManifestError(f"{root} is a {dataset.kind}; `curate {reader}` reads corpora")
    return dataset


def shards_of(dataset: Dataset) -> list[ShardInfo]:
    """List the shards of a corpus in order."""
    return [shard for group in dataset.stages.values() for shard in group]


def recipe_of(dataset: Dataset) -> Recipe:
    """Rebuild the recipe a corpus was built with."""
    return config.build(Recipe, dataset.manifest["config"]["recipe"], where=f"{dataset.root}/manifest.json: recipe")


def patch_columns(dataset: Dataset) -> dict[str, pa.DataType]:
    """Names and types of what an expression may compare, without reading a row."""
    schema = pq.read_schema(dataset.root / shards_of(dataset)[0].rejected)
    return {field.name: field.type for field in schema if not pa.types.is_binary(field.type)}


def patch_table(dataset: Dataset, columns: Iterable[str]) -> pa.Table:
    """Read columns of all patches, shard after shard, in each the kept ones first; adds `shard` and `kept`.

    Only `rejected` has a `reason`: it is null for kept patches.
    """
    wanted, parts = list(dict.fromkeys(columns)), []
    for index, shard in enumerate(shards_of(dataset)):
        kept = read_table(dataset.root / shard.metadata, [name for name in wanted if name != "reason"])
        dropped = read_table(dataset.root / shard.rejected, wanted)
        if "reason" in wanted:
            kept = kept.append_column("reason", pa.nulls(len(kept), pa.string()))
        for table, flag in ((kept, True), (dropped, False)):
            part = table.select(wanted)
            part = part.append_column("shard", pa.array(np.full(len(table), index, np.int32)))
            parts.append(part.append_column("kept", pa.array(np.full(len(table), flag))))
    return pa.concat_tables(parts)


def resolve_names(where: Where, known: Mapping[str, pa.DataType]) -> dict[str, str]:
    """Find the column of each name in an expression: NAME itself, else `image_NAME`.

    Raises:
        ConfigError: no such column; names near ones.
    """
    found = {}
    for leaf in leaves(where):
        column = next((name for name in (leaf.name, f"image_{leaf.name}") if name in known), None)
        if column is None:
            short = dict.fromkeys([*known, *(name.removeprefix("image_") for name in known)])
            near = difflib.get_close_matches(leaf.name, short, n=3, cutoff=0.5)
            hint = f"; near names: {', '.join(near)}" if near else f"; known: {', '.join(known)}"
            raise ConfigError(f"--where: position {leaf.position}: no score or column called {leaf.name!r}{hint}")
        found[leaf.name] = column
    return found


def to_column(values: pa.ChunkedArray | pa.Array) -> Column:
    """Turn an arrow column into what expressions compare; NaN counts as null."""
    null = (
        values.is_null().to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values.is_null().to_numpy()
    )
    if pa.types.is_string(values.type):
        return Column(np.asarray(values.to_pylist(), dtype=object), np.asarray(null, bool), is_text=True)
    numbers = np.asarray(pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    return Column(numbers, np.isnan(numbers), is_text=False)


def decide(dataset: Dataset, where: Where) -> Decision:
    """Judge every patch by an expression instead of the recipe's patch gates.

    Args:
        dataset: a finished corpus; only its parquet tables are read.
        where: the expression.

    Raises:
        ConfigError: a name that is no column, or a number compared with text.
    """
    names = resolve_names(where, patch_columns(dataset))
    recipe = recipe_of(dataset)
    scores = [name for plugin in recipe.filters() if plugin.level == "patch" for name in plugin.columns]
    table = patch_table(dataset, [*_ROW_COLUMNS, *scores, *names.values()])
    columns = {name: to_column(table[column]) for name, column in names.items()}
    truth = evaluate(where, columns)
    by_rule, reasons = dropped_by_rule(table, recipe)
    unknown = ~truth.true & ~truth.false
    compared = dict.fromkeys(leaf.name for leaf in leaves(where) if isinstance(leaf, Comparison))
    nulls = {names[name]: int((unknown & columns[name].null).sum()) for name in compared}
    held_back = {reason: int((truth.true & mask).sum()) for reason, mask in reasons.items()}
    return Decision(
        table=table, keep=truth.true & ~by_rule, by_rule=by_rule,
        nulls={name: count for name, count in nulls.items() if count},
        held_back={reason: count for reason, count in held_back.items() if count},
    )  # fmt: skip


def dropped_by_rule(table: pa.Table, recipe: Recipe) -> tuple[Bools, dict[str, Bools]]:
    """Find patches dropped for a reason that is no gate's: one patch of each reason is judged again."""
    reasons, filters = table["reason"], recipe.filters()
    by_rule, masks = np.zeros(len(table), bool), {}
    for reason in pc.unique(reasons).drop_null().to_pylist():
        mask = np.asarray(pc.fill_null(pc.equal(reasons, reason), False).to_numpy(zero_copy_only=False), bool)
        row = table.slice(int(np.argmax(mask)), 1).to_pylist()[0]
        if reason != WHERE_REASON and judge(filters, recipe.gates, "patch", row) != reason:
            by_rule, masks[reason] = by_rule | mask, mask
    return by_rule, masks


def count_reasons(rows: Iterable[Mapping[str, Any]], key: str = "reason") -> dict[str, int]:
    """Count values of one column, most frequent first, ties by name."""
    counted: dict[str, int] = {}
    for row in rows:
        counted[row[key]] = counted.get(row[key], 0) + 1
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


def image_rows(dataset: Dataset, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Read the rows of all inputs, in input order: these columns, or all but the binary ones."""
    rows: list[dict[str, Any]] = []
    for part in dataset.manifest["images"]:
        path = dataset.root / part["file"]
        wanted = list(columns) if columns is not None else None
        if wanted is None and path.is_file():
            wanted = [field.name for field in pq.read_schema(path) if not pa.types.is_binary(field.type)]
        rows += read_table(path, wanted).to_pylist()
    return rows

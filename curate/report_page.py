"""`write_report`: CORPUS/report.html, one page that needs nothing else: what came in, what was kept, and at which threshold.

Everything comes from the tables of the corpus; of pictures only the few patches of the galleries are read.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .core import artifacts
from .core.console import human_bytes, human_seconds
from .dataset import Dataset
from .recipes import Recipe
from .report_funnel import examples_by_reason, funnel_rows, patches_by_reason
from .report_gallery import MAX_SHOWN, pick_nearest, show_patches
from .report_svg import Limit, histogram, short
from .reselect import (
    dropped_by_rule,
    image_rows,
    open_corpus,
    patch_columns,
    patch_table,
    recipe_of,
    resolve_names,
    to_column,
)
from .thresholds import Cut, Numbers, Rules, Values, recipe_rules, where_rules
from .where import Bools, parse_where

_ROW_COLUMNS = ("key", "source", "y", "x", "num_bytes", "reason")
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Corpus:
    """What the page is made from, read once; `picture` says for each of N patches which of `names` it was cut from."""

    dataset: Dataset
    recipe: Recipe
    images: list[Row]
    table: pa.Table
    names: list[str]
    picture: NDArray[np.int64]
    num_bytes: Numbers
    values: Values
    kept: Bools
    rules: Rules


def write_report(corpus: Path) -> Path:
    """Write CORPUS/report.html.

    The page is no part of the corpus: the manifest does not list it, and it may hold the times of `ledger/times.json`.

    Returns:
        The page's path.

    Raises:
        ManifestError: no finished corpus at `corpus`.
    """
    import jinja2

    found = _read(open_corpus(corpus, reader="report"))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"bytes": human_bytes, "number": short, "count": lambda value: f"{value:,}"}
    template = importlib.resources.files("curate").joinpath("report.html.j2").read_text(encoding="utf-8")
    manifest, seconds = found.dataset.manifest, _seconds(corpus)
    page = environment.from_string(template).render(
        name=corpus.resolve().name,
        config=manifest["config"],
        versions=manifest["versions"],
        content_hash=found.dataset.content_hash,
        funnel=manifest["funnel"],
        num_bytes=sum(shard.num_bytes for group in found.dataset.stages.values() for shard in group),
        num_shards=sum(1 for group in found.dataset.stages.values() for shard in group if shard.samples),
        of_list="fetch" in manifest["config"],
        stages=funnel_rows(
            manifest["funnel"],
            found.images,
            int(np.nansum(found.num_bytes[found.kept])),
            of_list="fetch" in manifest["config"],
        ),
        cuts=sorted((_cut_section(found, cut) for cut in found.rules.cuts), key=lambda item: not item["acts"]),
        histograms=_histograms(found),
        image_reasons=examples_by_reason([row for row in found.images if row["status"] != "kept"]),
        patch_reasons=patches_by_reason(found.table),
        settings=_settings(found.recipe),
        seconds=[
            (stage, _duration(value), value / max(sum(seconds.values()), 1e-9)) for stage, value in seconds.items()
        ],
        max_shown=MAX_SHOWN,
    )
    path = corpus / "report.html"
    artifacts.write_bytes(path, page.encode("utf-8", "surrogateescape"))
    return path


def _read(dataset: Dataset) -> _Corpus:
    recipe, types = recipe_of(dataset), patch_columns(dataset)
    scores = [name for name, kind in types.items() if pa.types.is_floating(kind)]
    where_text = dataset.manifest["config"].get("where", "")
    where = parse_where(where_text) if where_text else None
    names = resolve_names(where, types) if where else {}
    table = patch_table(dataset, [*_ROW_COLUMNS, *scores, *names.values()])
    values = {name: to_column(table[name]).values for name in scores}
    kept = np.asarray(table["kept"].to_numpy(), bool)
    by_rule, _ = dropped_by_rule(table, recipe)
    if where is None:
        rules = recipe_rules(recipe, values, kept, by_rule)
    else:
        columns = {name: to_column(table[column]) for name, column in names.items()}
        rules = where_rules(where, names, columns, recipe_rules(recipe, values, kept, by_rule))
    encoded = table["source"].combine_chunks().dictionary_encode()
    names_of, picture = encoded.dictionary.to_pylist(), np.asarray(encoded.indices.to_numpy(), np.int64)
    return _Corpus(
        dataset=dataset, recipe=recipe, images=image_rows(dataset), table=table, names=names_of, picture=picture,
        num_bytes=to_column(table["num_bytes"]).values, values={**values, **rules.values}, kept=kept, rules=rules,
    )  # fmt: skip


def _cut_section(found: _Corpus, cut: Cut) -> dict[str, Any]:
    """One threshold: its histogram, what lies on either side, and what moving it would keep."""
    alone = found.rules.kept(cut, cut.loosest) & ~found.kept
    side = ("at most" if cut.inclusive else "below") if cut.keeps_below else ("at least" if cut.inclusive else "above")
    pictures = _dropped_pictures(found, cut)
    return {
        "cut": cut,
        "acts": bool(alone.any() or pictures),
        "side": side,
        "num_alone": int(alone.sum()),
        "svg": _histogram(found, cut.column),
        "moves": _moves(found, cut),
        "just_kept": _tiles(found, cut, found.kept & ~found.rules.on_purpose),
        "just_dropped": _tiles(found, cut, alone),
        "pictures": pictures,
    }


def _tiles(found: _Corpus, cut: Cut, mask: Bools) -> list[Any]:
    values = found.values[cut.column]
    rows = pick_nearest(values, cut, mask, found.picture)
    return list(show_patches(found.dataset, found.table, rows, values)) if rows else []


def _moves(found: _Corpus, cut: Cut) -> list[Row]:
    """Count what other thresholds would keep; patches that would come back are taken to be as large as the mean one."""
    mean = float(np.nansum(found.num_bytes[found.kept])) / max(1, int(found.kept.sum()))
    num_now, rows = int(found.kept.sum()), list[Row]()
    for threshold in cut.values:
        kept = found.rules.kept(cut, threshold)
        num = int(kept.sum())
        size = float(np.nansum(found.num_bytes[kept & found.kept])) + mean * int((kept & ~found.kept).sum())
        row = {
            "pictures": len(np.unique(found.picture[kept])), "patches": num, "change": num - num_now, "num_bytes": size,
            "uncut": _num_uncut(found, cut, threshold), "now": threshold == cut.value,
        }  # fmt: skip
        if rows and {**rows[-1], "first": 0.0, "last": 0.0} == {**row, "first": 0.0, "last": 0.0}:
            rows[-1]["last"] = threshold  # nothing changes in between
        else:
            rows.append(row | {"first": threshold, "last": threshold})
    return rows


def _num_uncut(found: _Corpus, cut: Cut, threshold: float) -> int:
    """Count pictures that this gate rejected before they were cut and that another threshold would let in."""
    values = np.array([value for _, value in _rejected_by(found, cut)], float)
    return int(cut.passes(values, threshold).sum())


def _rejected_by(found: _Corpus, cut: Cut) -> list[tuple[str, float]]:
    if not cut.is_image:
        return []
    column = cut.column.removeprefix("image_")
    rows = [row for row in found.images if row["status"] == "rejected" and not row["num_patches"]]
    known = [(row["source"], float(row[column])) for row in rows if row[column] is not None]
    return [(source, value) for source, value in known if not cut.passes(np.array([value]))[0]]


def _dropped_pictures(found: _Corpus, cut: Cut) -> list[tuple[str, float]]:
    return sorted(_rejected_by(found, cut), key=lambda item: (abs(item[1] - cut.value), item[0]))[:MAX_SHOWN]


def _histograms(found: _Corpus) -> list[dict[str, str]]:
    """Draw every score once; those with a threshold stand in its section already."""
    drawn = {cut.column for cut in found.rules.cuts}
    prefixes = {"patch": "", "image": "image_"}
    columns = [(f"{prefixes[p.level]}{name}", p.level) for p in found.recipe.filters() for name in p.columns]
    return [
        {"title": column.removeprefix("image_"), "of": "pictures" if level == "image" else "patches", "svg": svg}
        for column, level in columns
        if column not in drawn and (svg := _histogram(found, column))
    ]


def _histogram(found: _Corpus, column: str) -> str:
    """Draw a patch's score over patches, a picture's score over pictures."""
    name, of_pictures = column.removeprefix("image_"), column.startswith("image_")
    if of_pictures and name in found.images[0]:
        known = [row for row in found.images if row[name] is not None]
        values = np.array([row[name] for row in known], float)
        kept = np.array([row["status"] == "kept" for row in known], bool)
    else:
        values, kept = found.values[column], found.kept
    finite = np.isfinite(values)
    marks = [_limit(cut) for cut in found.rules.cuts if cut.column == column]
    title = f"histogram of {name} over {'pictures' if of_pictures else 'patches'}, kept and dropped"
    return histogram(title, values[finite & kept], values[finite & ~kept], marks)


def _limit(cut: Cut) -> Limit:
    sign = ("<" if cut.keeps_below else ">") + ("=" if cut.inclusive else "")
    return Limit(cut.value, f"{sign} {short(cut.value)}", equal_is_left=cut.keeps_below == cut.inclusive)


def _settings(recipe: Recipe) -> list[Row]:
    """List every threshold of the recipe, and where it is not the filter's own."""
    rows = []
    for plugin in recipe.filters():
        for field in dataclasses.fields(plugin):  # type: ignore[arg-type]
            value = getattr(plugin, field.name)
            rows.append({
                "filter": plugin.name, "gates": plugin.name in recipe.gates, "field": field.name, "value": value,
                "default": field.default, "changed": value != field.default,
            })  # fmt: skip
    return rows


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else human_seconds(seconds)


def _seconds(corpus: Path) -> Mapping[str, float]:
    """Read how long each stage took, slowest first; {} where nobody wrote it down."""
    path = corpus / "ledger" / "times.json"
    if not path.is_file():
        return {}
    found = artifacts.read_json(path)
    items: Sequence[tuple[str, Any]] = list(found.items()) if isinstance(found, dict) else []
    known = [(str(name), float(value)) for name, value in items if isinstance(value, (int, float)) and value >= 0]
    return dict(sorted(known, key=lambda item: -item[1]))

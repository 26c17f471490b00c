"""`explain`: why a patch or a picture is in a corpus or not, read from its tables and judged again by its recipe."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .core.errors import ConfigError
from .dataset import Dataset, read_table
from .decontaminate import BENCHMARK
from .fetch.faults import Fault
from .fetch.urls import parse_url
from .near import TILE
from .recipes import Recipe
from .reselect import (
    WHERE_REASON,
    count_reasons,
    image_rows,
    open_corpus,
    patch_columns,
    patch_table,
    recipe_of,
    resolve_names,
    shards_of,
    to_column,
)
from .where import evaluate, parse_where

Row = dict[str, Any]
PATCH_KEY = re.compile(r"^[0-9a-f]{20}_\d+_\d+_\d+$")
SHA256_PREFIX = re.compile(r"^[0-9a-f]{4,64}$")
ROW = re.compile(r" \(row \d+\)$")
"""How the name of a row ends that has no URL of its own: a duplicate, or no URL at all."""
MAX_ROWS = 10
COPY = "of "
"""How the detail of a duplicate begins; the rest names the picture that is kept instead."""
FACTS = ("format", "width", "height", "orientation", "mode", "policy", "icc_profile", "num_bytes", "image_sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """One gate on one patch or picture: what it measured, its thresholds, and whether it passes."""

    gate: str
    values: Mapping[str, Any]
    thresholds: Mapping[str, Any]
    passed: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a patch or a picture was kept or not.

    Attributes:
        kind: `patch` or `picture`.
        name: the patch's key, or the picture's source.
        source: the picture.
        status: `kept`, `dropped` (a patch), `rejected` or `failed` (a picture).
        reason: short code, "" if kept.
        decided_by: the deciding gate, rule or expression with value and threshold, one line.
        gates: every gate that saw it, in the order in which they judge.
        facts: what the decoder said of the picture; null where it could not be read.
        scores: everything measured that is in no gate.
        duplicates: pictures that are copies of this one, or the one it is a copy of.
        patches: picture only: `kept` or reason -> number of patches.
        where: the expression of a filtered corpus, "" otherwise.
        where_values: the value of each name in it (patch only).
        rows: all rows of a list that have this URL, if they are several; this is about the first.
    """

    kind: str
    name: str
    source: str
    status: str
    reason: str
    decided_by: str
    gates: tuple[GateResult, ...]
    facts: Mapping[str, Any]
    scores: Mapping[str, Any]
    duplicates: tuple[str, ...]
    patches: Mapping[str, int]
    where: str
    where_values: Mapping[str, Any]
    rows: tuple[str, ...] = ()


def explain(corpus: Path, key: str) -> Explanation:
    """Explain one patch or picture.

    Args:
        corpus: a finished corpus.
        key: a patch's key, a picture's source name (of a list: its URL, with or without credentials), or the first
            characters (4 or more) of its sha256.

    Raises:
        ConfigError: nothing of that name, or several pictures; names near ones.
        ManifestError: no finished corpus at `corpus`.
    """
    dataset = open_corpus(corpus, reader="explain")
    images = image_rows(dataset)
    named = _by_name(images, key)
    if not named and PATCH_KEY.match(key):
        return _explain_patch(dataset, images, key)
    found = _explain_image(dataset, images, named[0] if named else _by_sha256(images, key))
    return dataclasses.replace(found, rows=tuple(row["source"] for row in named) if len(named) > 1 else ())


def tell(found: Explanation) -> list[str]:
    """Write an explanation as lines for a terminal."""
    lines = [f"{found.kind:<9} {found.name}: {found.status.upper()}{f' ({found.reason})' if found.reason else ''}"]
    if found.rows:
        more = f", and {len(found.rows) - MAX_ROWS} more" if len(found.rows) > MAX_ROWS else ""
        lines.append(
            f"rows      {len(found.rows)} have this URL, this is the first: {', '.join(found.rows[:MAX_ROWS])}{more}"
        )
    if found.kind == "patch":
        lines.append(f"of        {found.source}")
    lines.append(f"decided   {found.decided_by}")
    if found.where:
        values = ", ".join(f"{name} {_text(value)}" for name, value in found.where_values.items())
        lines += [f"where     {found.where}"] + ([f"          {values}"] if values else [])
        lines.append("gates     of the recipe; the expression takes the place of those of patches:")
    else:
        lines.append("gates     in the order of the recipe:" if found.gates else "gates     none saw it")
    width = max((len(gate.gate) for gate in found.gates), default=0)
    for gate in found.gates:
        verdict = "PASS" if gate.passed else "FAIL"
        verdict += " <-" if found.reason and f"{gate.gate}: " == found.decided_by[: len(gate.gate) + 2] else "   "
        lines.append(f"  {verdict} {gate.gate:<{width}}  {_pairs(gate.values)} | {_pairs(gate.thresholds)}")
    if found.patches:
        lines.append("patches   " + ", ".join(f"{reason} {count}" for reason, count in found.patches.items()))
    if found.scores:
        lines.append("scores    " + _pairs(found.scores))
    lines += [f"copies    {name}" for name in found.duplicates]
    lines += ["picture   " + line for line in _facts_lines(found.facts)]
    return lines


def _explain_patch(dataset: Dataset, images: Sequence[Row], key: str) -> Explanation:
    row, kept = _patch_row(dataset, key)
    if row is None:
        sha256 = key.partition("_")[0]
        image = next((image for image in images if (image["image_sha256"] or "").startswith(sha256)), None)
        if image is None:
            raise ConfigError(f"no patch {key} in {dataset.root}, and no picture whose sha256 starts with {sha256}")
        return _explain_image(dataset, images, image)
    recipe = recipe_of(dataset)
    image_scores = row | {
        name.removeprefix("image_"): value for name, value in row.items() if name.startswith("image_")
    }
    gates = (*_judge(recipe, "image", image_scores), *_judge(recipe, "patch", row))
    where, values, truth = _where(dataset, row)
    reason = "" if kept else row["reason"]
    image = next(image for image in images if image["source"] == row["source"])
    return Explanation(
        kind="patch", name=key, source=row["source"], status="kept" if kept else "dropped", reason=reason,
        decided_by=_decided(reason, gates, where, truth) + _because(dataset, row, reason), gates=gates,
        facts={name: image[name] for name in FACTS},
        scores=_others(recipe, row, {"patch": "", "image": "image_"}), duplicates=_copies(images, image), patches={},
        where=where, where_values=values,
    )  # fmt: skip


def _explain_image(dataset: Dataset, images: Sequence[Row], image: Row) -> Explanation:
    recipe, reason = recipe_of(dataset), image["reason"]
    measured = any(
        image[name] is not None for plugin in recipe.filters() if plugin.level == "image" for name in plugin.columns
    )
    gates = _judge(recipe, "image", image) if measured else ()
    patches = _patch_counts(dataset, image["source"]) if image["num_patches"] else {}
    failed = next((gate for gate in gates if not gate.passed), None)
    if failed is not None and failed.reason == reason:
        decided = _versus(failed)
    elif reason == "too-small":
        decided = f"no whole patch of {dataset.manifest['config']['patch_size_px']} px fits into {image['detail']}"
    elif reason:
        decided = f"{reason}: {image['detail']}" if image["detail"] else reason
        decided += f" ({image['near']})" if image.get("near") else ""
    else:
        decided = f"{image['num_kept']} of {image['num_patches']} patches are kept"
    return Explanation(
        kind="picture", name=image["source"], source=image["source"], status=image["status"], reason=reason,
        decided_by=decided, gates=gates, facts={name: image[name] for name in FACTS},
        scores=_others(recipe, image, {"image": ""}) if measured else {}, duplicates=_copies(images, image), patches=patches,
        where=dataset.manifest["config"].get("where", ""), where_values={},
    )  # fmt: skip


def _patch_row(dataset: Dataset, key: str) -> tuple[Row | None, bool]:
    for shard in shards_of(dataset):
        for file, kept in ((shard.metadata, True), (shard.rejected, False)):
            index = pc.index(read_table(dataset.root / file, ["key"])["key"], key).as_py()
            if index >= 0:
                row: Row = read_table(dataset.root / file).slice(index, 1).to_pylist()[0]
                return row, kept
    return None, False


def _by_name(images: Sequence[Row], key: str) -> list[Row]:
    """Find a picture by its name, and all rows of a list that have this URL."""
    names = {key}
    with contextlib.suppress(Fault):
        names.add(parse_url(key).text)  # credentials are written nowhere
    return [row for row in images if row["source"] in names or ROW.sub("", row["source"]) in names]


def _by_sha256(images: Sequence[Row], key: str) -> Row:
    found = [row for row in images if SHA256_PREFIX.match(key) and (row["image_sha256"] or "").startswith(key)]
    if not found:
        near = difflib.get_close_matches(key, [row["source"] for row in images], n=3, cutoff=0.4)
        hint = f"; near names: {', '.join(near)}" if near else "; give a patch's key, a source name or a sha256"
        raise ConfigError(f"nothing called {key!r} in this corpus{hint}")
    if len({row["image_sha256"] for row in found}) > 1:
        raise ConfigError(f"{len(found)} pictures have a sha256 that starts with {key}; give more of it")
    return found[0]


def _judge(recipe: Recipe, level: str, scores: Mapping[str, Any]) -> tuple[GateResult, ...]:
    plugins = {plugin.name: plugin for plugin in recipe.filters() if plugin.level == level}
    results = []
    for gate in recipe.gates:
        plugin = plugins.get(gate)
        if plugin is None:
            continue
        verdict = plugin.judge(scores)
        thresholds = {field.name: getattr(plugin, field.name) for field in dataclasses.fields(plugin)}  # type: ignore[arg-type]
        values = {name: scores[name] for name in plugin.columns}
        results.append(
            GateResult(gate=gate, values=values, thresholds=thresholds, passed=verdict.keep, reason=verdict.reason)
        )
    return tuple(results)


def _where(dataset: Dataset, row: Row) -> tuple[str, dict[str, Any], str]:
    """Return the corpus's expression, the values of its names and what it says of one patch; all "" without one."""
    text = dataset.manifest["config"].get("where", "")
    if not text:
        return "", {}, ""
    where, types = parse_where(text), patch_columns(dataset)
    names = resolve_names(where, types)
    columns = {name: to_column(pa.array([row.get(column)], types[column])) for name, column in names.items()}
    truth = evaluate(where, columns)
    said = "true" if truth.true[0] else "false" if truth.false[0] else "unknown (a null)"
    return text, {column: row.get(column) for column in names.values()}, said


def _decided(reason: str, gates: Sequence[GateResult], where: str, truth: str) -> str:
    failed = next((gate for gate in gates if not gate.passed), None)
    if where and reason in ("", WHERE_REASON):
        return f"the expression is {truth}"
    if not reason:
        return "every gate passed" if failed is None else f"kept on purpose although {_versus(failed)}"
    if failed is not None and failed.reason == reason:
        return _versus(failed)
    return f"no gate, but the rule {reason}"


def _because(dataset: Dataset, row: Row, reason: str) -> str:
    """Say what a patch was dropped for that no gate saw: a better copy, or a benchmark picture."""
    if reason == TILE and row.get("keeper"):
        return f": of {row['keeper']}"
    if reason == BENCHMARK and "leaks" in dataset.manifest:
        leaks = read_table(dataset.root / dataset.manifest["leaks"]["file"]).to_pylist()
        shown = sorted({f"{leak['pack']}/{leak['benchmark']}" for leak in leaks if leak["source"] == row["source"]})
        return f": its picture shows {', '.join(shown)}"
    return ""


def _versus(gate: GateResult) -> str:
    return f"{gate.gate}: {_pairs(gate.values)} fails {_pairs(gate.thresholds)}"


def _others(recipe: Recipe, row: Mapping[str, Any], prefixes: Mapping[str, str]) -> dict[str, Any]:
    """Scores that gate nothing; `prefixes` maps a level to the prefix of its columns in `row`."""
    plugins = [plugin for plugin in recipe.filters() if plugin.level in prefixes and plugin.name not in recipe.gates]
    names = [f"{prefixes[plugin.level]}{name}" for plugin in plugins for name in plugin.columns]
    return {name: row[name] for name in names}


def _patch_counts(dataset: Dataset, source: str) -> dict[str, int]:
    table = patch_table(dataset, ["source", "reason"])
    rows = table.filter(pc.equal(table["source"], source)).to_pylist()
    return count_reasons([{"reason": "kept" if row["kept"] else row["reason"]} for row in rows])


def _copies(images: Sequence[Row], image: Row) -> tuple[str, ...]:
    if image["status"] == "rejected" and (image["detail"] or "").startswith(COPY):
        return (f"{image['reason']} {image['detail']}",)
    detail = f"{COPY}{image['source']}"
    return tuple(
        f"{row['source']} is {row['reason']} {detail}"
        for row in images
        if row["status"] == "rejected" and row["detail"] == detail
    )


def _facts_lines(facts: Mapping[str, Any]) -> list[str]:
    if facts["format"] is None and facts["num_bytes"] is None:
        return ["never fetched"]
    if facts["format"] is None:
        return [f"not decoded, {facts['num_bytes']} bytes, sha256 {facts['image_sha256'] or '- (not read)'}"]
    turned = "as stored" if facts["orientation"] in (None, 1) else "turned upright"
    return [
        f"{facts['format']} {facts['width']}x{facts['height']}, mode {facts['mode']}, {facts['num_bytes']} bytes, "
        f"orientation {facts['orientation']} ({turned})",
        f"policy {facts['policy'] or '- (nothing was done to the pixels)'}, profile {facts['icc_profile'] or '- (none)'}",
        f"sha256 {facts['image_sha256']}",
    ]


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_text(value)}" for name, value in values.items())


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return f"{value:.6g}" if isinstance(value, float) else str(value)

"""What an evaluation found, as a table to read, a JSON to keep and a Parquet file with one row per picture.

Each of them states the protocol in full. The JSON holds no times, so that the same weights give the same bytes.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.core.artifacts import atomic_path

SCHEMA_VERSION = 2
_DIGITS = {"psnr_db": 2}
_MORE_DIGITS = 4  # of every other metric


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageScores:
    """One picture's numbers.

    Attributes:
        name: before the dot.
        input: metric -> value of the identity row; NaN where it cannot be measured.
        output: the same of the network's output.
        file: name of the true picture.
        height: of what was measured, before any border was cut.
        width: the same.
        seed: of the noise's RandomState; None where the damage came from a file.
        damage: JSON of what was drawn, `degradation` and `parameters` of `restoration.tasks.replay`; None from a file.
        input_policy: what was done to the damaged file to reach RGB (`curate/core/images.py`); "" if nothing.
        target_policy: the same of the true file.
        seconds: that the network took.
    """

    name: str
    input: Mapping[str, float]
    output: Mapping[str, float]
    file: str
    height: int
    width: int
    seed: int | None
    damage: str | None
    input_policy: str
    target_policy: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateResult:
    """What was measured.

    Attributes:
        bench: name of the bench's folder.
        task: what was undone.
        protocol: the protocol's name.
        facts: topic -> what the protocol and the extra metrics do, in words.
        model: name of the network.
        checkpoint: weights file the numbers belong to.
        weights: which of its weights: `ema`.
        step: training steps behind it.
        depth: reuse counts of the network, "" where it has one depth.
        images: one entry per picture, sorted by name.
        input: metric -> mean over pictures of the identity row: what a network that returns its input would get.
        output: metric -> mean over pictures of the network's output.
        file: the JSON that holds all of this but the pictures.
        table: the same as a Markdown table.
        rows: Parquet, one row per picture.
        sheet: PNG of the worst pictures.
    """

    bench: str
    task: str
    protocol: str
    facts: Mapping[str, str]
    model: str
    checkpoint: str
    weights: str
    step: int
    depth: str
    images: tuple[ImageScores, ...]
    input: Mapping[str, float]
    output: Mapping[str, float]
    file: Path
    table: Path
    rows: Path
    sheet: Path

    def gain(self, metric: str = "psnr_db") -> float:
        """Return output minus input."""
        return self.output[metric] - self.input[metric]

    @property
    def label(self) -> str:
        """The network and its depth, for a row of a table."""
        return f"{self.model} at {self.depth}" if self.depth else self.model


def mean_scores(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Average each metric over the pictures it could measure; NaN if there is none, `inf` if a picture has it."""
    listed = list(rows)
    means = {}
    for name in listed[0]:
        values = [row[name] for row in listed if not math.isnan(row[name])]
        means[name] = statistics.fmean(values) if values else math.nan
    return means


def format_table(results: Sequence[EvaluateResult]) -> str:
    """Write results of one bench, task and protocol as Markdown: the identity row, then a row and a gain for each.

    Args:
        results: at least one; of the same pictures, so that they share the identity row.
    """
    first = results[0]
    names = list(first.input)
    lines = [["row", *names, "s per picture"], ["identity", *(_number(n, first.input[n]) for n in names), ""]]
    for result in results:
        seconds = statistics.median(image.seconds for image in result.images)
        lines.append([result.label, *(_number(n, result.output[n]) for n in names), f"{seconds:.3g}"])
        lines.append(["gain", *(_number(n, result.gain(n), sign="+") for n in names), ""])
    head = f"{first.bench}, task {first.task}, {len(first.images)} pictures, protocol {first.protocol}"
    networks = [f"{r.label}: {r.checkpoint}, {r.weights} weights, step {r.step}" for r in results]
    facts = [f"- {topic}: {words}" for topic, words in first.facts.items()]
    return "\n".join([head, "", *_aligned(lines), "", *networks, "", *facts, *_remarks(results)])


def to_plain(result: EvaluateResult) -> dict[str, Any]:
    """Return what the JSON holds."""
    return {
        "schema_version": SCHEMA_VERSION, "bench": result.bench, "task": result.task, "protocol": result.protocol,
        "facts": dict(result.facts), "model": result.model, "checkpoint": result.checkpoint, "weights": result.weights,
        "step": result.step, "depth": result.depth, "num_images": len(result.images),
        "num_measured": {n: sum(not math.isnan(i.output[n]) for i in result.images) for n in result.output},
        "mean": {"input": _finite(result.input), "output": _finite(result.output)},
        "rows": result.rows.name, "table": result.table.name, "sheet": result.sheet.name,
    }  # fmt: skip


def write_rows(result: EvaluateResult) -> None:
    """Write `result.rows`: one row per picture, metrics as `NAME_input` and `NAME_output`, the protocol in its metadata.

    A metric that cannot be measured is null; the PSNR of equal pictures is infinite. The schema's metadata holds, as UTF-8
    text, every fact (`fact.TOPIC`) and what else the JSON says.
    """
    metrics = list(result.input)
    fields = [
        pa.field("name", pa.string()), pa.field("file", pa.string()), pa.field("height", pa.int32()),
        pa.field("width", pa.int32()), pa.field("seed", pa.int64()), pa.field("damage", pa.string()),
        pa.field("input_policy", pa.string()), pa.field("target_policy", pa.string()), pa.field("seconds", pa.float64()),
        *(pa.field(f"{metric}_{side}", pa.float64()) for metric in metrics for side in ("input", "output")),
    ]  # fmt: skip
    rows = [_row(image, metrics) for image in result.images]
    plain = {key: value for key, value in to_plain(result).items() if not isinstance(value, dict)}
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in plain.items()}
    metadata |= {f"fact.{topic}": words for topic, words in result.facts.items()}
    schema = pa.schema(fields, metadata=metadata)
    columns = [pa.array([row[field.name] for row in rows], type=field.type) for field in schema]
    with atomic_path(result.rows) as temporary:
        pq.write_table(pa.Table.from_arrays(columns, schema=schema), temporary, compression="zstd")


def _row(image: ImageScores, metrics: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": image.name, "file": image.file, "height": image.height, "width": image.width, "seed": image.seed,
        "damage": image.damage, "input_policy": image.input_policy, "target_policy": image.target_policy,
        "seconds": image.seconds,
    }  # fmt: skip
    for metric in metrics:
        for side, values in (("input", image.input), ("output", image.output)):
            value = values[metric]
            row[f"{metric}_{side}"] = None if math.isnan(value) else value
    return row


def _number(name: str, value: float, *, sign: str = "") -> str:
    if math.isnan(value):
        return "-"
    return f"{value:{sign}.{_DIGITS.get(name, _MORE_DIGITS)}f}"


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Set a Markdown table whose columns also line up in a terminal; the first is left-aligned, the others right-aligned."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = []
    for line in lines:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [rows[0], "| " + " | ".join(rule) + " |", *rows[1:]]


def _remarks(results: Sequence[EvaluateResult]) -> list[str]:
    """Say what a mean alone would hide: equal pictures, and pictures that a metric could not measure."""
    remarks = []
    for result in results:
        for side in ("input", "output"):
            rows = [getattr(image, side) for image in result.images]
            equal = sum(math.isinf(row["psnr_db"]) for row in rows)
            if equal:
                remarks.append(
                    f"- {equal} of {len(rows)} pictures of {result.label}'s {side} equal the target: infinite PSNR"
                )
            for name in rows[0]:
                missing = sum(math.isnan(row[name]) for row in rows)
                if missing:
                    remarks.append(
                        f"- {name} could not measure {missing} of {len(rows)} pictures of {result.label}'s {side}"
                    )
    return ["", *dict.fromkeys(remarks)] if remarks else []


def _finite(row: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in row.items()}

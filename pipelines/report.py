"""The report: one self-contained HTML page that shows each step; no request leaves the page."""

from __future__ import annotations

import base64
import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from curate import open_dataset
from curate.core.artifacts import write_bytes
from curate.core.console import human_bytes
from curate.core.images import decode_image, encode_image
from restoration import psnr
from restoration.degradations import to_pixels

from .plots import complexity_histogram, loss_curve
from .recipe import Recipe
from .steps import StepRecord

GALLERY_PER_STAGE = 10
GALLERY_PER_REASON = 10
CROP_PX = 220
TASK_NAMES = {"noise": "Gaussian noise, sigma {}", "jpeg": "JPEG, quality {}", "sr": "bicubic x{}"}


def write_report(recipe: Recipe, out: Path, records: Sequence[StepRecord]) -> Path:
    """Write `out/report.html` from the finished steps.

    Args:
        recipe: what was run.
        out: the pipeline's folder.
        records: all steps, in order.

    Returns:
        The page's path.
    """
    import jinja2

    by_name = {record.name: record for record in records}
    template = importlib.resources.files("pipelines").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["task"] = task_name
    environment.filters["bytes"] = human_bytes
    scores = by_name["evaluate"].summary["scores"]
    page = environment.from_string(template).render(
        recipe=recipe,
        records=records,
        pictures=by_name["pictures"].summary,
        curated=by_name["curate"].summary,
        distilled=by_name["distill"].summary,
        trained=by_name["train"].summary,
        scores=scores,
        means=_means(scores, recipe.tasks),
        comparisons=_comparisons(recipe, out, by_name["restore"].summary["restored"]),
        chosen=_chosen(out / "distill"),
        dropped=_dropped(out / "curate"),
        loss_svg=loss_curve(out / "train" / "metrics.jsonl", switch_step=_switch_step(out, recipe)),
        complexity_svg=complexity_histogram(_complexity_by_stage(out / "distill")),
        sources=_inputs(out / "curate"),
    )
    path = out / "report.html"
    write_bytes(path, page.encode())
    return path


def task_name(task: str) -> str:
    """Write a task for people: `task_name("jpeg10")` is 'JPEG, quality 10'."""
    kind = task.rstrip("0123456789")
    return TASK_NAMES.get(kind, "{}").format(task[len(kind) :] or task)


def _means(scores: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> list[dict[str, Any]]:
    names = ("before_db", "after_db", "before_ssim", "after_ssim")
    return [
        {"task": task, **{n: float(np.mean([s[n] for s in scores if s["task"] == task])) for n in names}}
        for task in tasks
    ]


def _comparisons(recipe: Recipe, out: Path, restored: Sequence[str]) -> list[dict[str, Any]]:
    """Cut the same detailed square out of the damaged, restored and true picture, with the PSNR of the whole files."""
    truths = {p.stem: decode_image(p.read_bytes()) for p in sorted((out / "pictures" / "held-out").iterdir())}
    rows = []
    for name in restored:
        path = out / "restore" / name
        task, truth = path.parent.name, truths[path.stem]
        damaged = decode_image((out / "restore" / "damaged" / task / path.name).read_bytes())
        result = decode_image(path.read_bytes())
        y, x = _detailed_square(truth)
        crops = [image[y : y + CROP_PX, x : x + CROP_PX] for image in (damaged, result, truth)]
        rows.append({
            "picture": path.stem, "task": task, "before": _data_uri(encode_image(crops[0], "png"), "png"),
            "after": _data_uri(encode_image(crops[1], "png"), "png"), "truth": _data_uri(encode_image(crops[2], "png"), "png"),
            "before_db": psnr(to_pixels(damaged), to_pixels(truth)), "after_db": psnr(to_pixels(result), to_pixels(truth)),
        })  # fmt: skip
    return rows


def _detailed_square(image: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[int, int]:
    """Find the square with the strongest mean gradient, on a 20-px grid: where damage and repair show."""
    grey = image.mean(axis=2)
    energy = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    total = np.pad(energy.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    best, place = -1.0, (0, 0)
    for y in range(0, max(1, energy.shape[0] - CROP_PX), 20):
        for x in range(0, max(1, energy.shape[1] - CROP_PX), 20):
            bottom, right = min(y + CROP_PX, energy.shape[0]), min(x + CROP_PX, energy.shape[1])
            value = total[bottom, right] - total[y, right] - total[bottom, x] + total[y, x]
            if value > best:
                best, place = float(value), (y, x)
    return place


def _chosen(subset: Path) -> dict[str, list[dict[str, Any]]]:
    """Take patches of each stage evenly over their rank, simplest first."""
    rows = pq.read_table(subset / "selection.parquet").to_pylist()
    images = {sample.key: sample.image() for sample in open_dataset(subset).samples()}
    gallery: dict[str, list[dict[str, Any]]] = {}
    for stage in sorted({row["stage"] for row in rows}):
        members = sorted(
            (row for row in rows if row["stage"] == stage), key=lambda row: (row["complexity"], row["key"])
        )
        gallery[stage] = []
        for row in _evenly(members, GALLERY_PER_STAGE):
            extension, data = images[row["key"]]
            gallery[stage].append({"uri": _data_uri(data, extension), "complexity": row["complexity"]})
    return gallery


def _complexity_by_stage(subset: Path) -> dict[str, list[float]]:
    table = pq.read_table(subset / "selection.parquet", columns=["stage", "complexity"])
    by_stage: dict[str, list[float]] = {}
    for row in sorted(table.to_pylist(), key=lambda row: row["stage"]):
        by_stage.setdefault(row["stage"], []).append(row["complexity"])
    return by_stage


def _dropped(corpus: Path) -> dict[str, dict[str, Any]]:
    """Take dropped patches of each reason: from as many pictures as there are, then spread evenly."""
    rows = pq.read_table(corpus / "rejected", columns=["reason", "source", "thumbnail"]).to_pylist()
    gallery: dict[str, dict[str, Any]] = {}
    for reason in sorted({row["reason"] for row in rows}):
        members = [row for row in rows if row["reason"] == reason]
        first = {row["source"]: row for row in reversed(members)}
        others = [row for row in members if first[row["source"]] is not row]
        picked = [*first.values(), *_evenly(others, GALLERY_PER_REASON - len(first))][:GALLERY_PER_REASON]
        picked.sort(key=lambda row: row["source"])
        shown = [{"uri": _data_uri(row["thumbnail"], "jpeg"), "source": row["source"]} for row in picked]
        gallery[reason] = {"count": len(members), "shown": shown}
    return gallery


def _evenly(rows: Sequence[dict[str, Any]], num: int) -> list[dict[str, Any]]:
    """Take at most `num` rows, evenly spaced from the first to the last."""
    if num < 1 or not rows:
        return []
    return [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, min(num, len(rows))).round().astype(int))]


def _inputs(corpus: Path) -> list[dict[str, Any]]:
    columns = ["source", "status", "reason", "width", "height", "num_patches", "num_kept", "noise_sigma"]
    rows: list[dict[str, Any]] = pq.read_table(corpus / "images", columns=columns).to_pylist()
    return rows


def _switch_step(out: Path, recipe: Recipe) -> int:
    switch = open_dataset(out / "distill").manifest.get("curriculum", {}).get("t_switch", 0.0)
    return round(float(switch) * recipe.steps)


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

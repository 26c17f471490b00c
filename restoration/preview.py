"""Look at the damage: `make_preview(PreviewConfig) -> PreviewResult` writes a labelled contact sheet and what was drawn.

Every cell is one crop under one degradation at its default strength, with its PSNR; the JSON beside the sheet holds the
parameters, with which `restoration.tasks.replay` makes the same pixels again.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from curate import open_dataset
from curate.core.artifacts import write_bytes, write_json
from curate.core.console import Progress
from curate.core.errors import ConfigError
from curate.core.images import SUFFIXES, encode_image, read_picture

from .degradations import Pixels, to_levels, to_pixels
from .metrics import psnr
from .store import PatchStore, Samples, index_patches
from .tasks import FOLDER, make_degradation, task_words

SCHEMA_VERSION = 1
PROTOCOL = "RGB PSNR of the crop, peak 1, no border left out"
GROUPS = (
    "noise25", "poisson", "speckle", "salt_and_pepper", "jpeg", "webp", "sr2", "sr4", "resize", "blur", "motion", "defocus",
    "sinc", "rain", "rain-heavy", "snow", "haze", "lowlight", "mask",
)  # fmt: skip
"""The order of `all`: noise, files, sizes, blur, weather, light; chains and what is not named here come after."""

THIRDS = (0.0, 0.5, 1.0)  # where a crop may lie along a side
GAP_PX, LABEL_PX, HEADER_PX, MIN_CELL_PX = 10, 46, 40, 200
PAPER, INK, SOFT, RULE = (255, 255, 255), (24, 24, 27), (95, 95, 105), (225, 225, 230)
NAME_SIZE, DETAIL_SIZE, HEADER_SIZE = 16, 12, 20
FIT_CHARACTERS = "..."
UNIT = re.compile("_(levels|px|deg|rad|frac|m)$")
UNSHOWN = ("seed", "stream", "storage", "path", "roughness", "level", "fill")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewConfig:
    """One sheet.

    Attributes:
        data: folder of pictures (subfolders included), or a CORPUS or SUBSET.
        out: a .png file, or a folder that gets `preview.png`; the JSON has the same name.
        degradations: `all`, or task names with commas between them.
        seed: root of every draw.
        num_pictures: shown, evenly spread over the sorted names.
        crop_px: side of the crops; of nine places the one with most detail.
        max_shrink: of a large photograph a larger part is shown, its pixels averaged in squares of at most this side: a small
            piece of it does not tell what it is a picture of.
        columns: cells in a row.
    """

    data: Path
    out: Path
    degradations: str = "all"
    seed: int = 0
    num_pictures: int = 2
    crop_px: int = 256
    max_shrink: int = 4
    columns: int = 6

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.seed >= 0:
            raise ConfigError(f"preview.seed must be >= 0, got {self.seed}")
        for name, most in (("num_pictures", 100), ("columns", 20), ("crop_px", 2048), ("max_shrink", 16)):
            if not 1 <= getattr(self, name) <= most:
                raise ConfigError(f"preview.{name} must be 1 to {most}, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewResult:
    """What was written.

    Attributes:
        sheet: the PNG.
        record: the JSON with every drawn parameter.
        mean_psnr_db: task -> mean over the pictures.
    """

    sheet: Path
    record: Path
    mean_psnr_db: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class View:
    """What is shown of a picture: its pixels, how many times they were shrunk, and where they were then cut."""

    pixels: Samples
    shrink: int
    top: int
    left: int


@dataclass(frozen=True, slots=True)
class Cell:
    """One crop under one degradation."""

    task: str
    image: Pixels
    psnr_db: float
    degradation: str
    parameters: Mapping[str, Any]


def make_preview(config: PreviewConfig) -> PreviewResult:
    """Damage a few crops in every way and lay them out.

    Raises:
        ConfigError: no pictures, or an output that is no place for a PNG.
        PluginError: no such degradation.
        DecodeError: a picture is damaged.
    """
    tasks = tasks_to_show(config.degradations)
    sheet, record = _places(config.out)
    pictures = _pictures(config.data, config.num_pictures)
    views = [_view(image, config) for _, image in pictures]
    cell_px = max(MIN_CELL_PX, *(max(view.pixels.shape[:2]) for view in views))  # of every section: they share a width
    sections, rows = [], []
    with Progress("preview", len(pictures) * len(tasks), unit="cells") as progress:
        for number, ((name, image), view) in enumerate(zip(pictures, views, strict=True)):
            clean_CHW = to_pixels(view.pixels)
            cells = [_damage(task, clean_CHW, (config.seed, number, zlib.crc32(task.encode()))) for task in tasks]
            progress.step(num=len(tasks))
            cut = f" (every {view.shrink} x {view.shrink} averaged)" if view.shrink > 1 else ""
            size = f"{clean_CHW.shape[2]} x {clean_CHW.shape[1]}{cut} of {image.shape[1]} x {image.shape[0]}"
            sections.append(_section(f"{name}   {size}", clean_CHW, cells, (cell_px, config.columns)))
            rows.append({
                "name": name, "height": image.shape[0], "width": image.shape[1], "shrink": view.shrink, "top": view.top,
                "left": view.left, "damaged": _plain(cells),
            })  # fmt: skip
    write_bytes(sheet, encode_image(np.concatenate(sections), "png"))
    write_json(record, {
        "schema_version": SCHEMA_VERSION, "data": str(config.data), "seed": config.seed, "crop_px": config.crop_px,
        "protocol": PROTOCOL, "pictures": rows,
    })  # fmt: skip
    means = {
        task: float(np.mean([row["damaged"][place]["psnr_db"] or math.inf for row in rows]))
        for place, task in enumerate(tasks)
    }
    return PreviewResult(sheet=sheet, record=record, mean_psnr_db=means)


def tasks_to_show(words: str) -> tuple[str, ...]:
    """Read `all` or a list with commas: the names of tasks, each known.

    Raises:
        PluginError: no such degradation.
        ConfigError: an empty list.
    """
    if words == "all":
        return every_task()
    tasks = tuple(dict.fromkeys(word.strip() for word in words.split(",") if word.strip()))
    if not tasks:
        raise ConfigError(f"--degradations must be all, or names with commas between them, got {words!r}")
    for task in tasks:
        make_degradation(task)
    return tasks


def every_task() -> tuple[str, ...]:
    """List one task per degradation, in an order to look at; new files come last by themselves."""
    from curate.core import plugins

    shown = {make_degradation(task).name for task in GROUPS}
    chains = [word for word in task_words() if word not in plugins.names(FOLDER) and _is_chain(word)]
    rest = [name for name in plugins.names(FOLDER) if name not in shown and name != "chain"]
    return (*GROUPS, *chains, *rest)


def _is_chain(task: str) -> bool:
    return make_degradation(task).name == "chain"


def _places(out: Path) -> tuple[Path, Path]:
    if out.is_dir() or not out.suffix:
        return out / "preview.png", out / "preview.json"
    if out.suffix.lower() != ".png":
        raise ConfigError(f"output {out} must end in .png or be a folder")
    return out, out.with_suffix(".json")


def _pictures(data: Path, num: int) -> list[tuple[str, Samples]]:
    """Decode pictures spread over the sorted names."""
    if (data / "manifest.json").is_file():
        stages = index_patches(open_dataset(data))
        refs = sorted((ref for stage in stages for ref in stage), key=lambda ref: ref.key)
        store = PatchStore(cache_bytes=0)
        found: list[tuple[str, Samples]] = [(ref.key, store.image(ref)) for ref in _spread(refs, num)]
    else:
        if not data.is_dir():
            raise ConfigError(f"{data} is neither a folder of pictures nor a CORPUS or SUBSET")
        paths = sorted(path for path in data.rglob("*") if path.suffix.lower() in SUFFIXES)
        found = [(str(path.relative_to(data)), read_picture(path)) for path in _spread(paths, num)]
    if not found:
        raise ConfigError(f"{data} holds no picture")
    return found


def _view(image: Samples, config: PreviewConfig) -> View:
    """Cut the most detailed of nine places, after shrinking: sides under two crops are not shrunk."""
    shrink = max(1, min(config.max_shrink, min(image.shape[:2]) // (2 * config.crop_px)))
    if shrink > 1:
        size = (image.shape[1] // shrink, image.shape[0] // shrink)
        image = image[: size[1] * shrink, : size[0] * shrink]
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=image.dtype)
    height, width = (min(side, config.crop_px) for side in image.shape[:2])
    places = [
        (round(y * (image.shape[0] - height)), round(x * (image.shape[1] - width))) for y in THIRDS for x in THIRDS
    ]
    best, (top, left) = 0.0, places[len(places) // 2]
    for y, x in places:
        crop = image[y : y + height, x : x + width].astype(np.float32)
        detail = float(np.abs(np.diff(crop, axis=0)).sum() + np.abs(np.diff(crop, axis=1)).sum())
        if detail > best:
            best, top, left = detail, y, x
    return View(image[top : top + height, left : left + width], shrink, top, left)


def _spread(items: Sequence[Any], num: int) -> list[Any]:
    places = np.linspace(0, len(items) - 1, min(num, len(items))).tolist() if items else []
    return [items[round(place)] for place in places]


def _damage(task: str, clean_CHW: Pixels, seed: tuple[int, ...]) -> Cell:
    degradation = make_degradation(task)
    parameters = degradation.draw(np.random.default_rng(seed), *clean_CHW.shape[1:])
    image_CHW = degradation.render(clean_CHW, parameters)
    return Cell(task, image_CHW, psnr(image_CHW, clean_CHW), degradation.name, parameters)


def _plain(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    return [
        {
            "task": cell.task, "degradation": cell.degradation,
            "psnr_db": cell.psnr_db if math.isfinite(cell.psnr_db) else None, "parameters": cell.parameters,
        }
        for cell in cells
    ]  # fmt: skip


def _section(header: str, clean_CHW: Pixels, cells: Sequence[Cell], layout: tuple[int, int]) -> NDArray[np.uint8]:
    """Lay one picture's cells out under a header, the clean crop first; `layout`: side of a cell, most cells in a row."""
    cell_px, columns = layout[0], min(layout[1], len(cells) + 1)
    rows = math.ceil((len(cells) + 1) / columns)
    width = columns * (cell_px + GAP_PX) + GAP_PX
    page = Image.new("RGB", (width, HEADER_PX + rows * (cell_px + LABEL_PX + GAP_PX) + GAP_PX), PAPER)
    draw = ImageDraw.Draw(page)
    draw.line((GAP_PX, HEADER_PX - 6, width - GAP_PX, HEADER_PX - 6), fill=RULE, width=2)
    _text(draw, (GAP_PX, 7), header, HEADER_SIZE, INK, width - 2 * GAP_PX)
    entries = [("clean", "", "", clean_CHW)]
    entries += [(cell.task, _decibels(cell.psnr_db), _detail(cell), cell.image) for cell in cells]
    for place, (name, value, detail, image_CHW) in enumerate(entries):
        left = GAP_PX + place % columns * (cell_px + GAP_PX)
        top = HEADER_PX + place // columns * (cell_px + LABEL_PX + GAP_PX)
        page.paste(Image.fromarray(to_levels(image_CHW)), (left, top))
        value_px = round(_font(NAME_SIZE).getlength(value))
        _text(draw, (left, top + cell_px + 4), name, NAME_SIZE, INK, cell_px - value_px - 8)
        _text(draw, (left + cell_px - value_px, top + cell_px + 4), value, NAME_SIZE, INK, cell_px)
        _text(draw, (left, top + cell_px + 25), detail, DETAIL_SIZE, SOFT, cell_px)
    return np.asarray(page, dtype=np.uint8)


def _decibels(value: float) -> str:
    return f"{value:.1f} dB" if math.isfinite(value) else "unchanged"


def _detail(cell: Cell) -> str:
    """Say in a line what was drawn: the words and numbers that have a unit, not the seed."""
    if "steps" in cell.parameters:
        return ", ".join(step["degradation"] for step in cell.parameters["steps"])
    words = []
    for key, value in cell.parameters.items():
        if key in UNSHOWN:
            continue
        if key == "layers":
            words.append(f"{len(value)} layer{'s' if len(value) > 1 else ''}")
        elif isinstance(value, str) and value:
            words.append(value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            words.append(f"{UNIT.sub('', key).replace('_', ' ')} {value:.3g}")
    return ", ".join(words)


def _text(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, fill: tuple[int, int, int], room_px: int
) -> None:
    """Write a line, cut to the room there is."""
    font = _font(size)
    if font.getlength(text) > room_px:
        while text and font.getlength(text + FIT_CHARACTERS) > room_px:
            text = text[:-1]
        text = text.rstrip(" ,") + FIT_CHARACTERS
    draw.text(place, text, fill=fill, font=font)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)  # ships with Pillow: the same letters on every machine

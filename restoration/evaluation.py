"""Measure a trained network on a folder of pictures: `evaluate(EvaluateConfig) -> EvaluateResult`.

Weights are the moving average of the checkpoint named by `checkpoint` (default `last`: with a schedule that ends at a low
rate it is the best on average, and it does not depend on a handful of validation patches).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from curate.core.artifacts import write_json
from curate.core.console import Progress
from curate.core.errors import ConfigError, NumericsError
from curate.core.images import SUFFIXES, read_picture
from curate.core.records import Image

from .bound import Bound, bind
from .checkpoint import load_run
from .data import centre_crop
from .degradations import Pixels, to_pixels
from .metrics import Array
from .protocols import EvaluationProtocol, protocol_by_name
from .tasks import PAIR_TASKS, make_degradation
from .trainer import choose_device

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """One measurement.

    Attributes:
        run: RUN folder.
        bench: folder of clean pictures, or one with `input/` and `target/` (same names) for tasks measured on pairs.
        task: `noise15`, `jpeg10`, `sr2`, ...; `rain`, `haze`, `lowlight` on pairs.
        protocol: `promptir`.
        checkpoint: `last` or `best`.
        depth: `s`, `l` or counts such as `4,6,6,8`; "" takes the one it was trained with.
        device: `auto`, `cpu`, `cuda`, ...
    """

    run: Path
    bench: Path
    task: str
    protocol: str = "promptir"
    checkpoint: str = "last"
    depth: str = ""
    device: str = "auto"

    def __post_init__(self) -> None:
        """Look names up, so that a typo is found before anything starts."""
        protocol_by_name(self.protocol)
        if self.task not in PAIR_TASKS:
            make_degradation(self.task)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageScores:
    """One picture's numbers: metric name -> value, before and after."""

    name: str
    input: Mapping[str, float]
    output: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateResult:
    """What was measured.

    Attributes:
        bench: name of the bench's folder.
        task: what was undone.
        protocol: the protocol's name.
        checkpoint: weights file the numbers belong to.
        images: one entry per picture, sorted by name.
        input: metric -> mean over pictures of the damaged input.
        output: metric -> mean over pictures of the network's output.
        file: the JSON that holds all of this.
    """

    bench: str
    task: str
    protocol: str
    checkpoint: str
    images: tuple[ImageScores, ...]
    input: Mapping[str, float]
    output: Mapping[str, float]
    file: Path

    def gain(self, metric: str = "psnr_db") -> float:
        """Return output minus input."""
        return self.output[metric] - self.input[metric]


def evaluate(config: EvaluateConfig) -> EvaluateResult:
    """Restore every picture of a bench and compare it with the truth.

    Returns:
        Scores per picture and their means, also written to `RUN/eval/BENCH-TASK-PROTOCOL.json`.

    Raises:
        ConfigError: no such run or bench, no pictures, or a task that does not fit the bench.
        DecodeError: a picture is damaged.
        NumericsError: the network's output is not finite.
    """
    protocol = protocol_by_name(config.protocol)
    device = choose_device(config.device)
    paths = _list_bench(config.bench, config.task)
    loaded = load_run(config.run, which=config.checkpoint)
    network = bind(loaded.module.to(device), depth=config.depth, task=config.task)
    images = []
    with Progress(f"evaluate {config.task}", len(paths), unit="pictures") as progress:
        for (lq_CHW, hq_CHW), (name, _, _) in zip(_pairs(paths, config.task, protocol), paths, strict=True):
            output_CHW = _restore(network, lq_CHW, device, name)
            before = _measure(protocol, lq_CHW, hq_CHW)
            images.append(ImageScores(name=name, input=before, output=_measure(protocol, output_CHW, hq_CHW)))
            progress.step()
    bench = config.bench.resolve().name
    file = config.run / "eval" / f"{bench}-{config.task}-{protocol.name}.json"
    result = EvaluateResult(
        bench=bench, task=config.task, protocol=protocol.name, checkpoint=loaded.file, images=tuple(images),
        input=_means([image.input for image in images]), output=_means([image.output for image in images]), file=file,
    )  # fmt: skip
    write_json(file, _plain(result, protocol, loaded.name, loaded.step, network.reuse))
    return result


def _list_bench(bench: Path, task: str) -> list[tuple[str, Path | None, Path]]:
    """List (name, damaged picture or None, true picture), sorted by name."""
    if not bench.is_dir():
        raise ConfigError(f"bench {bench} is not a folder")
    paired = (bench / "input").is_dir() and (bench / "target").is_dir()
    if paired != (task in PAIR_TASKS):
        fits = f"only {', '.join(PAIR_TASKS)} can be measured on it; or use {bench}/target as BENCH" if paired else (
            f"task {task!r} needs a bench with the folders input/ and target/"
        )  # fmt: skip
        raise ConfigError(f"bench {bench} {'holds pairs' if paired else 'holds no pairs'}: {fits}")
    targets = _pictures(bench / "target" if paired else bench)
    if not targets:
        raise ConfigError(f"bench {bench} holds no picture")
    if not paired:
        return [(name, None, path) for name, path in targets.items()]
    inputs = _pictures(bench / "input")
    if inputs.keys() != targets.keys():
        odd = sorted(inputs.keys() ^ targets.keys())
        raise ConfigError(f"bench {bench}: {len(odd)} pictures have no partner, first: {odd[0]}")
    return [(name, inputs[name], path) for name, path in targets.items()]


def _pictures(folder: Path) -> dict[str, Path]:
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
    found: dict[str, Path] = {}
    for path in paths:
        if found.setdefault(path.stem, path) != path:
            raise ConfigError(
                f"bench {folder} holds {found[path.stem].name} and {path.name}: names must differ before the dot"
            )
    return found


def _pairs(
    paths: list[tuple[str, Path | None, Path]], task: str, protocol: EvaluationProtocol
) -> Iterator[tuple[Pixels, Pixels]]:
    rng = protocol.generator()
    for name, damaged, true in paths:
        target = read_picture(true)
        hq_CHW = _cropped(target, protocol)
        if damaged is None:
            yield make_degradation(task).apply(hq_CHW, rng), hq_CHW
            continue
        source = read_picture(damaged)
        if source.shape != target.shape:
            raise ConfigError(f"pair {name}: input has shape {source.shape}, target {target.shape}")
        yield _cropped(source, protocol), hq_CHW


def _cropped(image: Image, protocol: EvaluationProtocol) -> Pixels:
    return to_pixels(centre_crop(image, max_px=max(image.shape), multiple=protocol.crop_multiple_px))


@torch.inference_mode()
def _restore(network: Bound, lq_CHW: Pixels, device: torch.device, name: str) -> Array:
    output_BCHW = network(torch.from_numpy(lq_CHW)[None].to(device)).float()
    if not bool(torch.isfinite(output_BCHW).all()):
        raise NumericsError(f"the output for picture {name} is not finite: these weights cannot be used")
    return output_BCHW[0].clamp(0, 1).cpu().numpy()  # type: ignore[no-any-return]


def _measure(protocol: EvaluationProtocol, output_CHW: Array, target_CHW: Array) -> dict[str, float]:
    return {name: metric(output_CHW, target_CHW) for name, metric in protocol.metrics.items()}


def _means(rows: list[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}


def _plain(
    result: EvaluateResult, protocol: EvaluationProtocol, model: str, step: int, reuse: tuple[int, ...] | None
) -> dict[str, object]:
    def finite(row: Mapping[str, float]) -> dict[str, float | None]:
        return {name: value if math.isfinite(value) else None for name, value in row.items()}  # None: equal pictures

    return {
        "schema_version": SCHEMA_VERSION, "bench": result.bench, "task": result.task, "protocol": result.protocol,
        "protocol_description": protocol.description, "model": model, "checkpoint": result.checkpoint, "weights": "ema",
        "step": step, "reuse": list(reuse) if reuse else None, "num_images": len(result.images),
        "mean": {"input": finite(result.input), "output": finite(result.output)},
        "images": [{"name": i.name, "input": finite(i.input), "output": finite(i.output)} for i in result.images],
    }  # fmt: skip

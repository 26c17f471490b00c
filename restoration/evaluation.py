"""Measure a trained network on a bench: `evaluate(EvaluateConfig) -> EvaluateResult`.

Weights are the moving average of the checkpoint named by `checkpoint` (default `last`: with a schedule that ends at a low
rate it is the best on average, and it does not depend on a handful of validation patches). Pictures are read, damaged and
scored in threads beside the network; each is treated by itself, so the numbers do not depend on how many there are.
Limit: a picture goes through the network whole, as every protocol asks; one that does not fit is refused by name.
"""

from __future__ import annotations

import collections
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from curate.core.artifacts import write_bytes, write_json
from curate.core.console import Progress
from curate.core.errors import ConfigError, ImageError, NumericsError

from .bench import Case, Prepared, list_bench, prepare
from .bound import Bound, bind
from .checkpoint import LoadedModel, load_run
from .degradations import Degradation, Pixels
from .extra_metrics import ExtraMetric, load_metrics
from .models._precision import float32_exactly
from .protocols import EvaluationProtocol, check_task, protocol_by_name, scale_of
from .scoreboard import EvaluateResult, ImageScores, format_table, mean_scores, to_plain, write_rows
from .sheet import Exhibit, draw_sheet, make_exhibit
from .trainer import choose_device

MAX_THREADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """One measurement.

    Attributes:
        run: RUN folder.
        bench: folder of clean pictures, or one with `input/` and `target/` (same names) for tasks measured on pairs.
        task: `noise15`, `jpeg10`, `sr2`, ...; `rain`, `haze`, `lowlight` on pairs, `srN` on either.
        protocol: `promptir`, `restormer` or `ychannel`.
        checkpoint: `last` or `best`.
        depth: `s`, `l` or counts such as `4,6,6,8`; "" takes the one it was trained with.
        head: of a network that has several, such as `noise30` for task `noise25`; "": the one of the task's name, else the
            only one.
        device: `auto`, `cpu`, `cuda`, ...
        metrics: more of them, by name: `lpips`, `niqe`, `brisque`.
        num_worst: pictures on the sheet.
        num_threads: that read and score; 0: one per core, at most 8. Changes speed only.
    """

    run: Path
    bench: Path
    task: str
    protocol: str = "promptir"
    checkpoint: str = "last"
    depth: str = ""
    head: str = ""
    device: str = "auto"
    metrics: tuple[str, ...] = ()
    num_worst: int = 6
    num_threads: int = 0

    def __post_init__(self) -> None:
        """Look names up, so that a typo is found before anything starts."""
        protocol_by_name(self.protocol)
        check_task(self.task)
        for field in ("num_worst", "num_threads"):
            least = 1 if field == "num_worst" else 0
            if not getattr(self, field) >= least:
                raise ConfigError(f"evaluate.{field} must be >= {least}, got {getattr(self, field)}")


@dataclass(frozen=True, slots=True)
class _Judge:
    """Everything that turns an output into numbers."""

    task: str
    protocol: EvaluationProtocol
    extras: tuple[ExtraMetric, ...]
    degradation: Degradation | None  # None on pairs

    def facts(self) -> dict[str, str]:
        words = self.protocol.facts(self.task, paired=self.degradation is None, degradation=self.degradation)
        return words | {extra.name: extra.words for extra in self.extras}

    def score(self, prepared: Prepared, output_CHW: Pixels, seconds: float) -> tuple[ImageScores, Exhibit]:
        before, after = self.protocol.judge(prepared.input), self.protocol.judge(output_CHW)
        try:
            numbers = [self._numbers(judged, prepared.target) for judged in (before, after)]
        except ImageError as error:
            raise ImageError(f"picture {prepared.name}: {error}") from error
        scores = ImageScores(
            name=prepared.name, file=prepared.file, height=after.shape[1], width=after.shape[2], seed=prepared.seed,
            damage=prepared.damage, input_policy=prepared.input_policy, target_policy=prepared.target_policy, seconds=seconds,
            input=numbers[0], output=numbers[1],
        )  # fmt: skip
        return scores, make_exhibit(_title(scores), before, after, prepared.target)

    def _numbers(self, judged_CHW: Pixels, target_CHW: Pixels) -> dict[str, float]:
        numbers = self.protocol.measure(judged_CHW, target_CHW, self.task)
        for extra in self.extras:
            value = extra.measure(judged_CHW, target_CHW)
            numbers[extra.name] = float("nan") if value is None else value
        return numbers


def evaluate(config: EvaluateConfig) -> EvaluateResult:
    """Restore every picture of a bench and compare it with the truth; the identity row is what the input itself would get.

    Returns:
        Scores per picture and their means, also written to `RUN/eval/` as JSON, Markdown, Parquet and a PNG sheet of the
        pictures whose output has the lowest PSNR.

    Raises:
        ConfigError: no such run or bench, no pictures, pairs that do not fit, or a task that does not fit bench or network.
        DecodeError: a picture is damaged.
        MissingDependencyError: an extra metric's package or weights are missing.
        NumericsError: the network's output is not finite.
    """
    protocol = protocol_by_name(config.protocol)
    cases = list_bench(config.bench, config.task)
    paired = cases[0].input is not None
    judge = _Judge(
        config.task, protocol, load_metrics(config.metrics), None if paired else protocol.degradation(config.task)
    )
    device = choose_device(config.device)
    loaded = load_run(config.run, which=config.checkpoint)
    network = _bound(loaded, config, device)
    images: list[ImageScores] = []
    worst: list[tuple[float, str, Exhibit]] = []
    with Progress(f"evaluate {config.task}", len(cases), unit="pictures") as progress:
        for scores, exhibit in _scored(cases, network, judge, device, config.num_threads):
            images.append(scores)
            worst = sorted([*worst, (scores.output["psnr_db"], scores.name, exhibit)], key=lambda entry: entry[:2])
            del worst[config.num_worst :]
            progress.step()
    result = _summary(config, judge.facts() | _computed(network, device), loaded, network, tuple(images))
    _write(result, [exhibit for _, _, exhibit in worst])
    return result


def run_whole(network: Bound, lq_CHW: Pixels, device: torch.device, name: str) -> Pixels:
    """Put one picture through a network whole.

    Args:
        network: what `bind` returned.
        lq_CHW: (3, H, W) float32.
        device: where it computes.
        name: of the picture, for messages.

    Returns:
        (3, scale * H, scale * W) float32, not clamped.

    Raises:
        ConfigError: it does not fit into memory.
        NumericsError: the output is not finite.
    """
    try:
        with torch.inference_mode(), float32_exactly(device.type):
            output_BCHW = network(torch.from_numpy(lq_CHW)[None].to(device)).float().cpu()
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _too_large(lq_CHW, device, name) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # what PyTorch's CPU allocator says
            raise
        raise _too_large(lq_CHW, device, name) from error
    if not bool(torch.isfinite(output_BCHW).all()):
        raise NumericsError(f"the output for picture {name} is not finite: these weights cannot be used")
    return output_BCHW[0].numpy()


def _too_large(lq_CHW: Pixels, device: torch.device, name: str) -> ConfigError:
    size = f"{lq_CHW.shape[2]}x{lq_CHW.shape[1]}"
    return ConfigError(
        f"picture {name} ({size}) does not fit into the memory of {device}: protocols measure pictures whole; "
        "use a bench of smaller pictures or --device cpu"
    )


def _bound(loaded: LoadedModel, config: EvaluateConfig, device: torch.device) -> Bound:
    network = bind(loaded.module.to(device), depth=config.depth, task=_head(loaded, config))
    if network.scale not in (1, scale_of(config.task)):
        raise ConfigError(
            f"head {network.task} of {loaded.name} enlarges by {network.scale}, task {config.task} by {scale_of(config.task)}"
        )
    return network


def _head(loaded: LoadedModel, config: EvaluateConfig) -> str:
    """Choose the head: the one that was asked for, the one of the task's name, or the only one."""
    heads: Mapping[str, int] = loaded.module.tasks  # type: ignore[assignment]
    if config.head and not heads:
        raise ConfigError(f"{loaded.name} has no heads, got --head {config.head}: leave it out")
    wanted = config.head or config.task
    if not heads or wanted in heads:
        return wanted
    if len(heads) == 1 and not config.head:
        return ""
    raise ConfigError(f"{loaded.name} has heads for {', '.join(heads)}; got {wanted!r}: name one of them with --head")


def _computed(network: Bound, device: torch.device) -> dict[str, str]:
    """Say by what the outputs were computed."""
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    facts = {"device": f"{device}{name}, float32 without TF32"}
    return facts | ({"head": network.task} if network.task else {})


def _scored(
    cases: tuple[Case, ...], network: Bound, judge: _Judge, device: torch.device, num_threads: int
) -> Iterator[tuple[ImageScores, Exhibit]]:
    """Read ahead, restore, score behind; in order, with a bounded number of pictures in memory."""
    num = num_threads or min(os.cpu_count() or 1, MAX_THREADS)
    pool = ThreadPoolExecutor(num, thread_name_prefix="evaluate")
    ahead = (pool.submit(prepare, case, judge.task, judge.protocol, judge.degradation) for case in cases)
    waiting: collections.deque[Future[tuple[ImageScores, Exhibit]]] = collections.deque()
    try:
        for prepared in _buffered(ahead, num):
            start = time.perf_counter()
            given = prepared.input if network.scale == 1 or prepared.small is None else prepared.small
            output_CHW = run_whole(network, given, device, prepared.name)
            waiting.append(pool.submit(judge.score, prepared, output_CHW, time.perf_counter() - start))
            while len(waiting) > num:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _buffered(futures: Iterator[Future[Prepared]], num: int) -> Iterator[Prepared]:
    """Keep `num` of the futures running ahead of the one whose result is taken."""
    running: collections.deque[Future[Prepared]] = collections.deque()
    for future in futures:
        running.append(future)
        if len(running) > num:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def _summary(
    config: EvaluateConfig,
    facts: Mapping[str, str],
    loaded: LoadedModel,
    network: Bound,
    images: tuple[ImageScores, ...],
) -> EvaluateResult:
    bench = _bench_name(config.bench.resolve())
    depth = ",".join(map(str, network.reuse or ()))
    parts = [bench, re.sub(r"[^\w.-]+", "-", config.task), config.protocol, config.depth.replace(",", "-")]
    parts += [re.sub(r"[^\w.-]+", "-", config.head)]
    parts += [config.checkpoint] if config.checkpoint != "last" else []
    stem = "-".join(part for part in parts if part)
    folder = config.run / "eval"
    return EvaluateResult(
        bench=bench, task=config.task, protocol=config.protocol, facts=facts, model=loaded.name,
        checkpoint=loaded.file, weights=loaded.weights, step=loaded.step, depth=depth, images=images,
        input=mean_scores(image.input for image in images), output=mean_scores(image.output for image in images),
        file=folder / f"{stem}.json", table=folder / f"{stem}.md", rows=folder / f"{stem}.parquet",
        sheet=folder / f"{stem}-worst.png",
    )  # fmt: skip


def _bench_name(bench: Path) -> str:
    """Name a bench by its folder; one side of a pair bench also by the bench, else all of them would be called `target`."""
    return f"{bench.parent.name}-{bench.name}" if bench.name in ("target", "input") else bench.name


def _write(result: EvaluateResult, exhibits: list[Exhibit]) -> None:
    """Write the JSON last: it names the others."""
    facts = [f"{topic}: {words}" for topic, words in result.facts.items()]
    heading = [
        f"{result.bench}, task {result.task}, {result.label}, {result.checkpoint}, protocol {result.protocol}",
        f"the {len(exhibits)} lowest output PSNR of {len(result.images)} pictures, worst first; each where the output's "
        "squared error is largest",
        "; ".join(facts),
    ]
    write_bytes(result.sheet, draw_sheet(heading, exhibits))
    write_rows(result)
    write_bytes(result.table, (format_table([result]) + "\n").encode())
    write_json(result.file, to_plain(result))


def _title(scores: ImageScores) -> str:
    parts = [scores.name]
    for metric, after in scores.output.items():
        digits = 2 if metric == "psnr_db" else 4
        before = scores.input[metric]
        if math.isnan(before) or math.isnan(after):
            continue
        gain = f" ({after - before:+.{digits}f})" if math.isfinite(after - before) else ""
        parts.append(f"{metric} {before:.{digits}f} to {after:.{digits}f}{gain}")
    return "   ".join(parts)

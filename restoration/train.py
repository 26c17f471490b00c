"""Train a restoration network from a corpus or subset: `fit(TrainConfig) -> TrainResult`.

The whole run is a function of (config, data, step): batches come from counters, the rate and the curriculum from the step,
so a run that was killed and started again gives the same losses, bit for bit, on the same machine and threads.
Limits: one process, one device; on CUDA the bit-identity has not been tried.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from curate import Dataset, open_dataset
from curate.core.artifacts import locked_output
from curate.core.config import to_plain
from curate.core.errors import ConfigError
from curate.core.heap import keep_freed_memory
from curate.core.records import TRAIN

from .checkpoint import checkpoint_path
from .curriculum import CurriculumConfig, curriculum_of_subset
from .data import Stages, hold_out
from .loop import Run
from .models import num_parameters, preset, training_defaults
from .record import start_record
from .store import PatchRef, index_patches
from .tasks import CHAIN, make_degradation, settings_hash
from .trainer import OptimiserConfig, Trainer, choose_device

RECIPES = ("auto", "scratch", "curriculum")


def _default_tasks() -> dict[str, float]:
    return {"noise0-50": 1.0, "jpeg10-40": 1.0, "sr2": 1.0}  # one all-round model; equal shares: docs/log.md


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run. Fields that say "0: the model's" are filled from the model's `TRAINING` and stored resolved.

    Attributes:
        data: CORPUS or SUBSET folder.
        out: RUN folder; the same config resumes, another one is refused.
        model: name of the network, such as `dynet-s`; none with a head for each task (`ipt`).
        recipe: `scratch` (uniform draws), `curriculum` (stage 1, then stage 2 comes in), `auto`: curriculum on a subset
            of two stages, else scratch.
        steps: optimiser steps; 0: as many as fit into `hours`.
        hours: wall-clock limit over all starts together; 0: none.
        seed: root of every random draw.
        device: `auto`, `cpu`, `cuda`, ...
        val: folder of pictures to validate on; None: a few patches are held out of the data.
        tasks: task name -> share of the draws, see `restoration/tasks.py`.
        batch_size: crops a step; 0: the model's.
        crop_px: side of a crop; 0: the model's.
        max_shrink: crops are cut up to this many times larger and area-averaged down; 1: never.
        peak_lr: learning rate after the warm-up; 0: the model's.
        final_lr_frac: of `peak_lr` at the end of the cosine.
        warmup_frac: of the steps, rising linearly.
        optimiser: AdamW, clipping, moving average, precision.
        curriculum: when the complex stage comes in; None: what the SUBSET says (manifest key `curriculum`).
        checkpoint_every_iter: steps between checkpoints and validations.
        keep_checkpoints: newest ones kept, beside `best`.
        log_every_iter: steps between progress lines; every step has its line in metrics.jsonl.
        val_share: of the pictures held out where `val` is None.
        val_max_pictures: upper limit of held-out patches or validation pictures.
        val_crop_px: side of the centre crops that are validated.
        val_tasks: tasks that are validated; `best` is chosen by the mean of their PSNR.
        num_threads: that prepare batches.
        cache_bytes: of decoded patches kept in memory.
    """

    data: Path
    out: Path
    model: str = "dynet-s"
    recipe: str = "auto"
    steps: int = 20_000
    hours: float = 0.0
    seed: int = 0
    device: str = "auto"
    val: Path | None = None
    tasks: Mapping[str, float] = field(default_factory=_default_tasks)
    batch_size: int = 0
    crop_px: int = 0
    max_shrink: int = 3  # full-size photographs are softer than the pictures people restore: docs/log.md
    peak_lr: float = 0.0
    final_lr_frac: float = 0.01  # 1e-6 of 1e-4, spec/dynet.md 2.3
    warmup_frac: float = 0.03  # docs/log.md
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    curriculum: CurriculumConfig | None = None
    checkpoint_every_iter: int = 100
    keep_checkpoints: int = 2
    log_every_iter: int = 10
    val_share: float = 0.05  # spec/tripled.md 4.5
    val_max_pictures: int = 8
    val_crop_px: int = 128
    val_tasks: tuple[str, ...] = ("noise25", "jpeg20", "sr2")
    num_threads: int = 2
    cache_bytes: int = 2 << 30

    def __post_init__(self) -> None:
        """Check ranges; models and tasks are looked up, so that a typo is found before anything starts."""
        if getattr(preset(self.model), "tasks", None):
            raise ConfigError(
                f"train.model {self.model} has a head for each task, and such networks cannot be trained yet; "
                "choose one without heads, such as dynet-s or nafnet-small (docs/models.md)"
            )
        for task in (*self.tasks, *self.val_tasks):
            make_degradation(task)
        if not self.tasks or not all(share > 0 for share in self.tasks.values()):
            raise ConfigError(f"train.tasks must name tasks with shares > 0, got {dict(self.tasks)}")
        if self.recipe not in RECIPES:
            raise ConfigError(f"train.recipe must be one of {', '.join(RECIPES)}, got {self.recipe!r}")
        if not self.steps >= 0 or not self.hours >= 0 or (self.steps == 0 and self.hours == 0):
            raise ConfigError(f"train needs steps >= 1 or hours > 0, got steps {self.steps}, hours {self.hours}")
        if self.batch_size < 0 or self.crop_px < 0 or not self.peak_lr >= 0 or self.seed < 0:
            raise ConfigError("train.batch_size, crop_px, peak_lr and seed must be >= 0")
        if not 0 <= self.final_lr_frac <= 1 or not 0 <= self.warmup_frac < 1 or not 0 <= self.val_share < 1:
            raise ConfigError("train.final_lr_frac must be in [0, 1], warmup_frac and val_share in [0, 1)")
        _check_counts(self)


def _check_counts(config: TrainConfig) -> None:
    names = (
        "checkpoint_every_iter",
        "keep_checkpoints",
        "log_every_iter",
        "val_max_pictures",
        "val_crop_px",
        "num_threads",
        "max_shrink",
    )
    for name in names:
        if not getattr(config, name) >= 1:
            raise ConfigError(f"train.{name} must be >= 1, got {getattr(config, name)}")
    if config.cache_bytes < 0:
        raise ConfigError(f"train.cache_bytes must be >= 0, got {config.cache_bytes}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What came of a call of `fit`.

    Attributes:
        out: the RUN folder.
        status: `finished`, `time-limit`, or `already-finished` where nothing was left to do.
        model: name of the network.
        num_parameters: its size.
        steps: steps done, over all starts.
        num_steps: steps wanted.
        loss: of the last step, L1.
        val_psnr_db: task -> mean PSNR of the last validation; empty without one.
        seconds: stage -> seconds, over all starts.
        weights: path of the last checkpoint.
    """

    out: Path
    status: str
    model: str
    num_parameters: int
    steps: int
    num_steps: int
    loss: float
    val_psnr_db: Mapping[str, float]
    seconds: Mapping[str, float]
    weights: Path


def fit(config: TrainConfig) -> TrainResult:
    """Train, or go on where the last start was stopped.

    Args:
        config: what to train on what.

    Returns:
        The result; everything else is in the RUN folder (docs/formats.md).

    Raises:
        ConfigError: OUT was used with another config or data, or holds something else.
        ManifestError: DATA is not a finished corpus or subset.
        NumericsError: a loss is not finite; the last checkpoint is kept.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the state was saved and the same call resumes.
    """
    dataset = open_dataset(config.data, split=TRAIN)
    device = choose_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()  # a fifth of a step is page faults otherwise: docs/speed.md
    config = _resolve(config, dataset)
    stages, held_out = _split(dataset, config)
    with locked_output(config.out), _own_generators(device), _stop_signals() as stop:
        start_record(config.out, _record(config, dataset, stages, held_out))
        run = Run(config, Trainer(config.model, config.optimiser, device=device, seed=config.seed), stages, held_out)
        status = run.train(stop)
        if status == "interrupted":
            raise KeyboardInterrupt
        return TrainResult(
            out=config.out, status=status, model=config.model, num_parameters=num_parameters(run.trainer.model),
            steps=run.step, num_steps=run.num_steps, loss=run.loss, val_psnr_db=run.val_psnr_db, seconds=run.seconds,
            weights=checkpoint_path(config.out),
        )  # fmt: skip


def _resolve(config: TrainConfig, dataset: Dataset) -> TrainConfig:
    """Fill every field that was left to the model or to the data."""
    defaults = training_defaults(config.model)
    staged = len(dataset.stages) == 2
    if config.recipe == "curriculum" and not staged:
        raise ConfigError(
            f"recipe curriculum needs a SUBSET with two stages; {config.data} is a {dataset.kind} with one"
        )
    recipe = ("curriculum" if staged else "scratch") if config.recipe == "auto" else config.recipe
    return replace(
        config,
        recipe=recipe,
        curriculum=_curriculum(config, dataset) if recipe == "curriculum" else CurriculumConfig(kind="none"),
        batch_size=config.batch_size or defaults.batch_size,
        crop_px=config.crop_px or defaults.crop_px,
        peak_lr=config.peak_lr or defaults.peak_lr,
    )


def _curriculum(config: TrainConfig, dataset: Dataset) -> CurriculumConfig:
    return config.curriculum or curriculum_of_subset(dataset.manifest.get("curriculum", {}))


def _split(dataset: Dataset, config: TrainConfig) -> tuple[Stages, tuple[PatchRef, ...]]:
    """Index the patches; hold some out where no validation folder was named."""
    stages = index_patches(dataset)
    if not any(stages):
        raise ConfigError(f"{config.data} holds no patch to train on")
    if config.val is not None:
        return stages, ()
    return hold_out(stages, share=config.val_share, max_patches=config.val_max_pictures)


def _record(config: TrainConfig, dataset: Dataset, stages: Stages, held_out: tuple[PatchRef, ...]) -> dict[str, Any]:
    counts = {name or "corpus": len(stage) for name, stage in zip(dataset.stages, stages, strict=True)}
    data = {
        "path": str(config.data),
        "kind": dataset.kind,
        "content_hash": dataset.content_hash,
        "samples": dataset.num_samples,
    }
    return {
        "model": {"name": config.model, "config": to_plain(preset(config.model))},
        "config": {**to_plain(config), **_chains(config)},
        "inputs": {"data": data, "held_out": [ref.key for ref in held_out]},
        "counts": {"training_patches": counts, "held_out_patches": len(held_out)},
        "seed": config.seed,
    }


def _chains(config: TrainConfig) -> dict[str, dict[str, str]]:
    """Name what chains consist of now, so that a run cannot go on with another content of the same file."""
    found = {task: make_degradation(task) for task in dict.fromkeys((*config.tasks, *config.val_tasks))}
    hashes = {task: settings_hash(plugin) for task, plugin in found.items() if plugin.name == CHAIN}
    return {"chains": hashes} if hashes else {}


@contextmanager
def _own_generators(device: torch.device) -> Iterator[None]:
    """Leave the caller's random generators as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into an event, so that a step ends and is saved; the second one kills as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

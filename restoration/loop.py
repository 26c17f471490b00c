"""The training loop and what it writes: metrics, checkpoints, sample strips. Called by `train.fit`, which holds the story."""

from __future__ import annotations

import math
import statistics
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from curate.core.console import Progress, note
from curate.core.errors import NumericsError

from .checkpoint import load_state, remove_old_checkpoints, save_checkpoint
from .curriculum import CurriculumConfig
from .data import Batch, BatchSource, Prefetcher, Stages
from .record import append_metrics, cut_metrics, update_record
from .schedule import warmup_cosine
from .store import PatchRef, PatchStore
from .trainer import Trainer
from .validate import PROTOCOL, Validation, make_pairs, read_folder

if TYPE_CHECKING:
    from .train import TrainConfig

TRIAL_STEPS = 7  # timed before a run limited by hours alone; the median of the last 5 counts
SAVING_SHARE = 0.05  # of the hours, left for validation and checkpoints


class Run:
    """One start of one run. Its public attributes are its result so far."""

    def __init__(self, config: TrainConfig, trainer: Trainer, stages: Stages, held_out: tuple[PatchRef, ...]) -> None:
        self.trainer, self.step, self.loss = trainer, 0, math.nan
        self.val_psnr_db = dict[str, float]()
        self.seconds = {"train": 0.0, "data_stall": 0.0, "validate_and_save": 0.0}
        self._config, self._stages = config, stages
        self._store = PatchStore(cache_bytes=config.cache_bytes)
        self._pending: list[dict[str, Any]] = []
        self.num_steps = self._resume()
        self._start_step, self._start_seconds = self.step, self.seconds["train"]
        self._validation = self._make_validation(held_out)

    def train(self, stop: threading.Event) -> str:
        """Run until done, out of time or asked to stop; return the status."""
        config = self._config
        if self.step >= self.num_steps:
            return "already-finished"
        if self._out_of_time():
            return "time-limit"
        source = BatchSource(
            store=self._store, stages=self._stages, num_steps=self.num_steps, batch_size=config.batch_size,
            crop_px=config.crop_px, max_shrink=config.max_shrink, tasks=config.tasks, seed=config.seed,
            curriculum=config.curriculum or CurriculumConfig(kind="none"),
        )  # fmt: skip
        try:
            with Progress("train", self.num_steps, done=self.step, unit="steps") as progress:
                self._loop(source, progress, stop)
        except NumericsError:
            self._write_status("failed")
            raise
        status = "finished" if self.step >= self.num_steps else "interrupted" if stop.is_set() else "time-limit"
        self._write_status(status)
        return status

    def _loop(self, source: BatchSource, progress: Progress, stop: threading.Event) -> None:
        config = self._config
        batches = Prefetcher(source, range(self.step, self.num_steps), num_threads=config.num_threads)
        stall_before_s, start_s = self.seconds["data_stall"], time.perf_counter()
        for batch in batches:
            self._learn(batch)
            self.seconds["data_stall"] = stall_before_s + batches.stall_s
            since_s = time.perf_counter() - start_s
            last = self.step >= self.num_steps or stop.is_set() or self._out_of_time(since_s)
            save = last or self.step % config.checkpoint_every_iter == 0
            if not save and self.step % config.log_every_iter:
                continue
            num = self._flush(source)
            self.seconds["train"] += time.perf_counter() - start_s
            progress.step(self._remark(), num=num)
            start_s = time.perf_counter()
            if save:
                self._save()
                self.seconds["validate_and_save"] += time.perf_counter() - start_s
                start_s = time.perf_counter()
            if last:
                break

    def _learn(self, batch: Batch) -> None:
        config = self._config
        lr = warmup_cosine(
            batch.step, self.num_steps, peak=config.peak_lr, final=config.peak_lr * config.final_lr_frac,
            num_warmup=math.ceil(config.warmup_frac * self.num_steps),
        )  # fmt: skip
        loss, norm = self.trainer.step(batch, lr=lr)
        self.step = batch.step + 1
        self._pending.append({"step": self.step, "loss": loss, "lr": lr, "grad_norm": norm})

    def _flush(self, source: BatchSource) -> int:
        """Write the pending lines and return their number; stop at the first loss that is not finite."""
        lines = [
            {name: float(value) if isinstance(value, torch.Tensor) else value for name, value in p.items()}
            for p in self._pending
        ]
        self._pending.clear()
        for number, line in enumerate(lines):
            if not (math.isfinite(line["loss"]) and math.isfinite(line["grad_norm"])):
                append_metrics(self._config.out, lines[:number])
                keys = ", ".join(source.batch(int(line["step"]) - 1).keys)
                raise NumericsError(
                    f"step {line['step']}: loss {line['loss']}, gradient norm {line['grad_norm']} (patches {keys}); the last "
                    "checkpoint is kept: try a lower peak_lr in another OUT"
                )
        append_metrics(self._config.out, lines)
        self.loss = lines[-1]["loss"]
        return len(lines)

    def _save(self) -> None:
        """Validate, write a sample strip and a checkpoint, drop old checkpoints."""
        config, restore = self._config, self.trainer.restore
        self.val_psnr_db = self._validation.score(restore)
        if self.val_psnr_db:
            append_metrics(config.out, [{"step": self.step, "val_psnr_db": self.val_psnr_db, "protocol": PROTOCOL}])
        self._validation.write_strip(config.out / "samples" / f"step-{self.step:08d}.png", restore)
        state = {
            **self.trainer.state(), "step": self.step, "num_steps": self.num_steps, "loss": self.loss,
            "val_psnr_db": self.val_psnr_db, "seconds": self.seconds, "data": {"seed": config.seed, "next_step": self.step},
        }  # fmt: skip
        val_db = statistics.fmean(self.val_psnr_db.values()) if self.val_psnr_db else None
        save_checkpoint(
            config.out,
            self.step,
            name=config.model,
            model=self.trainer.model,
            ema=self.trainer.ema,
            state=state,
            val_db=val_db,
        )
        remove_old_checkpoints(config.out, keep=config.keep_checkpoints)

    def _resume(self) -> int:
        """Take up the last checkpoint, if there is one; return the length of the run."""
        loaded = load_state(self._config.out, model=self.trainer.model)
        cut_metrics(self._config.out, num_steps=loaded[1]["step"] if loaded else 0)
        if loaded is None:
            return self._config.steps or self._steps_that_fit()
        ema, state = loaded
        self.trainer.load(ema, state)
        self.step, self.loss, self.val_psnr_db = state["step"], state["loss"], state["val_psnr_db"]
        self.seconds = state["seconds"]
        if self.step < state["num_steps"]:
            note(f"resuming after step {self.step} of {state['num_steps']}")
        return int(state["num_steps"])

    def _steps_that_fit(self) -> int:
        """Time a few steps of a throw-away copy: how many fit into the hours?"""
        config = self._config
        trial = Trainer(config.model, config.optimiser, device=self.trainer.device, seed=config.seed)
        noise = np.random.default_rng(0).random((config.batch_size, 3, config.crop_px, config.crop_px), np.float32)
        times_s = []
        for step in range(TRIAL_STEPS):
            start_s = time.perf_counter()
            float(trial.step(Batch(step, (), noise, noise), lr=config.peak_lr)[0])
            times_s.append(time.perf_counter() - start_s)
        num_steps = max(1, int(config.hours * 3600 * (1 - SAVING_SHARE) / statistics.median(times_s[2:])))
        note(f"{num_steps} steps fit into {config.hours:g} hours")
        return num_steps

    def _make_validation(self, held_out: tuple[PatchRef, ...]) -> Validation:
        config = self._config
        if config.val is not None:
            images = read_folder(config.val, max_pictures=config.val_max_pictures)
        else:
            first = next(stage[0] for stage in self._stages if stage)
            images = [self._store.image(ref) for ref in held_out or (first,)]
        pairs = make_pairs(images, config.val_tasks, crop_px=config.val_crop_px, seed=config.seed)
        return Validation(pairs, scored=config.val is not None or bool(held_out))

    def _out_of_time(self, since_s: float = 0.0) -> bool:
        elapsed_s = self.seconds["train"] + self.seconds["validate_and_save"] + since_s
        return self._config.hours > 0 and elapsed_s >= self._config.hours * 3600

    def _remark(self) -> str:
        train_s = max(self.seconds["train"], 1e-9)
        since_s = max(train_s - self._start_seconds, 1e-9)
        rate = (self.step - self._start_step) * self._config.batch_size / since_s
        return f"loss {self.loss:.4f}, {rate:.1f} images/s, stall {100 * self.seconds['data_stall'] / train_s:.1f} %"

    def _write_status(self, status: str) -> None:
        update_record(
            self._config.out,
            {"status": status, "step": self.step, "num_steps": self.num_steps, "seconds": self.seconds},
        )

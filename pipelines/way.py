"""`run`: the whole way on one screen. Each step is the same job a user runs by hand, in its own folder below OUT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curate import BuildShardsConfig, build_shards, open_dataset
from curate.core.artifacts import locked_output, sha256_file, write_bytes
from curate.core.config import to_plain
from curate.core.images import decode_image, encode_image
from curate.manifest import tool_versions
from curate.recipes import load_recipe as load_curate_recipe
from distill import SelectConfig, select
from restoration import EvaluateConfig, RestoreConfig, TrainConfig, evaluate, fit, make_degradation, restore
from restoration.degradations import to_levels, to_pixels

from .pictures import copy_pictures
from .recipe import Recipe
from .report import write_report
from .steps import StepRecord, hash_files, run_step


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One held-out picture under one task, PSNR in dB."""

    picture: str
    task: str
    before_db: float
    after_db: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What came out: where the report and a restored picture are, every score, and which steps were skipped."""

    out: Path
    report: Path
    restored: Path
    protocol: str
    scores: tuple[Score, ...]
    skipped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Way:
    """One recipe on its way through OUT; each method is the work of one step."""

    recipe: Recipe
    out: Path

    def pictures(self, folder: Path) -> tuple[str, dict[str, Any]]:
        """Copy the recipe's pictures: `corpus/` to build from, `held-out/` for the numbers."""
        recipe = self.recipe
        corpus = copy_pictures(recipe.pictures, folder / "corpus", extra=recipe.extra)
        held_out = copy_pictures(recipe.held_out, folder / "held-out", extra=recipe.extra)
        return hash_files([*corpus, *held_out]), {"corpus": len(corpus), "held_out": [path.name for path in held_out]}

    def curate(self, folder: Path) -> tuple[str, dict[str, Any]]:
        """Cut, score, filter and deduplicate."""
        recipe = self.recipe
        rules = load_curate_recipe(recipe.curate_recipe, patch_size_px=recipe.patch_size_px)
        result = build_shards(
            BuildShardsConfig(
                source=self.out / "pictures" / "corpus", out=folder, recipe=rules, patch_size_px=recipe.patch_size_px
            )
        )  # fmt: skip
        funnel = dict(open_dataset(folder).manifest["funnel"])
        return open_dataset(folder).content_hash, {"funnel": funnel, "num_bytes": result.num_bytes}

    def distill(self, folder: Path) -> tuple[str, dict[str, Any]]:
        """Choose the budget and split it into two stages."""
        recipe = self.recipe
        result = select(
            SelectConfig(
                corpus=self.out / "curate", out=folder, budget=recipe.budget, encoder=recipe.encoder,
                selector=recipe.selector, seed=recipe.seed,
            )
        )  # fmt: skip
        summary = {
            "available": result.num_available, "selected": result.num_selected, "stages": dict(result.stages),
            "encoder": result.encoder_label, "selector": recipe.selector, "budget": recipe.budget,
        }  # fmt: skip
        return open_dataset(folder).content_hash, summary

    def train(self, folder: Path) -> tuple[str, dict[str, Any]]:
        """Train stage 1, then stage 2."""
        recipe = self.recipe
        result = fit(
            TrainConfig(data=self.out / "distill", out=folder, model=recipe.model, steps=recipe.steps, seed=recipe.seed)
        )
        summary = {
            "model": result.model, "parameters": result.num_parameters, "steps": result.steps, "loss": result.loss,
            "seconds": dict(result.seconds),
        }  # fmt: skip
        return sha256_file(result.weights), summary

    def evaluate(self, folder: Path) -> tuple[str, dict[str, Any]]:
        """Measure every task on the held-out pictures."""
        recipe, scores = self.recipe, []
        for task in recipe.tasks:
            result = evaluate(
                EvaluateConfig(
                    run=self.out / "train", bench=self.out / "pictures" / "held-out", task=task, protocol=recipe.protocol
                )
            )  # fmt: skip
            write_bytes(folder / result.file.name, result.file.read_bytes())
            scores += [
                {
                    "picture": Path(image.name).stem, "task": task, "before_db": image.input["psnr_db"],
                    "after_db": image.output["psnr_db"], "before_ssim": image.input["ssim"], "after_ssim": image.output["ssim"],
                }
                for image in result.images
            ]  # fmt: skip
        return hash_files(sorted(folder.glob("*.json"))), {"scores": scores, "protocol": recipe.protocol}

    def restore(self, folder: Path) -> tuple[str, dict[str, Any]]:
        """Damage the held-out pictures into files, as a user's would be, and restore those files."""
        written = []
        for number, task in enumerate(self.recipe.tasks):
            degradation = make_degradation(task)
            for path in sorted((self.out / "pictures" / "held-out").iterdir()):
                rng = np.random.default_rng((self.recipe.seed, number))
                damaged = degradation.apply(to_pixels(decode_image(path.read_bytes())), rng)
                write_bytes(folder / "damaged" / task / f"{path.stem}.png", encode_image(to_levels(damaged), "png"))
            result = restore(
                RestoreConfig(run=self.out / "train", source=folder / "damaged" / task, out=folder / "restored" / task)
            )
            written += sorted(result.written)
        return hash_files(written), {"restored": [str(path.relative_to(folder)) for path in written]}


def run(recipe: Recipe, out: Path) -> RunResult:
    """Run a recipe from pictures to report; what has not changed is skipped, what was stopped resumes.

    Args:
        recipe: the whole way.
        out: the pipeline's folder; each step owns one folder below it.

    Raises:
        ToolkitError: whatever a step refuses; finished steps are kept.
    """
    with locked_output(out):
        way = Way(recipe, out)
        settings = to_plain(recipe)
        versions = {"versions": dict(tool_versions())}

        def step(name: str, fields: tuple[str, ...], *before: StepRecord) -> StepRecord:
            chosen: Mapping[str, Any] = {field: settings[field] for field in fields} | versions
            return run_step(out, name, dict(chosen), before, getattr(way, name))

        pictures = step("pictures", ("pictures", "held_out"))
        curated = step("curate", ("curate_recipe", "patch_size_px"), pictures)
        distilled = step("distill", ("budget", "encoder", "selector", "seed"), curated)
        trained = step("train", ("model", "steps", "seed"), distilled)
        evaluated = step("evaluate", ("tasks", "protocol"), pictures, trained)
        restored = step("restore", ("tasks", "seed"), pictures, trained)
        records = (pictures, curated, distilled, trained, evaluated, restored)
        report = write_report(recipe, out, records)
    first = restored.summary["restored"][0]
    scores = [{name: row[name] for name in Score.__slots__} for row in evaluated.summary["scores"]]
    return RunResult(
        out=out, report=report, restored=out / "restore" / first, protocol=recipe.protocol,
        scores=tuple(Score(**score) for score in scores), skipped=tuple(r.name for r in records if r.skipped),
    )  # fmt: skip

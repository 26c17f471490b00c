"""What a selection starts from: its plug-ins, and the features of the corpus, measured now or taken from `distill score`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate import Dataset, Encoder, load_encoder, open_dataset
from curate.core import plugins
from curate.core.config import build, to_plain
from curate.core.errors import ConfigError, ManifestError
from curate.core.records import TRAIN

from .blocks import available_cores
from .calibration import Calibrator, check_differentiable
from .features import Eyes, FeatureTable, Watch, measure_corpus
from .measure import Complexity
from .scores import measure_options, open_scores
from .selection import Selector
from .table import SUCCESS

if TYPE_CHECKING:
    from .subset import SelectConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The plug-ins of a run.

    Attributes:
        complexities: the complexity, then what the selector needs besides.
        selector: chooses.
        calibration: corrects.
    """

    complexities: tuple[Complexity, ...]
    selector: Selector
    calibration: Calibrator

    @classmethod
    def of(cls, config: SelectConfig) -> Parts:
        """Make them from their options; what the selector needs besides is taken as the scores were made."""
        selector: Selector = plugin("selectors", config.selector, config.selector_options)
        others = [name for name in selector.needs if name != config.complexity]
        made = {} if config.scores is None else measure_options(config.scores)
        return cls(
            complexities=(
                plugin("complexity", config.complexity, config.complexity_options),
                *(plugin("complexity", name, made.get(name, {})) for name in others),
            ),
            selector=selector,
            calibration=plugin("calibrate", config.calibrate, config.calibrate_options),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Where features come from.

    Attributes:
        parts: plug-ins.
        encoder: loaded; None where nothing has to be encoded.
        encoder_facts: name, label, hash and settings, for the manifest.
        scored: features and manifest of `distill score`, if given.
    """

    parts: Parts
    encoder: Encoder | None
    encoder_facts: Mapping[str, Any]
    scored: tuple[FeatureTable, dict[str, Any]] | None

    @classmethod
    def of(cls, config: SelectConfig, dataset: Dataset, parts: Parts) -> Known:
        """Load what is needed.

        Raises:
            ManifestError: the scores are of another corpus, or their encoder had other weights.
            ConfigError: the scores lack what the selection asks for, or the calibration cannot use the encoder.
            MissingDependencyError: the encoder's weights are not there.
        """
        scored = None if config.scores is None else _fitting(config, dataset, parts)
        encoder = None
        if scored is None or parts.calibration.differentiates:
            encoder = load_encoder(config.encoder, config.encoder_options)
        if parts.calibration.differentiates:
            check_differentiable(encoder, parts.calibration.name)
        if scored is None:
            assert encoder is not None
            facts = {"name": encoder.name, "label": encoder.label, "weights_sha256": encoder.weights_sha256}
            return cls(
                parts=parts, encoder=encoder, encoder_facts=facts | {"settings": dict(encoder.settings)}, scored=None
            )
        facts = scored[1]["encoder"]
        if encoder is not None and encoder.weights_sha256 != facts["weights_sha256"]:
            raise ManifestError(
                f"encoder {encoder.name} has weights {encoder.weights_sha256[:16]}, the scores in {config.scores} were made "
                f"with {facts['weights_sha256'][:16]}; give the same weights, or run distill score again into a new OUT"
            )
        return cls(parts=parts, encoder=encoder, encoder_facts=facts, scored=scored)

    def table(self, config: SelectConfig, dataset: Dataset, watch: Watch) -> tuple[FeatureTable, str]:
        """Measure, or take what was measured; the folder, relative to OUT, holds the features afterwards."""
        name = self.parts.complexities[0].name
        if self.scored is not None:
            table, manifest = self.scored
            assert config.scores is not None
            _link(config.scores / manifest["features"], config.out / manifest["features"])
            return table.seen_by(name), str(manifest["features"])
        assert self.encoder is not None
        eyes = Eyes(
            encoder=self.encoder, encoder_options=config.encoder_options, complexities=self.parts.complexities,
            config=config.features, workers=config.workers or available_cores(),
        )  # fmt: skip
        folder = Path("features", eyes.cache_name(dataset.content_hash))
        table = measure_corpus(dataset, eyes, config.out / folder, watch, engine=config.engine)
        return table, folder.as_posix()


def open_corpus(path: Path) -> Dataset:
    """Open the training split of a corpus; anything else is refused in one line."""
    dataset = open_dataset(path, split=TRAIN)
    if dataset.kind != "corpus":
        raise ConfigError(f"{path} is a {dataset.kind}; distill takes a corpus (curate build-shards makes one)")
    return dataset


def plugin(folder: str, name: str, options: Mapping[str, Any]) -> Any:
    """Make a plug-in of `distill` from its options."""
    return build(plugins.load(f"distill.{folder}", name), options, where=f"{folder}.{name}")


def device_of(name: str) -> str:
    """Say which device torch computes on: `auto` is a GPU where there is one. Loads torch only to ask for a GPU."""
    if name == "cpu":
        return name
    import torch

    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ConfigError("device cuda was asked for, and torch finds no GPU; choose cpu or auto")
    return "cuda" if there else "cpu"


def _fitting(config: SelectConfig, dataset: Dataset, parts: Parts) -> tuple[FeatureTable, dict[str, Any]]:
    """Open scores and check that they were made as this selection would make them."""
    assert config.scores is not None
    table, manifest = open_scores(config.scores, dataset)
    made = manifest["config"]
    wanted = {
        "encoder": config.encoder, "encoder_options": to_plain(config.encoder_options),
        "features": to_plain(config.features),
    }  # fmt: skip
    for name, value in wanted.items():
        if made[name] != value:
            raise ConfigError(
                f"{config.scores} was scored with {name} = {made[name]!r}, now {value!r}; leave it out, or score again"
            )
    for one in parts.complexities:
        if made["complexity_options"].get(one.name) != to_plain(one):
            has = ", ".join(manifest["complexities"])
            raise ConfigError(
                f"{config.scores} holds no {one.name} with these options (it holds {has}); run distill score with "
                f"--complexity {one.name} into a new OUT"
            )
    return table, manifest


def _link(source: Path, target: Path) -> None:
    """Give a finished feature folder to another OUT: hard links where the file system has them, copies elsewhere."""
    if (target / SUCCESS).is_file():
        return
    target.mkdir(parents=True, exist_ok=True)
    files = [path for path in source.iterdir() if path.is_file()]  # not what a measure prepared: it is of no use here
    for path in sorted(files, key=lambda path: path.name == SUCCESS):  # the mark last
        (target / path.name).unlink(missing_ok=True)
        try:
            os.link(path, target / path.name)
        except OSError:
            shutil.copy2(path, target / path.name)

"""Networks by name: one file per architecture; `NAME` or `NAME-VARIANT`, such as `dynet-tiny`, is `NAME.py` and its preset.

A model file defines a frozen `Config`, an `nn.Module` with `config_type`, `PRESETS` (variant -> Config), `TRAINING`
(variant -> TrainingDefaults) and `forward(x_BCHW, choice=None)`, and names that class `Plugin`; `choice` is what a call may
choose: reuse counts where `depths` is not empty, a head where `tasks` is not, and must where there are several heads
(`restoration/bound.py`). `load_published(state)`, where the class has it, takes what published checkpoints hold. Adding a
model is adding one such file (docs/models.md).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from curate.core import config as plain_config
from curate.core import plugins
from curate.core.errors import PluginError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingDefaults:
    """How a model is trained where the user says nothing.

    Attributes:
        peak_lr: AdamW's rate after the warm-up.
        batch_size: crops a step.
        crop_px: their side.
    """

    peak_lr: float
    batch_size: int
    crop_px: int


class ModelPlugin(Protocol):
    """What `Plugin` of a model file is: a class whose instances are modules."""

    config_type: ClassVar[type[Any]]
    PRESETS: ClassVar[Mapping[str, Any]]
    TRAINING: ClassVar[Mapping[str, TrainingDefaults]]

    def __call__(self, config: Any, /) -> Model:
        """Make the module with fresh weights."""
        ...


class Model(Protocol):
    """A restoration network: CHW float32 in [0, 1] in, the same out (not clamped), any height and width.

    A call takes (x_BCHW) or (x_BCHW, choice): see the module's docstring.

    Attributes:
        config: its frozen Config.
        depths: depth name -> reuse counts; empty where the depth cannot be chosen.
        reuse: the reuse counts of a call that names none; empty where the depth cannot be chosen.
        tasks: head -> how many times larger its output is; empty where one set of weights serves every task.
        align_px: sides are padded to a multiple of this inside; tiles of a large picture start at multiples of it.

    A part that looks at the whole picture also has the attribute `statistics`: see restoration/statistics.py.
    """

    config: Any
    depths: Mapping[str, tuple[int, ...]]
    reuse: tuple[int, ...]
    tasks: Mapping[str, int]
    align_px: int

    def __call__(self, x_BCHW: Tensor, choice: Any = None, /) -> Tensor:
        """Restore a batch."""
        ...


def model_names() -> tuple[str, ...]:
    """List every name `make_model` takes; imports the model files."""
    return tuple(sorted(_join(file, variant) for file in plugins.names(__name__) for variant in _plugin(file).PRESETS))


def preset(name: str) -> Any:
    """Return the Config of a named model.

    Raises:
        PluginError: no such model; lists near names.
    """
    file, _, variant = name.partition("-")
    if file in plugins.names(__name__) and variant in _plugin(file).PRESETS:
        return _plugin(file).PRESETS[variant]
    known = model_names()
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
    raise PluginError(f"no model called {name!r}; near names: {', '.join(near)}")


def training_defaults(name: str) -> TrainingDefaults:
    """Return how a named model is trained where the user says nothing.

    Raises:
        PluginError: no such model; lists near names.
    """
    preset(name)
    file, _, variant = name.partition("-")
    return _plugin(file).TRAINING[variant]


def make_model(name: str, config: Any = None) -> nn.Module:
    """Make a network with fresh weights (drawn from torch's global generator).

    Args:
        name: `dynet-s`, `dynet-l`, `dynet-tiny`, `tiny`, ...
        config: its Config, or the same as plain values; None takes the preset of that name.

    Returns:
        A module with `forward(x_BCHW, choice=None)`; see `Model`.

    Raises:
        PluginError: no such model; lists near names.
        ConfigError: `config` holds nonsense.

    Example:
        >>> sum(p.numel() for p in make_model("dynet-s").parameters())
        16613135
    """
    default = preset(name)
    plugin = _plugin(name.partition("-")[0])
    if isinstance(config, Mapping):
        config = plain_config.build(plugin.config_type, config, where=f"model {name}")
    module: Any = plugin(default if config is None else config)
    return module  # type: ignore[no-any-return]


def describe(name: str, model: nn.Module) -> dict[str, str]:
    """Write down what `make_model` needs to build this network again: the text metadata of a checkpoint."""
    return {"model": name, "config": json.dumps(plain_config.to_plain(model.config))}


def num_parameters(model: nn.Module) -> int:
    """Count the trainable values of a network."""
    return sum(parameter.numel() for parameter in model.parameters())


def channels_last(model: nn.Module) -> nn.Module:
    """Lay out the convolutions' weights channels-last, the order in which the blocks are fast (spec/performance.md)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    return model


def _plugin(file: str) -> ModelPlugin:
    plugin: ModelPlugin = plugins.load(__name__, file)
    return plugin


def _join(file: str, variant: str) -> str:
    return f"{file}-{variant}" if variant else file

"""Several degradations one after another, as data: order, odds and ranges come from a TOML file.

Source: spec/ipt.md 8.7 for the shipped chains (`chains/*.toml`). A chain is a group of steps in order `fixed`, `shuffled` or
`one_of` (by weight); a step is a degradation with settings, or again a group, each with a probability. Inside a chain `resize`
may leave the picture at another size (`back = false`); the last thing a chain does is to enlarge it bicubically to the size it
came with, clip, and round to 8 bits. Limit: the batch version goes picture by picture, as each takes its own way.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from curate.core import plugins
from curate.core.errors import ConfigError

from . import Degradation, Parameters, Pixels, Rng, check_pixels, clipped, render_drawn
from ._batch import batch_method
from ._chain_files import FOLDER, Step, read_chain
from ._draws import choose
from .resize import Plugin as Resize
from .resize import resized, resized_batch

ENLARGE_MODE = "bicubic"

DEFAULT = Step(
    steps=(
        Step(degradation="gaussian_blur"),
        Step(degradation="gaussian_noise", settings={"min_sigma_levels": 1.0, "max_sigma_levels": 25.0}),
        Step(degradation="jpeg", settings={"min_quality": 30, "max_quality": 95}),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A chain of degradations.

    Attributes:
        root: the outermost group; by default blur, noise and JPEG.
        target_scale: the chain's `target` size is the picture's divided by this; what `relative_to = "target"` refers to.
        round_levels: round the result to 8 bits.
    """

    name: ClassVar[str] = "chain"
    root: Step = DEFAULT
    target_scale: float = 1.0
    round_levels: bool = True

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 1 <= self.target_scale <= 8:
            raise ConfigError(f"chain.target_scale must be 1 to 8, got {self.target_scale}")
        if not self.root.steps:
            raise ConfigError("chain.root needs at least one step")

    def draw(self, rng: Rng, height: int, width: int) -> dict[str, Any]:
        """Draw which steps happen, in which order, and the parameters of each."""
        target = (max(1, round(height / self.target_scale)), max(1, round(width / self.target_scale)))
        size = (height, width)
        drawn = []
        for step in _chosen(self.root, rng):
            plugin = _load(step)
            if isinstance(plugin, Resize):
                parameters = plugin.draw_in_chain(rng, size, target)
                size = size if parameters["back"] else (parameters["height"], parameters["width"])
            else:
                parameters = plugin.draw(rng, *size)
            drawn.append({"degradation": step.degradation, "parameters": parameters})
        return {"steps": drawn, "round_levels": self.round_levels}

    def render(self, image_CHW: Pixels, parameters: Parameters) -> Pixels:
        """Return a copy that went through all drawn steps."""
        check_pixels(image_CHW, where=self.name)
        damaged = image_CHW
        for step in parameters["steps"]:
            damaged = plugin_of(step["degradation"]).render(damaged, step["parameters"])
        damaged = resized(damaged, image_CHW.shape[1], image_CHW.shape[2], ENLARGE_MODE)
        return clipped(np.rint(damaged * 255) / 255) if parameters["round_levels"] else damaged

    def apply(self, image_CHW: Pixels, rng: Rng) -> Pixels:
        """Return a damaged copy of a (3, H, W) float32 image."""
        return render_drawn(self, image_CHW, rng)

    @batch_method
    def render_batch(self, x_BCHW: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Return copies of a batch that went through their steps, picture by picture, on the device."""
        results = []
        for x_1CHW, values in zip(torch.split(x_BCHW, 1), parameters, strict=True):
            damaged = x_1CHW
            for step in values["steps"]:
                damaged = plugin_of(step["degradation"]).render_batch(damaged, [step["parameters"]])
            damaged = resized_batch(damaged, x_BCHW.shape[2], x_BCHW.shape[3], ENLARGE_MODE)
            results.append((damaged * 255).round() / 255 if values["round_levels"] else damaged)
        return torch.cat(results)


def load_chain(name_or_path: str) -> Plugin:
    """Make a chain from a TOML file.

    Args:
        name_or_path: of a shipped chain (`real_esrgan`, `bsrgan`; `-` may stand for `_`), or a path ending in .toml.

    Raises:
        ConfigError: no such file, or mistakes in it: one line each.
    """
    root, target_scale, round_levels = read_chain(name_or_path)
    return Plugin(root=root, target_scale=target_scale, round_levels=round_levels)


def shipped_chains() -> tuple[str, ...]:
    """List the chains that come with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


@functools.cache
def plugin_of(name: str) -> Degradation:
    """Make a degradation with its own settings: enough to replay what was drawn."""
    plugin: Degradation = plugins.load(__package__, name)()
    return plugin


def _load(step: Step) -> Degradation:
    plugin: Degradation = step.plugin()
    return plugin


def _chosen(step: Step, rng: Rng) -> list[Step]:
    """List the leaves that happen, in the order in which they do."""
    if step.probability < 1 and not rng.uniform() < step.probability:
        return []
    if step.degradation:
        return [step]
    if step.order == "one_of":
        place = choose(rng, [str(n) for n in range(len(step.steps))], [inner.weight for inner in step.steps])
        return _chosen(step.steps[int(place)], rng)
    order = _shuffled(step.steps, rng) if step.order == "shuffled" else step.steps
    return [leaf for inner in order for leaf in _chosen(inner, rng)]


def _shuffled(steps: tuple[Step, ...], rng: Rng) -> list[Step]:
    """Shuffle; steps marked `keep_order` share out the places they fell on in the file's order."""
    order = np.argsort([rng.uniform() for _ in steps], kind="stable").tolist()
    kept = iter(sorted(number for number in order if steps[number].keep_order))
    return [steps[next(kept)] if steps[number].keep_order else steps[number] for number in order]

"""Metrics beside PSNR and SSIM, asked for by name (`--metrics niqe,lpips`), one file each: `class Plugin`.

They see pictures as the protocol judged them (clamped, rounded if it rounds), RGB, without a border cut. `measure` is called
from several threads. Adding a metric is adding a file; the contract test finds it by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Protocol

import numpy as np

from curate.core import plugins
from curate.core.errors import ConfigError

from ..degradations import Pixels

_PROBE_PX = 128  # side of the picture that a metric is tried on


class ExtraMetric(Protocol):
    """What every `Plugin` of this folder is.

    Attributes:
        name: its column.
        words: what it is, its unit and which way is better: stands in every output.
    """

    name: ClassVar[str]
    words: ClassVar[str]

    def measure(self, image_CHW: Pixels, target_CHW: Pixels) -> float | None:
        """Return its number; None for a picture it cannot measure."""
        ...


def load_metrics(names: Iterable[str]) -> tuple[ExtraMetric, ...]:
    """Load metrics and try each on a made picture, so that what is missing shows before any network runs.

    Raises:
        PluginError: no such metric; lists near names.
        ConfigError: one was named twice.
        MissingDependencyError: its package or weights are missing; says how to get them.
    """
    wanted = tuple(names)
    if len(set(wanted)) < len(wanted):
        raise ConfigError(f"metrics name one twice: {', '.join(wanted)}")
    loaded: tuple[ExtraMetric, ...] = tuple(plugins.load(__name__, name)() for name in wanted)
    probe = np.random.default_rng(0).random((3, _PROBE_PX, _PROBE_PX), dtype=np.float32)
    for metric in loaded:
        metric.measure(probe, probe)
    return loaded

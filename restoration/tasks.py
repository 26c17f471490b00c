"""Names of tasks: `noise25`, `jpeg10`, `sr2`, and ranges for training such as `noise0-50`. What each does to a clean picture.

`noiseN` is Gaussian noise of N levels, clipped and floored to 8 bits; `jpegN` is JPEG of quality N, chroma 4:2:0; `srN` is
MATLAB bicubic down by N and up again at the fixed size. `rain`, `haze` and `lowlight` are measured on pairs only.
"""

from __future__ import annotations

import functools
import re

from curate.core import plugins
from curate.core.errors import ConfigError, PluginError

from .degradations import Degradation

TASKS = ("noise15", "noise25", "noise50", "jpeg10", "jpeg20", "jpeg30", "jpeg40", "sr2")
PAIR_TASKS = ("rain", "haze", "lowlight")
_PATTERN = re.compile(r"^(noise|jpeg|sr)(\d{1,3})(?:-(\d{1,3}))?$")


@functools.cache
def make_degradation(task: str) -> Degradation:
    """Turn a task's name into its degradation.

    Args:
        task: `noise25`, `jpeg10`, `sr2`; with a range (`noise0-50`, `jpeg10-40`) the strength is drawn per picture.

    Raises:
        PluginError: no such task.
        ConfigError: a strength outside its range.
    """
    match = _PATTERN.match(task)
    if match is None:
        raise PluginError(
            f"no task called {task!r}; known: {', '.join(TASKS)}, and ranges such as noise0-50 or jpeg10-40"
        )
    kind, low = match[1], int(match[2])
    high = int(match[3]) if match[3] else low
    if kind == "noise":
        plugin: Degradation = _load("gaussian_noise")(min_sigma_levels=float(low), max_sigma_levels=float(high))
        return plugin
    if kind == "jpeg":
        plugin = _load("jpeg")(min_quality=low, max_quality=high)
        return plugin
    if match[3]:
        raise ConfigError(f"task {task!r}: a scale cannot be a range")
    plugin = _load("bicubic")(scale=low)
    return plugin


def _load(name: str) -> type:
    plugin: type = plugins.load("restoration.degradations", name)
    return plugin

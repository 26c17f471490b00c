"""Names of tasks, and what each does to a clean picture: `noise25`, `jpeg10`, `sr2`, `rain`, ranges such as `noise0-50`.

`noiseN` is Gaussian noise of N levels, clipped and floored to 8 bits; `jpegN` is JPEG of quality N, chroma 4:2:0; `webpN` is
WebP; `srN` is MATLAB bicubic down by N and up again at the fixed size. `rain`, `haze` and `lowlight` are made up in training
and measured on pairs. `real-esrgan`, `bsrgan` and `chain:FILE.toml` are chains; any file of `degradations/` is a task by its
own name, at its default strength.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from typing import Any

from curate.core import plugins
from curate.core.config import config_hash, to_plain
from curate.core.errors import ConfigError, PluginError

from .degradations import Degradation, Parameters, Pixels

TASKS = ("noise15", "noise25", "noise50", "jpeg10", "jpeg20", "jpeg30", "jpeg40", "sr2", "sr3", "sr4")
PAIR_TASKS = ("rain", "haze", "lowlight")
NAMED: Mapping[str, str] = {
    "rain": "rain", "haze": "haze", "lowlight": "low_light", "snow": "snow", "blur": "gaussian_blur",
    "motion": "motion_blur", "defocus": "defocus_blur", "ringing": "sinc", "impulses": "salt_and_pepper",
    "mask": "mask_cells",
}  # fmt: skip
FOLDER = "restoration.degradations"
CHAIN = "chain"
CHAIN_PREFIX = f"{CHAIN}:"
_PATTERN = re.compile(r"^(noise|jpeg|webp|sr)(\d{1,3})(?:-(\d{1,3}))?$")


def make_degradation(task: str) -> Degradation:
    """Turn a task's name into its degradation.

    Args:
        task: `noise25`, `jpeg10`, `sr2`, `rain`, `rain-heavy`, `real-esrgan`, `chain:mine.toml`, ...; with a range
            (`noise0-50`, `jpeg10-40`) the strength is drawn per picture.

    Raises:
        PluginError: no such task.
        ConfigError: a strength outside its range, or mistakes in a chain's file.
    """
    if task.startswith(CHAIN_PREFIX):
        return _chain(task.removeprefix(CHAIN_PREFIX))  # read again: the file may have changed
    return _make(task)


def replay(name: str, image_CHW: Pixels, parameters: Parameters) -> Pixels:
    """Damage a picture exactly as recorded: `name` of a file of `degradations/`, parameters as its `draw` gave them.

    Raises:
        PluginError: no such degradation.
        ConfigError: the parameters are not this degradation's.
        ImageError: not a picture.
    """
    try:
        return plugin_by_name(name).render(image_CHW, parameters)
    except KeyError as error:
        raise ConfigError(f"the recorded parameters of {name} lack {error.args[0]!r}: {dict(parameters)}") from error


def plugin_by_name(name: str, **settings: Any) -> Degradation:
    """Make the degradation of a file, with its defaults where no setting says otherwise."""
    plugin: Degradation = plugins.load(FOLDER, name)(**settings)
    return plugin


def settings_hash(degradation: Degradation) -> str:
    """Hash every setting of a degradation; of a chain all that its file says."""
    return config_hash(to_plain(degradation))


def task_words() -> tuple[str, ...]:
    """List what `make_degradation` knows, apart from ranges and chains of one's own."""
    from .degradations.chain import shipped_chains

    chains = [name.replace("_", "-") for name in shipped_chains()]
    return (*TASKS, *NAMED, "rain-heavy", *chains, *(name for name in plugins.names(FOLDER) if name not in NAMED))


@functools.cache
def _make(task: str) -> Degradation:
    match = _PATTERN.match(task)
    if match is not None:
        return _with_strength(task, match[1], int(match[2]), int(match[3]) if match[3] else None)
    if task in NAMED:
        return plugin_by_name(NAMED[task])
    if task == "rain-heavy":
        from .degradations.rain import PRESETS

        return plugin_by_name("rain", **PRESETS["heavy"])
    if task.replace("-", "_") in plugins.names(FOLDER):
        return plugin_by_name(task)
    if _is_chain(task):
        return _chain(task)
    words = task_words()
    near = difflib.get_close_matches(task, words, n=3, cutoff=0.6)
    raise PluginError(
        f"no task called {task!r}; {'near names: ' + ', '.join(near) + '; ' if near else ''}"
        f"known: {', '.join(words)}, ranges such as noise0-50 or jpeg10-40, and chain:FILE.toml"
    )


def _with_strength(task: str, kind: str, low: int, high: int | None) -> Degradation:
    if kind == "sr":
        if high is not None:
            raise ConfigError(f"task {task!r}: a scale cannot be a range")
        return plugin_by_name("bicubic", scale=low)
    top = low if high is None else high
    if kind == "noise":
        return plugin_by_name("gaussian_noise", min_sigma_levels=float(low), max_sigma_levels=float(top))
    return plugin_by_name(kind, min_quality=low, max_quality=top)


def _is_chain(task: str) -> bool:
    from .degradations.chain import shipped_chains

    return task.replace("-", "_") in shipped_chains()


def _chain(name_or_path: str) -> Degradation:
    from .degradations.chain import load_chain

    return load_chain(name_or_path)

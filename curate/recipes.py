"""Named recipes: which scores are measured, which of them gate, and at what threshold. A TOML file can say the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .core import config, plugins
from .core.errors import ConfigError
from .core.records import Score, Verdict
from .dedup.rules import Dedup
from .grid import Grid
from .splits import BY
from .view import View

LEVELS = ("image", "patch")
PRESETS = Path(__file__).with_name("presets")


class Filter(Protocol):
    """What a file in `curate/filters/` provides as `Plugin`: `measure` sees no threshold, `judge` sees no pixel."""

    @property
    def name(self) -> str:
        """Equal to the file's name."""
        ...

    @property
    def level(self) -> str:
        """`image` or `patch`: what `measure` is called with."""
        ...

    @property
    def columns(self) -> Mapping[str, type]:
        """Names and types of the scores."""
        ...

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return one value per column; None where it cannot be measured."""
        ...

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Decide from the scores alone."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One way to choose pixels.

    Attributes:
        name: what reports call it.
        measure: filters whose scores are stored, in order.
        gates: those of them that may reject, in order; the first that does gives the reason.
        thresholds: filter name -> its fields, where they differ from the filter's defaults.
        grid: where patches are cut.
        drop_same_pixels: of inputs with equal pixels keep the first; costs decoding colour. Equal bytes always go.
        phash: store perceptual hashes of each patch.
        dedup: which near-duplicates go.
        split_by: what `--split` keeps together beside near-duplicates: `author` (a list's column), `host`.
    """

    name: str
    measure: tuple[str, ...]
    gates: tuple[str, ...] = ()
    thresholds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    grid: Grid = field(default_factory=Grid)
    drop_same_pixels: bool = True
    phash: bool = True
    dedup: Dedup = field(default_factory=Dedup)
    split_by: tuple[str, ...] = BY

    def __post_init__(self) -> None:
        """Check names and build every filter once, so that a bad threshold is found before any picture is opened."""
        for group, names in (("gates", self.gates), ("thresholds", self.thresholds)):
            unknown = [name for name in names if name not in self.measure]
            if unknown:
                raise ConfigError(
                    f"recipe {self.name}: {group} names {unknown[0]!r}, which is not in measure {self.measure}"
                )
        unknown = [name for name in self.split_by if name not in BY]
        if unknown:
            raise ConfigError(f"recipe {self.name}: split_by must name some of {', '.join(BY)}, got {unknown[0]!r}")
        self.filters()

    def filters(self) -> tuple[Filter, ...]:
        """Build the measured filters with this recipe's thresholds."""
        built = []
        for name in self.measure:
            plugin = plugins.load("curate.filters", name)
            values = self.thresholds.get(name, {})
            built.append(config.build(plugin, values, where=f"recipe {self.name}: {name}"))
        return tuple(built)


def preset_names() -> tuple[str, ...]:
    """List the recipes that come with the package (`curate/presets/NAME.toml`)."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.toml")))


def load_recipe(name: str, *, patch_size_px: int) -> Recipe:
    """Get a recipe by name or from a TOML file (`measure`, `gates`, `[thresholds.FILTER]`, `[grid]`, ...).

    A recipe that measures `resolution` and does not say `min_side_px` asks for one patch of `patch_size_px`.

    Raises:
        ConfigError: no such recipe or file, or a bad value in it.
    """
    if not name.endswith(".toml") and name not in preset_names():
        raise ConfigError(f"recipe must be one of {', '.join(preset_names())} or a FILE.toml, got {name!r}")
    path = Path(name) if name.endswith(".toml") else PRESETS / f"{name}.toml"
    values = {"name": path.stem} | config.read_toml(path)
    recipe = config.build(Recipe, values, where=name)
    if "resolution" not in recipe.measure:
        return recipe
    size = {"min_side_px": patch_size_px} | dict(recipe.thresholds.get("resolution", {}))
    return dataclasses.replace(recipe, thresholds={**recipe.thresholds, "resolution": size})

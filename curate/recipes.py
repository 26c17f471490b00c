"""Named recipes: which scores are measured, which of them gate, and at what threshold. A TOML file can say the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .core import config, plugins
from .core.errors import ConfigError
from .core.records import Score, Verdict
from .grid import Grid
from .view import View

LEVELS = ("image", "patch")


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
        phash: store a perceptual hash of each patch.
    """

    name: str
    measure: tuple[str, ...] = ("resolution", "aspect", "noise_sigma", "lsdir_vote", "flat_area", "sharpness")
    gates: tuple[str, ...] = ()
    thresholds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    grid: Grid = field(default_factory=Grid)
    drop_same_pixels: bool = True
    phash: bool = True

    def __post_init__(self) -> None:
        """Check names and build every filter once, so that a bad threshold is found before any picture is opened."""
        for group, names in (("gates", self.gates), ("thresholds", self.thresholds)):
            unknown = [name for name in names if name not in self.measure]
            if unknown:
                raise ConfigError(
                    f"recipe {self.name}: {group} names {unknown[0]!r}, which is not in measure {self.measure}"
                )
        self.filters()

    def filters(self) -> tuple[Filter, ...]:
        """Build the measured filters with this recipe's thresholds."""
        built = []
        for name in self.measure:
            plugin = plugins.load("curate.filters", name)
            values = self.thresholds.get(name, {})
            built.append(config.build(plugin, values, where=f"recipe {self.name}: {name}"))
        return tuple(built)


def photographs(patch_size_px: int) -> Recipe:
    """Our default: photographs with detail in focus; noise-aware flat and blur gates per patch."""
    thresholds = {"resolution": {"min_side_px": patch_size_px}}
    return Recipe(
        name="photographs",
        gates=("resolution", "aspect", "noise_sigma", "flat_area", "sharpness"),
        thresholds=thresholds,
    )


def lsdir(patch_size_px: int) -> Recipe:
    """The numbers of LSDIR's crawling tool: shorter side >= 2160, aspect <= 2, blur window and flat vote at scale 1/4."""
    thresholds: dict[str, dict[str, Any]] = {
        "resolution": {"min_side_px": max(2160, patch_size_px)},
        "aspect": {"max_aspect": 2.0},
    }
    return Recipe(name="lsdir", gates=("resolution", "aspect", "lsdir_vote"), thresholds=thresholds)


def usual(patch_size_px: int) -> Recipe:
    """What a practitioner's script does: Var(Laplacian) >= 20 per patch, a perceptual hash, no other gate or score."""
    thresholds = {"laplacian": {"min_laplacian_variance": 20.0}}
    return Recipe(
        name="usual", measure=("laplacian",), gates=("laplacian",), thresholds=thresholds, drop_same_pixels=False
    )


def everything(patch_size_px: int) -> Recipe:
    """No gate: every whole patch of every readable picture, all scores stored; duplicates still go."""
    return Recipe(name="everything")


NAMED = {"photographs": photographs, "usual": usual, "lsdir": lsdir, "everything": everything}


def load_recipe(name: str, *, patch_size_px: int) -> Recipe:
    """Get a recipe by name or from a TOML file (`name`, `measure`, `gates`, `[thresholds.FILTER]`).

    Raises:
        ConfigError: no such recipe or file, or a bad value in it.
    """
    if name in NAMED:
        return NAMED[name](patch_size_px)
    if name.endswith(".toml"):
        return config.build(Recipe, {"name": Path(name).stem} | config.read_toml(Path(name)), where=name)
    raise ConfigError(f"recipe must be one of {', '.join(NAMED)} or a FILE.toml, got {name!r}")

"""What a pipeline recipe says, and how one is found by name."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from curate.core import plugins
from curate.core.errors import ConfigError, PluginError


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundled:
    """A picture that an installed Python package ships: `package` is its import name, `file` a path inside it."""

    package: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The whole way, with every number that matters to its result.

    Attributes:
        name: what reports call it.
        pictures: what the corpus is built from.
        held_out: pictures kept out of it, for the numbers.
        remarks: sentences the report must show, so that nobody takes a demo for a result.
        extra: pip extra that brings the packages of `pictures`.
        curate_recipe: see `curate build-shards --recipe`.
        patch_size_px: side of the patches.
        budget: see `distill select --budget`.
        encoder: see `distill select --encoder`.
        selector: see `distill select --selector`.
        model: see `restoration train --model`.
        steps: of training.
        tasks: evaluated on the held-out pictures.
        protocol: of the evaluation.
        seed: root of every random draw.
    """

    name: str
    pictures: tuple[Bundled, ...]
    held_out: tuple[Bundled, ...]
    remarks: tuple[str, ...] = ()
    extra: str = ""
    curate_recipe: str = "photographs"
    patch_size_px: int = 512
    budget: str = "2%"
    encoder: str = "vit_s14"
    selector: str = "strat_fl"
    model: str = "dynet-tiny"
    steps: int = 300
    tasks: tuple[str, ...] = ("noise25", "jpeg10", "sr2")
    protocol: str = "promptir"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what no later step would."""
        both = set(self.pictures) & set(self.held_out)
        if both:
            raise ConfigError(f"recipe {self.name}: {sorted(b.file for b in both)} are both in the corpus and held out")
        if not self.pictures or not self.held_out or not self.tasks:
            raise ConfigError(f"recipe {self.name}: wanted at least one picture, one held-out picture and one task")


def load_recipe(name: str) -> Recipe:
    """Get a recipe of `pipelines/recipes/` by its file's name.

    Raises:
        PluginError: no such recipe; lists the known ones.
    """
    known = plugins.names("pipelines.recipes")
    if name.replace("-", "_") not in known:
        raise PluginError(f"no pipeline recipe called {name!r}; known: {', '.join(known)}")
    module = importlib.import_module(f"pipelines.recipes.{name.replace('-', '_')}")
    recipe = module.recipe()
    assert isinstance(recipe, Recipe), "a recipe file returns a Recipe"
    return recipe

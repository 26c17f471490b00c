"""The whole way in one recipe: curate -> distill -> train -> evaluate -> restore -> report. Nothing imports this package."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .recipe import Recipe, load_recipe
    from .way import RunResult, run

__distribution__ = "irdistill"
_HOMES = {"Recipe": "recipe", "load_recipe": "recipe", "RunResult": "way", "run": "way"}
__all__ = ["Recipe", "load_recipe", "RunResult", "run"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import pipelines` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pipelines' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)

"""Which few per cent of a corpus teach the most? ViT complexity -> budgeted subset -> two-stage curriculum shards."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .budget import count_budget
    from .comparison import CompareConfig, compare
    from .curriculum import CurriculumConfig
    from .features import FeaturesConfig
    from .scores import ScoreConfig, score
    from .selection import Features, Selection
    from .subset import SelectConfig, SelectResult, select

__distribution__ = "irdistill"
_HOMES = {
    "count_budget": "budget",
    "CurriculumConfig": "curriculum",
    "FeaturesConfig": "features",
    "Features": "selection",
    "Selection": "selection",
    "SelectConfig": "subset",
    "SelectResult": "subset",
    "select": "subset",
    "score": "scores",
    "ScoreConfig": "scores",
    "compare": "comparison",
    "CompareConfig": "comparison",
}
__all__ = [
    "select", "SelectConfig", "SelectResult", "FeaturesConfig", "CurriculumConfig", "count_budget", "Features",
    "Selection", "score", "ScoreConfig", "compare", "CompareConfig",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import distill` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'distill' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)

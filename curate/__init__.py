"""Which pixels are worth keeping? Folders of photographs -> filtered, deduplicated patches in WebDataset shards."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .build import BuildShardsConfig, build_shards
    from .dataset import Dataset, open_dataset
    from .encoders._loading import Encoder, load_encoder
    from .refilter import FilterConfig, filter_corpus
    from .report_page import write_report
    from .shards import read_shard
    from .verify import verify_corpus
    from .why import explain

__distribution__ = "irdistill"
_HOMES = {
    "BuildShardsConfig": "build",
    "build_shards": "build",
    "Dataset": "dataset",
    "open_dataset": "dataset",
    "Encoder": "encoders._loading",
    "load_encoder": "encoders._loading",
    "FilterConfig": "refilter",
    "filter_corpus": "refilter",
    "explain": "why",
    "write_report": "report_page",
    "read_shard": "shards",
    "verify_corpus": "verify",
}
__all__ = [
    "BuildShardsConfig", "build_shards", "Dataset", "open_dataset", "Encoder", "load_encoder",
    "FilterConfig", "filter_corpus", "explain", "write_report",
    "read_shard", "verify_corpus",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import curate` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'curate' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)

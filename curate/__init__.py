"""Which pixels are worth keeping? Folders of photographs -> filtered, deduplicated patches in WebDataset shards."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .build import BuildShardsConfig, BuildShardsResult, build_shards
    from .dataset import Dataset, open_dataset
    from .encoders._loading import Encoder, load_encoder
    from .refilter import FilterConfig, FilterResult, filter_corpus
    from .report_page import write_report
    from .shards import ShardWriter, patch_key, read_shard
    from .verify import VerifyResult, verify_corpus
    from .why import Explanation, explain

__distribution__ = "irdistill"
_HOMES = {
    "BuildShardsConfig": "build",
    "BuildShardsResult": "build",
    "build_shards": "build",
    "Dataset": "dataset",
    "open_dataset": "dataset",
    "Encoder": "encoders._loading",
    "load_encoder": "encoders._loading",
    "FilterConfig": "refilter",
    "FilterResult": "refilter",
    "filter_corpus": "refilter",
    "Explanation": "why",
    "explain": "why",
    "write_report": "report_page",
    "ShardWriter": "shards",
    "patch_key": "shards",
    "read_shard": "shards",
    "VerifyResult": "verify",
    "verify_corpus": "verify",
}
__all__ = [
    "BuildShardsConfig", "BuildShardsResult", "build_shards", "Dataset", "open_dataset", "Encoder", "load_encoder",
    "FilterConfig", "FilterResult", "filter_corpus", "Explanation", "explain", "write_report",
    "ShardWriter", "patch_key", "read_shard", "VerifyResult", "verify_corpus",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import curate` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'curate' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)

"""Which patches belong together: those of one clean photograph, or of whatever a pattern names (a video, a scene).

A pair's key hashes both of its files, so that patches of one clean picture under three hazes begin with three keys: the group
is taken from the corpus's tables, by the hash of the clean file. Caps, folds and the count of photographs go by it.

Source: spec/tripled.md section 4 (g_i: clean-image id of RESIDE, video id of GoPro, else the picture itself).
"""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate import Dataset
from curate.core.errors import ConfigError

from .selection import Indices


def check_pattern(pattern: str) -> None:
    """Refuse what is no regular expression, or one with several groups.

    Raises:
        ConfigError: names the fault.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"features.group_pattern is no regular expression: {error}, got {pattern!r}") from error
    if compiled.groups > 1:
        raise ConfigError(f"features.group_pattern must have at most one (group), got {compiled.groups} in {pattern!r}")


def groups_of(dataset: Dataset, pattern: str = "") -> Indices:
    """Number the groups of a corpus's patches.

    Args:
        dataset: the corpus.
        pattern: regular expression looked for in a picture's `source`; what its (group) says, or all that fits, is the
            group's name. Pictures it does not fit stay groups of their own. "": every clean picture is a group.

    Returns:
        (N,) int64 in key order, equal for patches that belong together; numbers rise with the hash of the clean file.

    Raises:
        ConfigError: the pattern fits no picture.
        ManifestError: a table of the corpus is damaged.
    """
    columns = ["key", "image_sha256", *(["source"] if pattern else [])]
    table = dataset.rows(columns).sort_by("key")
    names = table.column("image_sha256").combine_chunks()
    if pattern:
        names = pc.coalesce(_named(table.column("source").combine_chunks(), pattern), names)
    encoded = names.dictionary_encode()
    rank = np.argsort(np.argsort(np.array(encoded.dictionary.to_pylist())))
    return np.asarray(rank[encoded.indices.to_numpy()], dtype=np.int64)


def _named(sources: pa.Array, pattern: str) -> pa.Array:
    """Say each row's group by its source; null where the pattern does not fit."""
    encoded, compiled = sources.dictionary_encode(), re.compile(pattern)
    found = [compiled.search(source) for source in encoded.dictionary.to_pylist()]
    if not any(found):
        raise ConfigError(
            f"features.group_pattern: no picture's source fits {pattern!r}, not even {sources[0].as_py()!r}"
        )
    names = [None if one is None else f"named {one[compiled.groups]}" for one in found]
    return pa.array(names, pa.string()).take(encoded.indices)

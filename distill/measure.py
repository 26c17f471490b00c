"""What a complexity measure sees and answers: one file of `distill/complexity` each.

A measure has three parts, so that every kind fits. `prepare` may train or load something once for the whole corpus (a small
network, other backbones) and keeps it in a folder, where workers and resumed runs find it. `measure` looks at a batch of
patches and gives a few numbers each; these are cached. `finish` sees the numbers of the whole corpus and turns them into one
score a patch: weights, heads fitted over the corpus and the like change without looking at pixels again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from curate import Dataset
from curate.core.records import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """A batch of patches, with the views that the encoder saw.

    Attributes:
        clean: native pixels, (H, W, 3) uint8 RGB each; sizes may differ.
        degraded: the lq member of a pair; the same object as `clean` where there is none.
        views: (V, S, S, 3) uint8; a patch's global view first, then its crops. Global views only where the measure looks
            at no tokens.
        tokens: (V, T, D) float32, the encoder's patch tokens of each view.
        owner: (V,) int64, the patch that a view shows: 0..len(clean) - 1, rising.
        is_global: (V,) bool.
    """

    clean: Sequence[Image]
    degraded: Sequence[Image]
    views: NDArray[np.uint8]
    tokens: NDArray[np.float32]
    owner: NDArray[np.int64]
    is_global: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One number a patch.

    Attributes:
        complexity: (N,) float64, higher = more complex; 0 for one colour.
        uncertainty: (N,) float64 prior of the training's uncertainty; None where the measure has none.
    """

    complexity: NDArray[np.float64]
    uncertainty: NDArray[np.float64] | None = None


Look = Callable[[Patches], NDArray[np.floating]]  # -> (len(clean), len(values)) float64; float32 where K is large


class Complexity(Protocol):
    """A plug-in of `distill.complexity`."""

    @property
    def name(self) -> str:
        """The file's name."""
        ...

    @property
    def uses_torch(self) -> bool:
        """Whether looking computes with torch."""
        ...

    @property
    def looks_at_tokens(self) -> bool:
        """Whether it needs the encoder's tokens of all views; else only the global view is encoded."""
        ...

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the numbers that looking gives for a patch."""
        ...

    def prepare(self, corpus: Dataset, folder: Path) -> Look:
        """Load, or train and keep in `folder`, what looking needs; called again by every worker.

        Raises:
            MissingDependencyError: weights or libraries are not there; the message names what brings them.
        """
        ...

    def finish(self, values_NK: NDArray[Any], groups_N: NDArray[np.int64]) -> Scores:
        """Turn the corpus's numbers into scores. Pure.

        Args:
            values_NK: one row a patch, in key order, as `look` gave them; may be a memory map: read it in blocks if K is large.
            groups_N: (N,) int64, equal for patches of one photograph.
        """
        ...

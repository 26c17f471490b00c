"""Choose what a small network finds hard, without the very hardest.

The losses come from `distill.complexity.network_loss`, which trains the network first.

Source: Moser, Raue, Dengel, arXiv 2403.17083: sort by the loss of a small pre-trained network, drop the hardest 5 %, keep the
hardest of the rest; spec/tripled.md sections 2b and 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ConfigError

from ..selection import Features, Indices, Selection, check_request, measure_of
from ..strata import without_ends

_LOSS = "network_loss"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Hardest first, after a cut.

    Attributes:
        tail_cut_frac: share of the hardest rows never chosen; less where the budget needs them.
    """

    name: ClassVar[str] = "moser_loss"
    needs: ClassVar[tuple[str, ...]] = (_LOSS,)
    tail_cut_frac: float = 0.05  # Moser et al.

    def __post_init__(self) -> None:
        if not 0 <= self.tail_cut_frac < 1:
            raise ConfigError(f"moser_loss.tail_cut_frac must lie in [0, 1), got {self.tail_cut_frac}")

    def select(
        self, features: Features, scores: NDArray[np.float64], groups: Indices, num: int, rng: np.random.Generator
    ) -> Selection:
        """Choose the `num` largest losses below the cut; of equal losses the earlier key.

        Raises:
            ConfigError: the losses were not measured.
        """
        check_request(features, scores, groups, num)
        losses = measure_of(features, _LOSS, self.name)
        kept = np.sort(without_ends(losses, 0.0, self.tail_cut_frac, num))
        return Selection.plain(kept[np.argsort(-losses[kept], kind="stable")[:num]])

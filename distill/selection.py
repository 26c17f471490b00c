"""What a selector sees and what it answers: arrays with one row per patch, sorted by key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import BudgetError, ConfigError, NumericsError

from .blocks import first_not_finite

Indices = NDArray[np.int64]


class NotFiniteError(NumericsError):
    """A row or a score is NaN or infinite; whoever knows the keys says of which patch.

    Attributes:
        what: `rows`, `complexity`, ...
        row: the first such patch, counted as the selector was given them.
    """

    def __init__(self, what: str, row: int) -> None:
        super().__init__(
            f"selector: {what} of patch {row} (counted from 0 in key order) hold NaN or infinity; "
            "measure this patch again or drop it from the corpus"
        )
        self.what, self.row = what, row


NO_STRATUM = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What is known of N patches, row i of each array being patch i in key order.

    Attributes:
        rows: (N, D) float16 or float32, what an encoder says of the whole patch; may be a memory map: read it in blocks.
        descriptors: (N, L) float32, brightness, contrast and detail (`distill.descriptors`): L = 8, of pairs 15.
        measures: name of a file of `distill.complexity` -> (N,) float64, for selectors that `need` more than the complexity.
    """

    rows: NDArray[np.floating]
    descriptors: NDArray[np.float32]
    measures: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The answer, in the order of picking.

    Attributes:
        indices: (num,) int64, unique.
        strata: (num,) int64, the complexity stratum of each pick, 0 = simplest; -1 where a selector has none.
        gains: (num,) float64, what each pick added when it was picked; 0 where a selector measures none.
    """

    indices: Indices
    strata: Indices
    gains: NDArray[np.float64]

    @classmethod
    def plain(cls, indices: NDArray[np.integer]) -> Selection:
        """Make a selection without strata and gains."""
        num = len(indices)
        return cls(indices=indices.astype(np.int64), strata=np.full(num, NO_STRATUM, np.int64), gains=np.zeros(num))


class Selector(Protocol):
    """Chooses exactly `num` of N patches. Pure: the same arrays and generator state give the same answer."""

    @property
    def name(self) -> str:
        """The file's name."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Files of `distill.complexity` whose scores it reads from `Features.measures`."""
        ...

    def select(
        self, features: Features, scores: NDArray[np.float64], groups: Indices, num: int, rng: np.random.Generator
    ) -> Selection:
        """Choose.

        Args:
            features: N rows, sorted by key by the caller: ties are broken by position, so by key. Not modified.
            scores: (N,) complexity, higher = more complex. Not modified.
            groups: (N,) int64, equal for patches of one photograph. Not modified.
            num: how many, 1..N.
            rng: the only source of randomness.
        """
        ...


def check_request(features: Features, scores: NDArray[np.float64], groups: Indices, num: int) -> None:
    """Refuse what no selector can work with; encoder rows are read once, in blocks.

    Raises:
        BudgetError: the arrays differ in length or hold fewer than `num` rows, or num < 1.
        NumericsError: NaN or infinity in rows, descriptors, scores or measures; names the first bad row.
    """
    lengths = {len(features), len(features.descriptors), len(scores), len(groups)}
    if len(lengths) != 1:
        raise BudgetError(f"selector: rows, descriptors, scores and groups must have one length, got {sorted(lengths)}")
    if not 1 <= num <= len(features):
        raise BudgetError(f"selector: num must be in [1, {len(features)}], got {num}")
    named = {"rows": features.rows, "descriptors": features.descriptors, "scores": scores}
    for name, values in named.items():
        _check_finite(name, values)


def measure_of(features: Features, name: str, selector: str) -> NDArray[np.float64]:
    """Return the scores that a selector needs besides the complexity.

    Raises:
        ConfigError: nobody measured them.
        BudgetError: not one a row.
        NumericsError: one is not finite.
    """
    values = features.measures.get(name)
    if values is None:
        known = ", ".join(sorted(features.measures)) or "none"
        raise ConfigError(
            f"selector {selector} needs the scores of complexity {name}, measured are: {known}; "
            f"measure them (distill score --complexity {name}) or choose another selector"
        )
    if len(values) != len(features):
        raise BudgetError(f"selector {selector}: {name} has {len(values)} scores of {len(features)} patches")
    _check_finite(name, values)
    return values


def _check_finite(name: str, values: NDArray[np.floating]) -> None:
    row = first_not_finite(values)
    if row is not None:
        raise NotFiniteError(name, row)

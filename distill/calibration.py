"""What a calibration sees and answers: one file of `distill/calibrate` each.

A calibration leaves the choice of patches alone. It may weigh them (`kmm`), change their pixels a little (`cnn`), or do nothing
(`none`); what it measured is told in every case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ConfigError
from curate.core.records import Image

from .features import Silent, Watch
from .selection import Indices
from .yardstick import CLEAN, DEGRADED

Deep = NDArray[np.uint16]
"""(H, W, 3) uint16 RGB, 65535 = white."""
FULL, LEVEL = 65535, 257  # white in 16 bits; one level of 8 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRequest:
    """A subset and the corpus it was chosen from.

    Attributes:
        rows: (N, D) float16 or float32, what the encoder says of every clean patch of the corpus; may be a memory map.
        degraded_rows: the same of the degraded members; None for a corpus of clean patches.
        chosen: (k,) int64, unique rows of the corpus that are the subset.
        read: row of the corpus (0..N - 1) -> native pixels of its patch: clean and, of pairs, degraded; any thread may call it.
        encoder: a `curate.Encoder`; one that `pools_tokens` offers `mean_token`.
        seed: root of every random draw.
        device: where torch computes: `cpu`, `cuda`, ...
        workers: threads of one core each; changes no byte.
        watch: told about progress in steps.
        task_of: (N,) int64, the task of every patch of the corpus; None: they are one task.
        state: file in which a fit that takes long keeps how far it has come, to go on after a kill; None: it does not.
    """

    rows: NDArray[np.floating]
    chosen: Indices
    read: Callable[[int], tuple[Image, Image | None]]
    encoder: Any
    degraded_rows: NDArray[np.floating] | None = None
    seed: int = 0
    device: str = "cpu"
    workers: int = 1
    watch: Watch = field(default_factory=Silent)
    task_of: Indices | None = None
    state: Path | None = None

    def members(self) -> dict[str, NDArray[np.floating]]:
        """Name the rows as in the spec: x is clean, y degraded."""
        return {CLEAN: self.rows} | ({} if self.degraded_rows is None else {DEGRADED: self.degraded_rows})


class Change(Protocol):
    """A small change of pixels that keeps the relation of a pair."""

    def apply(self, clean: Image, degraded: Image | None) -> tuple[Deep, Deep | None]:
        """Return both members, changed, in 16 bits. Inputs are not modified; any thread may call it."""
        ...

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return the network's weights by name, for `calibrator.safetensors`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """The answer.

    Attributes:
        weights: (k,) float64 sampling weights in the order of `chosen`; ones unless the calibration weighs.
        change: what is done to the pixels; None: nothing, the corpus's bytes are copied.
        facts: JSON-able, for the manifest: `mode`, `accepted`, `reason`, `mmd2` (before, after, null, per member) and what the
            calibration has to say of itself. Holds no time: equal runs give equal facts.
        seconds: step -> seconds.
    """

    weights: NDArray[np.float64]
    facts: Mapping[str, Any]
    change: Change | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


class Calibrator(Protocol):
    """A plug-in of `distill.calibrate`."""

    @property
    def name(self) -> str:
        """The file's name."""
        ...

    @property
    def differentiates(self) -> bool:
        """Whether it needs the gradient of the encoder (`mean_token`)."""
        ...

    def calibrate(self, request: CalibrationRequest) -> Calibrated:
        """Measure the subset against its corpus and correct it, if that is called for.

        Raises:
            ConfigError: the encoder cannot be differentiated and the calibration needs it.
            NumericsError: rows, loss or gradient are not finite.
        """
        ...


def check_differentiable(encoder: Any, name: str) -> None:
    """Raise ConfigError unless the encoder offers `mean_token`, which the calibration `name` needs."""
    if not callable(getattr(encoder, "mean_token", None)):
        raise ConfigError(
            f"calibrate {name} needs an encoder whose gradient can be taken (vit_s14, timm, open_clip), got {encoder.name}; "
            "or choose calibrate kmm or none"
        )


class Changes:
    """Applies a change and keeps count of how much it changed: what is written is what is measured.

    Give it to `write_stage` as `transform`; `facts()` when all stages are written.
    """

    def __init__(self, change: Change) -> None:
        self._change = change
        self._seen: list[tuple[int, float, float]] = []  # of each patch: largest, mean and mean square difference

    def __call__(self, clean: Image, degraded: Image | None) -> tuple[Deep, Deep | None]:
        """Change one sample; threads may share this object."""
        changed, changed_degraded = self._change.apply(clean, degraded)
        difference = np.abs(changed.astype(np.int32) - clean.astype(np.int32) * LEVEL)
        mean_square = float(np.mean(np.square(difference, dtype=np.float64)))
        self._seen.append((int(difference.max()), float(difference.mean()), mean_square))
        return changed, changed_degraded

    def facts(self) -> dict[str, Any]:
        """Say how much the clean members changed: levels of 8 bits, and PSNR(x, x~) in dB (None: unchanged)."""
        seen = sorted(self._seen)  # threads finish in any order
        psnr_db = [10 * np.log10(FULL**2 / mean_square) for _, _, mean_square in seen if mean_square]
        return {
            "patches": len(seen),
            "unchanged": len(seen) - len(psnr_db),
            "largest_change_levels": round(max((largest for largest, _, _ in seen), default=0) / LEVEL, 6),
            "mean_change_levels": round(sum(mean for _, mean, _ in seen) / max(1, len(seen)) / LEVEL, 6),
            "psnr_db_min": round(float(min(psnr_db)), 6) if psnr_db else None,
            "psnr_db_median": round(float(np.median(psnr_db)), 6) if psnr_db else None,
        }

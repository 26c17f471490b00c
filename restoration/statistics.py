"""What a network measures over the whole picture, measured once and shared by all of its tiles.

Channel attention (a Gram matrix over all pixels), pooled attention and prompts (averages over all pixels, and a grid that is
stretched over the picture) look at everything at once. Tiles that measure for themselves treat neighbouring regions
differently, and no overlap hides that. So a picture that is too large for one forward pass is seen twice: `measuring` runs
windows of it as one batch (or several, each adding to what those before it counted), takes sums and averages over all of them,
and keeps what came of it in the order of the calls; `replaying` runs the tiles, each of which takes those values instead of
measuring. Then tiles differ from the whole picture only by the windows' choice and by the convolutions' border, which an
overlap hides.

The seam, for whoever writes a network. A module that looks at the whole picture has the attribute `statistics`, None unless
a block of `measuring` or `replaying` is open:

    shared = self.statistics
    if shared is not None and shared.replaying:
        pooled_B = shared.take()                          # nothing is measured, nothing needed for it is computed
    else:
        seen_BCHW = x_BCHW if shared is None else shared.inside(x_BCHW)  # without what a window's border spoils
        pooled_B = seen_BCHW.mean((2, 3), keepdim=True)   # of each picture of the batch
        if shared is not None:
            pooled_B = shared.keep(shared.mean(pooled_B)) # of all windows: (1, ...)

`total` is the same for sums. What depends on where a pixel lies in the picture asks `spread`. A module is called any number
of times in a forward pass (shared weights); values are kept by order, so the calls must not depend on the pixels.
Networks without such modules are tiled without a first look. One that cuts its pictures up by itself (ipt) needs little
memory a pixel and goes through whole where it can; it says so by `probe_sides_px`, two sides of squares that are both cut into
more pieces than it holds at once, on which its memory is counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Place:
    """Where a window or tile lies.

    Attributes:
        top: its first row in the picture.
        left: its first column.
        height: rows of the whole picture.
        width: columns of the whole picture.
    """

    top: int
    left: int
    height: int
    width: int


class SharedStatistics:
    """Values in the order in which a forward pass asks for them."""

    def __init__(self) -> None:
        self._values: list[Tensor] = []
        self._totals: list[Tensor] = []
        self._next_value = self._next_total = self._num_windows = 0
        self._places: tuple[Place, ...] = ()
        self._size, self._margin_px = (0, 0), 0
        self.replaying = False

    def inside(self, x_BCHW: Tensor) -> Tensor:
        """Cut the margin off features of windows, in which the network saw padding; not where a window is the whole picture."""
        parts = []
        whole = (self._places[0].height, self._places[0].width)
        for length, size, all_px in zip(x_BCHW.shape[2:], self._size, whole, strict=True):
            margin = 0 if size == all_px else self._margin_px * length // size
            parts.append(slice(margin, length - margin))
        return x_BCHW[:, :, parts[0], parts[1]]

    def total(self, x_B: Tensor) -> Tensor:
        """Sum over this batch of windows and those before it: (B, ...) to (1, ...)."""
        total = x_B.sum(0, keepdim=True)
        if self._next_total == len(self._totals):
            self._totals.append(torch.zeros_like(total))
        self._totals[self._next_total] = total = self._totals[self._next_total] + total
        self._next_total += 1
        return total

    def mean(self, x_B: Tensor) -> Tensor:
        """Average over this batch of windows and those before it: (B, ...) to (1, ...)."""
        return self.total(x_B) / self._num_windows

    def keep(self, value: Tensor) -> Tensor:
        """Remember a measured value, (1, ...), and return it."""
        self._values.append(value.detach().clone())
        return value

    def take(self) -> Tensor:
        """Return the next remembered value."""
        value = self._values[self._next_value]
        self._next_value += 1
        return value

    def spread(self, grid_1CST: Tensor, size: tuple[int, int]) -> Tensor:
        """Stretch a grid bilinearly over the whole picture and cut out what lies under each window.

        Args:
            grid_1CST: (1, C, S, T).
            size: height and width of the features, which the windows' sizes are a multiple of.

        Returns:
            (B, C, *size), the parts of `interpolate(grid, size of the whole)`.
        """
        rows, columns = [], []
        for place in self._places:
            step_y, step_x = self._size[0] // size[0], self._size[1] // size[1]
            rows.append(_weights(grid_1CST.shape[2], place.height // step_y, place.top // step_y, size[0]))
            columns.append(_weights(grid_1CST.shape[3], place.width // step_x, place.left // step_x, size[1]))
        rows_B1HS, columns_B1TW = torch.stack(rows)[:, None], torch.stack(columns)[:, None].transpose(2, 3)
        return rows_B1HS.to(grid_1CST) @ (grid_1CST @ columns_B1TW.to(grid_1CST))

    def begin(self, places: Sequence[Place], size: tuple[int, int], *, replay: bool, margin_px: int = 0) -> None:
        """Start a forward pass over windows of `size` (height, width) at these places."""
        self._margin_px = margin_px
        self._places, self._size, self.replaying = tuple(places), size, replay
        self._next_value = self._next_total = 0
        if not replay:
            self._values, self._num_windows = [], self._num_windows + len(places)


def looks_at_everything(module: nn.Module) -> bool:
    """Say whether a network holds a part that measures the whole picture."""
    return any(hasattr(part, "statistics") for part in module.modules())


@contextlib.contextmanager
def measuring(
    module: nn.Module,
    places: Sequence[Place],
    size: tuple[int, int],
    shared: SharedStatistics | None = None,
    *,
    margin_px: int = 0,
) -> Iterator[SharedStatistics]:
    """Let one forward pass over a batch of windows measure as if they were one picture; gives what was measured.

    Args:
        module: the network.
        places: where the windows lie.
        size: their height and width.
        shared: what was measured on the batches before this one; it is added to.
        margin_px: not counted at the windows' borders; less than half of their sides.
    """
    shared = shared or SharedStatistics()
    shared.begin(places, size, replay=False, margin_px=margin_px)
    with _hung_up(module, shared):
        yield shared


@contextlib.contextmanager
def replaying(
    module: nn.Module, shared: SharedStatistics, places: Sequence[Place], size: tuple[int, int]
) -> Iterator[None]:
    """Let one forward pass over a batch of tiles of `size` at these places use what was measured."""
    shared.begin(places, size, replay=True)
    with _hung_up(module, shared):
        yield


@contextlib.contextmanager
def _hung_up(module: nn.Module, shared: SharedStatistics) -> Iterator[None]:
    parts = [part for part in module.modules() if hasattr(part, "statistics")]
    for part in parts:
        part.statistics = shared  # type: ignore[assignment]
    try:
        yield
    finally:
        for part in parts:
            part.statistics = None  # type: ignore[assignment]


def _weights(num: int, whole: int, start: int, length: int) -> Tensor:
    """Return rows `start` to `start + length` of the (whole, num) matrix of bilinear interpolation, as torch does it."""
    position = (torch.arange(start, start + length, dtype=torch.float64) + 0.5) * (num / whole) - 0.5
    position = position.clamp(0, num - 1)
    cells = torch.arange(num, dtype=torch.float64)
    return (1 - (position[:, None] - cells).abs()).clamp_min(0)

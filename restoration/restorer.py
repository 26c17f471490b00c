"""One picture of any size through a network, inside a memory limit: whole if it fits, else measured once and tiled.

What the network measures over the whole picture comes, for a picture that does not fit, from windows spread over it
(restoration/statistics.py); then all tiles share it. With self-ensemble the picture is also seen in its seven other flips and
turns, each with statistics of its own, and the eight results are averaged tile by tile.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from curate.core.errors import ConfigError

from .bound import Bound
from .memory import PROBE_SIDES_PX, RESERVE_BYTES, ForwardCost, forward_cost, memory_in_use
from .models import channels_last
from .statistics import Place, SharedStatistics, looks_at_everything, measuring, replaying
from .tiling import Batch, Grid, Samples, padded_size, read_window, restore_tiles, spread_windows

_TILE_STEP_PX = 32
_MAX_WINDOWS_AT_ONCE = 16  # more at once change nothing but the memory
OnTiles = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TilingConfig:
    """How large pictures are cut; all of it is chosen by measurement (docs/log.md, benchmarks/bench_restore.py).

    Attributes:
        tile_px: side of a tile where memory allows it, else the largest that fits.
        overlap_px: what neighbouring tiles share at least.
        margin_px: what is cut off of it on each side, because the network saw padding there.
        batch: tiles at once, where memory allows it.
        window_px: side of the windows that are measured for a picture that does not fit whole.
        window_margin_px: not counted at their borders, because the network saw padding there.
        window_frac: their share of the picture...
        min_window_pixels: ... but at least so many pixels, where there are so many.
        whole: False cuts also what would fit whole (for tests and comparisons).
        shared: False lets every tile measure for itself (for comparisons: seams show).
    """

    tile_px: int = 384
    overlap_px: int = 48
    margin_px: int = 16
    batch: int = 1
    window_px: int = 256
    window_margin_px: int = 16
    window_frac: float = 0.05
    min_window_pixels: int = 600_000
    whole: bool = True
    shared: bool = True

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.tile_px >= 64 or self.tile_px % 8 or not self.window_px >= 64 or self.window_px % 8:
            raise ConfigError("tiling.tile_px and window_px must be multiples of 8 and >= 64")
        if not 8 <= self.overlap_px <= self.tile_px // 2 or not 0 <= 2 * self.margin_px < self.overlap_px:
            raise ConfigError("tiling needs 8 <= overlap_px <= tile_px / 2 and 0 <= 2 margin_px < overlap_px")
        if not self.batch >= 1 or not 0 < self.window_frac <= 1 or not self.min_window_pixels >= 1:
            raise ConfigError("tiling needs batch >= 1, 0 < window_frac <= 1 and min_window_pixels >= 1")


@dataclass(frozen=True, slots=True)
class Plan:
    """What was decided for a picture.

    Attributes:
        grid: how it is cut; a tile of the picture's own size leaves it whole.
        whole: it goes through in one piece.
        num_windows: how many windows are measured at most; 0 if nothing is.
        window_px: their side.
        windows_at_once: as many go through together.
    """

    grid: Grid
    whole: bool
    num_windows: int = 0
    window_px: int = 0
    windows_at_once: int = 1


class Restorer:
    """A network ready for pictures; not for several threads at once.

    Attributes:
        network: with the choices made.
        tiling: how large pictures are cut.
        cost: of its forward pass.
        beside_bytes: what this process holds by now that it did not hold when this was made, such as kept results.
    """

    def __init__(
        self, network: Bound, *, device: torch.device, limit_bytes: int, self_ensemble: bool = False,
        tiling: TilingConfig | None = None,
    ) -> None:  # fmt: skip
        self.network = replace(network, module=channels_last(network.module).to(device).eval())
        self.tiling = tiling or TilingConfig()
        self._device, self._limit, self._ensemble = device, limit_bytes, self_ensemble
        self._align: int = getattr(network.module, "align_px", 8)
        self._shares = self.tiling.shared and looks_at_everything(network.module)
        self._tiles_itself = hasattr(network.module, "probe_sides_px")
        sides: tuple[int, int] = getattr(network.module, "probe_sides_px", PROBE_SIDES_PX)
        self.cost: ForwardCost = forward_cost(self.network, device, sides)
        self._base = memory_in_use(device) + RESERVE_BYTES
        self.beside_bytes = 0

    def restore(
        self, image: Samples, *, bytes_per_pixel: int | None = None, on_tiles: OnTiles | None = None
    ) -> Samples:
        """Restore one picture.

        Args:
            image: (H, W, 1 or 3) uint8 or uint16; not modified.
            bytes_per_pixel: what is held of the picture, where that is more than `image`: alpha, equal channels.
            on_tiles: called with (tiles done, tiles in all).

        Returns:
            The same type, `network.scale` times as high and wide.

        Raises:
            ConfigError: the limit is too small for this picture.
            NumericsError: the network's output is not finite.
        """
        plan = self.plan(image.shape[0], image.shape[1], bytes_per_pixel or image.shape[2] * image.itemsize)
        turns = range(8 if self._ensemble else 1)
        measured: list[SharedStatistics | None] = [None for _ in turns]
        if plan.num_windows:
            measured = [self._measure(image, plan, turn) for turn in turns]

        def run(tiles: Batch, places: Sequence[Place]) -> Batch:
            total: Batch | None = None
            for turn, shared in zip(turns, measured, strict=True):
                output = self._run(torch.from_numpy(tiles), places, turn, shared)
                total = output if total is None else np.add(total, output, out=total)
            assert total is not None, "one turn at least"
            return total if len(turns) == 1 else np.multiply(total, np.float32(1 / len(turns)), out=total)

        return restore_tiles(image, run, plan.grid, on_tiles=on_tiles)

    def check_room(
        self, height: int, width: int, bytes_per_pixel: int, num_decoding_bytes: int, num_writing_bytes: int = 0
    ) -> None:
        """Refuse a picture by its header, before it is decoded.

        Args:
            height: its rows.
            width: its columns.
            bytes_per_pixel: of its samples.
            num_decoding_bytes: what decoding holds at once, the file included.
            num_writing_bytes: what writing the result holds beside it.

        Raises:
            ConfigError: the limit is too small for it.
        """
        self.plan(height, width, bytes_per_pixel)
        num_result_bytes = height * width * bytes_per_pixel * self.network.scale**2
        needed = self._base + self.beside_bytes + max(num_decoding_bytes, num_result_bytes + num_writing_bytes)
        if self._device.type != "cuda" and needed > self._limit:
            raise ConfigError(
                f"decoding and writing {width}x{height} needs about {needed / 1e9:.1f} GB, "
                f"the limit is {self._limit / 1e9:.1f} GB: raise --max-memory or shrink the picture"
            )

    def plan(self, height: int, width: int, bytes_per_pixel: int) -> Plan:
        """Decide how a picture goes through.

        Args:
            height: its rows.
            width: its columns.
            bytes_per_pixel: of its samples.

        Raises:
            ConfigError: not even small tiles fit into the limit.
        """
        scale, settings = self.network.scale, self.tiling
        size = padded_size(height, width, self._align)
        pixels = size[0] * size[1]
        on_gpu = self._device.type == "cuda"
        free = self.free_bytes(height * width * bytes_per_pixel)
        buffers = (
            0 if on_gpu else 12 * (2 + 3 * scale**2)
        )  # float32 input, its stack; output, its sum, the pending rows
        whole_cost = self.cost.of(pixels) + buffers * pixels
        grid = Grid(
            tile_px=max(size), overlap_px=0, margin_px=0, align_px=self._align, scale=scale,
        )  # fmt: skip
        if whole_cost <= free and settings.whole:
            return Plan(grid, True)
        largest = max(size) if self._tiles_itself else settings.tile_px  # its own seams are hidden inside a piece only
        tile = max(self._align, largest // self._align * self._align)
        while self._tile_bytes(tile, 1, size, buffers) > free:
            tile -= max(self._align, _TILE_STEP_PX // self._align * self._align)
            if tile < 2 * settings.overlap_px:
                needed = self._limit - free + self._tile_bytes(2 * settings.overlap_px, 1, size, buffers)
                raise ConfigError(
                    f"a picture of {width}x{height} needs at least {math.ceil(needed / 1e8) / 10:.1f} GB with this network, "
                    f"the limit is {self._limit / 1e9:.1f} GB: raise --max-memory or shrink the picture"
                )
        batch = settings.batch
        while batch > 1 and self._tile_bytes(tile, batch, size, buffers) > free:
            batch -= 1
        grid = Grid(
            tile_px=tile, overlap_px=settings.overlap_px, margin_px=settings.margin_px, align_px=self._align, batch=batch,
            scale=scale,
        )  # fmt: skip
        if not self._shares:
            return Plan(grid, False)
        wanted = max(settings.window_frac * pixels, min(settings.min_window_pixels, pixels))
        fits = ForwardCost(self.cost.fixed, self.cost.per_pixel + buffers).pixels_in(free)
        side = max(self._align, min(settings.window_px, math.isqrt(fits)) // self._align * self._align)
        at_once = max(1, min(fits // side**2, _MAX_WINDOWS_AT_ONCE))
        return Plan(grid, False, max(1, int(wanted) // side**2), side, at_once)

    def free_bytes(self, num_picture_bytes: int) -> int:
        """Return what is left for forward passes beside this process, the picture's samples and its result's."""
        picture = 0 if self._device.type == "cuda" else num_picture_bytes * (1 + self.network.scale**2)
        beside = 0 if self._device.type == "cuda" else self.beside_bytes
        return self._limit - self._base - beside - picture

    def _tile_bytes(self, tile: int, batch: int, size: tuple[int, int], buffers: int) -> float:
        pending = 36 * tile * size[1] * self.network.scale**2  # float32 rows of the result, twice over while rounding
        return self.cost.of(batch * tile * tile) + buffers * batch * tile * tile + pending

    @torch.inference_mode()
    def _measure(self, image: Samples, plan: Plan, turn: int) -> SharedStatistics:
        size = padded_size(image.shape[0], image.shape[1], self._align)
        height, width = min(plan.window_px, size[0]), min(plan.window_px, size[1])
        corners = spread_windows(size, plan.window_px, plan.num_windows, self._align)
        shared, margin = SharedStatistics(), min(self.tiling.window_margin_px, plan.window_px // 4)
        for first in range(0, len(corners), plan.windows_at_once):
            some = corners[first : first + plan.windows_at_once]
            windows = np.stack([read_window(image, top, left, height, width) for top, left in some])
            places = [Place(top, left, *size) for top, left in some]
            x_BCHW, places, turned = self._turned(torch.from_numpy(windows), places, turn)
            with measuring(self.network.module, places, turned, shared, margin_px=margin):
                self.network(x_BCHW)
        return shared

    @torch.inference_mode()
    def _run(self, tiles_BCHW: Tensor, places: Sequence[Place], turn: int, shared: SharedStatistics | None) -> Batch:
        x_BCHW, places, size = self._turned(tiles_BCHW, places, turn)
        sharing = contextlib.nullcontext() if shared is None else replaying(self.network.module, shared, places, size)
        with sharing:
            output_BCHW = self.network(x_BCHW).float()
        upright_BCHW = turn_back(output_BCHW, turn).cpu().numpy()
        return np.ascontiguousarray(upright_BCHW, dtype=np.float32)

    def _turned(
        self, x_BCHW: Tensor, places: Sequence[Place], turn: int
    ) -> tuple[Tensor, list[Place], tuple[int, int]]:
        turned = turn_by(x_BCHW, turn).to(self._device).contiguous(memory_format=torch.channels_last)
        turned_places = [turn_place(place, x_BCHW.shape[2], x_BCHW.shape[3], turn) for place in places]
        return turned, turned_places, (turned.shape[2], turned.shape[3])


def turn_by(x_BCHW: Tensor, turn: int) -> Tensor:
    """Apply one of the eight flips and turns: bit 2 swaps rows and columns, then bit 0 flips columns, bit 1 rows."""
    x_BCHW = x_BCHW.transpose(2, 3) if turn & 4 else x_BCHW
    return x_BCHW.flip(_flips(turn)) if turn & 3 else x_BCHW


def turn_back(x_BCHW: Tensor, turn: int) -> Tensor:
    """Undo `turn_by`."""
    x_BCHW = x_BCHW.flip(_flips(turn)) if turn & 3 else x_BCHW
    return x_BCHW.transpose(2, 3) if turn & 4 else x_BCHW


def turn_place(place: Place, height: int, width: int, turn: int) -> Place:
    """Say where a window of height x width lies once the whole picture is turned."""
    if turn & 4:
        place, height, width = Place(place.left, place.top, place.width, place.height), width, height
    top = place.height - place.top - height if turn & 2 else place.top
    left = place.width - place.left - width if turn & 1 else place.left
    return Place(top, left, place.height, place.width)


def _flips(turn: int) -> list[int]:
    return ([3] if turn & 1 else []) + ([2] if turn & 2 else [])

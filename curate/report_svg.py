"""Histograms as small inline SVG, drawn by hand: sharp on any screen and on paper, coloured by the page's own style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 340, 176
LEFT, RIGHT, TOP, BOTTOM = 38, 12, 30, 22
PLOT_W, PLOT_H = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
NUM_BINS = 40
LONG_TAIL = 30.0
"""A score whose 99 % quantile is this many times its median is drawn over its logarithm."""
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Limit:
    """A threshold to draw: its value, the text beside the line, and whether a value equal to it lies left of the line."""

    value: float
    text: str
    equal_is_left: bool = False


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    log: bool

    def place(self, values: Numbers | float) -> Numbers:
        """Map values to 0..1 of the axis; outside values go to its ends."""
        array = np.asarray(values, float)
        scaled = np.log10(np.maximum(array, self.low)) if self.log else array
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        return np.clip((scaled - low) / (high - low), 0.0, 1.0)

    def x(self, value: float) -> float:
        return LEFT + PLOT_W * float(self.place(value))


def histogram(title: str, kept: Numbers, dropped: Numbers, limits: Sequence[Limit]) -> str:
    """Draw one score, kept below and dropped stacked on top, each threshold a dashed line with its value.

    The first threshold lies between two bars, so that no bar mixes its two sides.

    Args:
        title: read out instead of the picture.
        kept: finite values.
        dropped: finite values.
        limits: thresholds to mark.

    Returns:
        SVG text; "" without a value.
    """
    both = np.concatenate([kept, dropped])
    if not len(both):
        return ""
    axis = _axis(both, [limit.value for limit in limits])
    edges = _edges(axis, limits)
    below = np.histogram(axis.place(kept), edges)[0]
    total = below + np.histogram(axis.place(dropped), edges)[0]
    return "".join([
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>',
        *_bars(edges, below.tolist(), total.tolist()), *_scale(axis, int(total.max())), *_limits(axis, limits), "</svg>",
    ])  # fmt: skip


def short(value: float) -> str:
    """Write a number for people in few characters: `short(12500.0)` is '12.5k'."""
    if abs(value) >= 10_000:
        return f"{value / 1000:.3g}k"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _edges(axis: _Axis, limits: Sequence[Limit]) -> Numbers:
    """Spread the bars over 0..1 of the axis, shifted by at most half a bar to put an edge at the first threshold."""
    edges = np.linspace(0, 1, NUM_BINS + 1)
    if limits and axis.low < limits[0].value < axis.high:
        place = float(axis.place(limits[0].value)) + (1e-9 if limits[0].equal_is_left else -1e-9)
        nearest = int(np.abs(edges - place).argmin())
        if 0 < nearest < NUM_BINS:
            edges[1:-1] += place - edges[nearest]
    return edges


def _bars(edges: Numbers, below: Sequence[int], total: Sequence[int]) -> list[str]:
    peak, parts = max(total), []
    for index in range(NUM_BINS):
        left, width = LEFT + PLOT_W * edges[index], PLOT_W * (edges[index + 1] - edges[index]) - 0.8
        for low, high, name in ((0, below[index], "kept"), (below[index], total[index], "dropped")):
            if high > low:
                tall = max(PLOT_H * (high - low) / peak, 0.7)  # a single patch stays visible
                top = TOP + PLOT_H * (1 - low / peak) - tall
                box = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{tall:.1f}"'
                parts.append(f'<rect class="{name}" {box}/>')
    return parts


def _scale(axis: _Axis, peak: int) -> list[str]:
    bottom = TOP + PLOT_H
    parts = [
        f'<text x="{LEFT - 5}" y="{TOP + 8}" class="tick end">{short(peak)}</text>',
        f'<text x="{LEFT - 5}" y="{bottom}" class="tick end">0</text>',
        f'<path class="axis" d="M{LEFT} {bottom}H{WIDTH - RIGHT}"/>',
    ]
    for value in _ticks(axis):
        parts.append(f'<path class="axis" d="M{axis.x(value):.1f} {bottom}v3"/>')
        parts.append(f'<text x="{axis.x(value):.1f}" y="{HEIGHT - 7}" class="tick middle">{short(value)}</text>')
    return parts


def _limits(axis: _Axis, limits: Sequence[Limit]) -> list[str]:
    parts = []
    for row, limit in enumerate(limits):
        x, height = axis.x(limit.value), 10 + 11 * (row % 2)  # two lines' texts do not meet
        anchor, shift = ("end", 3) if x > LEFT + PLOT_W / 2 else ("start", -3)
        text = escape(limit.text)
        if limit.value > axis.high or limit.value < axis.low:
            text = f"{text} \u2192" if limit.value > axis.high else f"\u2190 {text}"  # off the scale: an arrow, no line
        else:
            parts.append(f'<path class="limit" d="M{x:.1f} {height + 3}V{TOP + PLOT_H}"/>')
        parts.append(f'<text x="{x + shift:.1f}" y="{height}" class="mark {anchor}">{text}</text>')
    return parts


def _axis(values: Numbers, thresholds: Sequence[float]) -> _Axis:
    """Choose the range: all data, and the thresholds that lie near it; a logarithm for long tails."""
    low, high = float(values.min()), float(values.max())
    positive = values[values > 0]
    tail, middle = float(np.quantile(values, 0.99)), float(np.median(values))
    if low >= 0 and len(positive) and tail > LONG_TAIL * max(middle, 1e-9):
        bottom = min([float(np.quantile(positive, 0.01)), *(t for t in thresholds if t > 0)])
        return _Axis(bottom / 1.5, max(high, bottom * 10), log=True)
    span = (high - low) or abs(high) or 1.0
    near = [t for t in thresholds if low - 2 * span <= t <= high + 2 * span]
    low, high = min([low, *near]), max([high, *near])
    if low == high:
        high = low + span
    pad = 0.02 * (high - low)
    return _Axis(low - pad, high + pad, log=False)


def _ticks(axis: _Axis) -> list[float]:
    if axis.log:
        powers = [10.0**p for p in range(math.ceil(math.log10(axis.low)), math.floor(math.log10(axis.high)) + 1)]
        return powers[:: max(1, -(-len(powers) // 6))]
    step = 10 ** math.floor(math.log10(axis.high - axis.low))
    count = (axis.high - axis.low) / step
    step *= 0.25 if count < 2 else 0.5 if count < 4 else 1 if count < 8 else 2
    first = math.ceil(axis.low / step - 1e-9)
    return [round(step * i, 12) for i in range(first, math.floor(axis.high / step + 1e-9) + 1)]

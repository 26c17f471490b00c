"""Plots of the report as small inline SVG, coloured by the page's own style: sharp on a phone, on paper, light and dark.

Drawn about as wide as a phone, so that letters stay readable where a plot is not enlarged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
WIDTH = 360
LEFT, RIGHT, TOP, BOTTOM = 40, 10, 12, 34
PLOT_W = WIDTH - LEFT - RIGHT
MIN_BINS, MAX_BINS = 12, 28
MAX_RUG = 400  # more ticks than that are one black line
STAGES = ("stage1", "stage2")


@dataclass(frozen=True, slots=True)
class Frame:
    """Where data lies on a plot: [low, high] of x over the whole width, [0, peak] of y over `height` px."""

    low: float
    high: float
    peak: float
    height: int

    def x(self, value: float) -> float:
        """Return the place of a value; values outside go to the ends."""
        share = (value - self.low) / (self.high - self.low)
        return LEFT + PLOT_W * min(max(share, 0.0), 1.0)

    def y(self, value: float) -> float:
        """Return the height of a value."""
        return TOP + self.height * (1 - min(max(value / self.peak, 0.0), 1.0))

    @property
    def bottom(self) -> int:
        """Return where y = 0 is drawn."""
        return TOP + self.height


def complexity_plot(corpus: Floats, by_stage: Mapping[str, Floats]) -> str:
    """Draw how complex the corpus is (grey area) and the chosen patches are (bars, stage 2 on stage 1).

    Both are shares of their own number, so that 2 % can be seen beside 100 %.
    """
    low, high = _range(corpus)
    num = sum(len(values) for values in by_stage.values())
    num_bins = min(max(int(np.sqrt(num)) + 8, MIN_BINS), MAX_BINS)  # few patches in many bars are only noise
    edges = np.linspace(low, high, num_bins + 1)
    everything = np.histogram(corpus, edges)[0] / len(corpus)
    stacks = [np.histogram(by_stage.get(stage, np.zeros(0)), edges)[0] / num for stage in STAGES]
    frame = Frame(low, high, float(max(everything.max(), (stacks[0] + stacks[1]).max())), 150)
    steps = "".join(
        f"H{frame.x(float(edges[at])):.1f}V{frame.y(float(share)):.1f}H{frame.x(float(edges[at + 1])):.1f}"
        for at, share in enumerate(everything)
    )
    parts = [f'<path class="corpus" d="M{LEFT} {frame.bottom}{steps}V{frame.bottom}Z"/>']
    for at in range(num_bins):
        left, right = frame.x(float(edges[at])) + 1.2, frame.x(float(edges[at + 1])) - 1.2
        base = 0.0
        for stage, stack in zip(STAGES, stacks, strict=True):
            if stack[at] > 0:
                top = frame.y(base + float(stack[at]))
                box = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{frame.y(base) - top:.1f}"'
                parts.append(f'<rect class="{stage}" {box}/>')
            base += float(stack[at])
    parts += [_rug(frame, stage, by_stage.get(stage, np.zeros(0))) for stage in STAGES if num <= MAX_RUG]
    parts += [
        f'<path class="outline" d="M{LEFT} {frame.bottom}{steps}V{frame.bottom}"/>',  # on the bars too
        f'<text x="{LEFT - 5}" y="{TOP + 8}" class="end">{100 * frame.peak:.0f} %</text>',
        f'<text x="{LEFT - 5}" y="{frame.bottom}" class="end">0</text>',
        *_x_axis(frame, _ticks(low, high), "complexity"),
    ]
    return _svg("complexity of the corpus and of the chosen patches by stage", frame.bottom + BOTTOM, parts)


def null_plot(null: Sequence[float], marks: Sequence[tuple[str, str, float]], unit: str) -> str:
    """Draw a number line: random subsets as ticks, this subset (and what calibration made of it) as marks.

    Args:
        null: what random subsets reach.
        marks: (class of the mark, text, value) each.
        unit: written under the line.
    """
    values = [*null, *(value for _, _, value in marks)]
    low, high = min(values), max(values)
    pad = 0.12 * ((high - low) or abs(high) or 1.0)
    frame = Frame(low - pad, high + pad, 1.0, 26 + 18 * len(marks))
    parts = [f'<path class="tick" d="M{frame.x(value):.1f} {frame.bottom - 16}v16"/>' for value in sorted(null)]
    for row, (name, text, value) in enumerate(marks):
        x, y = frame.x(value), TOP + 12 + 18 * row
        anchor, shift = ("end", -9) if x > LEFT + PLOT_W / 2 else ("start", 9)
        parts.append(f'<path class="mark {name}" d="M{x:.1f} {y - 4}V{frame.bottom}"/>')
        parts.append(f'<circle class="{name}" cx="{x:.1f}" cy="{y - 4}" r="5"/>')
        parts.append(f'<text x="{x + shift:.1f}" y="{y}" class="strong {anchor}">{escape(text)}</text>')
    parts += _x_axis(frame, _ticks(frame.low, frame.high), unit)
    return _svg(f"{unit}: this subset beside random ones", frame.bottom + BOTTOM, parts)


def fit_plot(history: Sequence[tuple[float, float]], null: tuple[float, float] | None, kept: float | None) -> str:
    """Draw the held-out MMD2 while the calibrator was fitted.

    Args:
        history: (step, MMD2 x 1000), rising steps.
        null: mean and standard deviation of random subsets (not yet x 1000): a band of two deviations.
        kept: the step that was kept, if any.
    """
    band = [1000 * (null[0] - 2 * null[1]), 1000 * (null[0] + 2 * null[1])] if null else []
    values = [*(value for _, value in history), *band, 0.0]
    low, high = min(values), max(values)
    high = high if high > low else low + 1.0
    frame = Frame(history[0][0], history[-1][0], high - low, 120)
    line = "L".join(f"{frame.x(step):.1f} {frame.y(value - low):.1f}" for step, value in history)
    parts = []
    if null:
        top, bottom = frame.y(band[1] - low), frame.y(band[0] - low)
        parts.append(f'<rect class="band" x="{LEFT}" y="{top:.1f}" width="{PLOT_W}" height="{bottom - top:.1f}"/>')
    parts.append(f'<path class="curve" d="M{line}"/>')
    parts += [
        f'<text x="{LEFT - 5}" y="{frame.y(value - low) + 4:.1f}" class="end">{_tick(value)}</text>'
        for value in (low, high)
    ]
    at = [value for step, value in history if step == kept]
    if kept is not None and at:
        parts.append(f'<circle class="stage2" cx="{frame.x(kept):.1f}" cy="{frame.y(at[0] - low):.1f}" r="4.5"/>')
    parts += _x_axis(frame, _ticks(frame.low, frame.high), "steps of the fit")
    return _svg("held-out distance to the corpus while the calibrator was fitted", frame.bottom + BOTTOM, parts)


def curriculum_plot(shares: Sequence[tuple[float, float]], even: float, marks: Sequence[tuple[float, str]]) -> str:
    """Draw the probability of the complex half over training.

    Args:
        shares: (time 0..1, probability) from left to right; a jump is two points of one time.
        even: the probability if all chosen patches were equally likely: a dashed line.
        marks: (time, text) of what happens when.
    """
    frame = Frame(0.0, 1.0, 1.0, 132)
    line = "L".join(f"{frame.x(time):.1f} {frame.y(share):.1f}" for time, share in shares)
    parts = [
        f'<path class="stage1 area" d="M{LEFT} {TOP}H{LEFT + PLOT_W}V{frame.bottom}H{LEFT}Z"/>',
        f'<path class="stage2 area" d="M{LEFT} {frame.bottom}L{line}V{frame.bottom}Z"/>',
        f'<path class="curve" d="M{line}"/>',
        f'<path class="even" d="M{LEFT} {frame.y(even):.1f}H{LEFT + PLOT_W}"/>',
    ]
    for time, text in marks:
        parts.append(
            f'<path class="when" d="M{frame.x(time):.1f} {TOP}V{frame.bottom}"><title>{escape(text)}</title></path>'
        )
    for share in (0.0, 0.5, 1.0):
        parts.append(f'<text x="{LEFT - 5}" y="{frame.y(share) + 4:.1f}" class="end">{100 * share:.0f} %</text>')
    parts += _x_axis(frame, [0.0, 0.25, 0.5, 0.75, 1.0], "share of all training steps")
    return _svg("probability that a training step draws from stage 2", frame.bottom + BOTTOM, parts)


def tenths_plot(by_stage: Mapping[str, Sequence[float]]) -> str:
    """Draw the share of the chosen in each tenth of the corpus by complexity; the dashed line is an even share.

    Args:
        by_stage: stage -> share of all chosen patches that are of this stage and in each tenth, simplest first.
    """
    stacks = [np.asarray(by_stage[stage], dtype=np.float64) for stage in STAGES]
    num = len(stacks[0])
    frame = Frame(0.0, num, max(float((stacks[0] + stacks[1]).max()), 2 / num), 150)
    parts, base = list[str](), np.zeros(num)
    for stage, stack in zip(STAGES, stacks, strict=True):
        for at in np.flatnonzero(stack).tolist():
            top, bottom = frame.y(float(base[at] + stack[at])), frame.y(float(base[at]))
            box = f'x="{frame.x(at) + 2:.1f}" y="{top:.1f}" width="{PLOT_W / num - 4:.1f}" height="{bottom - top:.1f}"'
            parts.append(f'<rect class="{stage}" {box}/>')
        base += stack
    parts += [
        f'<path class="even" d="M{LEFT} {frame.y(1 / num):.1f}H{LEFT + PLOT_W}"/>',
        f'<text x="{LEFT - 5}" y="{TOP + 8}" class="end">{100 * frame.peak:.0f} %</text>',
        f'<text x="{LEFT - 5}" y="{frame.bottom}" class="end">0</text>',
        f'<path class="axis" d="M{LEFT} {frame.bottom}H{LEFT + PLOT_W}"/>',
        f'<text x="{LEFT}" y="{frame.bottom + 17}">simplest</text>',
        f'<text x="{LEFT + PLOT_W}" y="{frame.bottom + 17}" class="end">most complex</text>',
        f'<text x="{LEFT + PLOT_W / 2:.1f}" y="{frame.bottom + 31}" class="middle">tenths of the corpus</text>',
    ]
    return _svg("share of the chosen patches in each tenth of the corpus by complexity", frame.bottom + BOTTOM, parts)


def _rug(frame: Frame, stage: str, values: Floats) -> str:
    places = "".join(f"M{frame.x(value):.1f} {frame.bottom + 1.5}v5" for value in np.sort(values).tolist())
    return f'<path class="rug {stage}" d="{places}"/>' if places else ""


def _x_axis(frame: Frame, ticks: Iterable[float], unit: str) -> list[str]:
    parts = [f'<path class="axis" d="M{LEFT} {frame.bottom}H{LEFT + PLOT_W}"/>']
    for value in ticks:
        parts.append(f'<text x="{frame.x(value):.1f}" y="{frame.bottom + 17}" class="middle">{_tick(value)}</text>')
    parts.append(f'<text x="{LEFT + PLOT_W / 2:.1f}" y="{frame.bottom + 31}" class="middle">{escape(unit)}</text>')
    return parts


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    text = escape(title)
    box = f'viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{text}"'
    return f"<svg {box}><title>{text}</title>{''.join(parts)}</svg>"


def _range(values: Floats) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    pad = 0.02 * (high - low) or 0.02 * (abs(high) or 1.0)
    return low - pad, high + pad


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers between two values."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(step * number, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"

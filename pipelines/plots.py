"""Plots of the report as inline SVG: nothing to load, sharp on paper."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, ACCENT, WARM = "#1d2733", "#c5ccd4", "#1f6f8b", "#c8553d"
SMOOTHING_ITER = 15


def loss_curve(metrics: Path, *, switch_step: int) -> str:
    """Draw training loss (thin: each step; thick: running mean) and validation PSNR.

    Args:
        metrics: RUN/metrics.jsonl.
        switch_step: where stage 2 comes in; 0 draws no line.

    Returns:
        SVG text.
    """
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = np.array([line["step"] for line in lines if "loss" in line])
    loss = np.array([line["loss"] for line in lines if "loss" in line])
    checks = [line for line in lines if "val_psnr_db" in line]
    figure, axes = _figure(9.2, 2.9, 2 if checks else 1)
    axes[0].plot(steps, loss, color=FAINT, linewidth=0.8)
    width = min(SMOOTHING_ITER, len(loss))
    mean = np.convolve(loss, np.ones(width) / width, mode="valid")
    axes[0].plot(steps[width - 1 :], mean, color=ACCENT, linewidth=2)
    axes[0].set(title="training loss (L1)", xlabel="step", ylim=(0, float(np.quantile(loss, 0.98)) * 1.15))
    if switch_step:
        axes[0].axvline(switch_step, color=WARM, linestyle="--", linewidth=1)
        axes[0].text(switch_step, axes[0].get_ylim()[1] * 0.95, " stage 2 comes in", color=WARM, fontsize=8, va="top")
    if checks:
        _draw_validation(axes[1], checks)
    return _svg(figure)


def complexity_histogram(by_stage: Mapping[str, Sequence[float]]) -> str:
    """Draw how complex the chosen patches are, by stage.

    Returns:
        SVG text.
    """
    figure, (axis,) = _figure(4.6, 2.3, 1)
    values = [np.asarray(v, dtype=float) for v in by_stage.values()]
    edges = np.histogram_bin_edges(np.concatenate(values), bins=18)
    for (stage, _), array, colour in zip(by_stage.items(), values, (ACCENT, WARM), strict=False):
        axis.hist(array, bins=edges.tolist(), color=colour, alpha=0.85, label=f"{stage} ({len(array)})")
    axis.set(title="complexity of the chosen patches", xlabel="spectral entropy of ViT tokens, 0..1", ylabel="patches")
    axis.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _draw_validation(axis: Axes, checks: Sequence[Mapping[str, Any]]) -> None:
    for task, colour in zip(checks[0]["val_psnr_db"], (ACCENT, WARM, INK, "#7a6f9b"), strict=False):
        axis.plot(
            [c["step"] for c in checks], [c["val_psnr_db"][task] for c in checks], "o-", color=colour, label=task, ms=3
        )
    axis.set(title="validation PSNR on held-out patches (dB)", xlabel="step")
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _figure(width_in: float, height_in: float, columns: int) -> tuple[Figure, list[Axes]]:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "irdistill"
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasSVG(figure)
    axes = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=INK, labelsize=8)
        axis.title.set_fontsize(10)
        axis.title.set_color(INK)
        axis.grid(axis="y", color="#eef1f4")
        axis.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]

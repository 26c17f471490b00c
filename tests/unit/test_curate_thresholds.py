"""Thresholds found by asking `judge`, and the histograms that show them."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from curate.core import plugins
from curate.core.config import build
from curate.core.records import KEEP, Verdict
from curate.recipes import load_recipe
from curate.report_svg import Limit, histogram, short
from curate.thresholds import _find_cuts, recipe_rules


def made_values(num: int = 2000) -> dict[str, np.ndarray]:
    """Make plausible columns of every filter: numbers around its thresholds, some null."""
    rng = np.random.default_rng(0)
    values = {}
    for name in plugins.names("curate.filters"):
        plugin = build(plugins.load("curate.filters", name), {}, where=name)
        prefix = "image_" if plugin.level == "image" else ""
        for column in plugin.columns:
            values[f"{prefix}{column}"] = rng.choice([0.2, 0.9, 1.5, 3, 12, 60, 400, 3000, 9000], num) * rng.uniform(
                0, 1, num
            )
    return values


@pytest.mark.parametrize("name", ["resolution", "aspect", "noise_sigma", "flat_area", "sharpness", "lsdir_vote"])
def test_thresholds_are_found_and_agree_with_judge(name):
    plugin = build(plugins.load("curate.filters", name), {}, where=name)
    values = made_values()
    prefix = "image_" if plugin.level == "image" else ""
    cuts = _find_cuts(plugin, values)
    assert sorted(cut.field for cut in cuts) == sorted(field.name for field in dataclasses.fields(plugin))
    kept = np.ones(2000, bool)
    for cut in cuts:
        assert cut.value == getattr(plugin, cut.field) and cut.value in cut.values and len(cut.values) > 2
        kept &= cut.passes(values[cut.column])
    said = [plugin.judge({c: values[f"{prefix}{c}"][i] for c in plugin.columns}).keep for i in range(2000)]
    assert kept.tolist() == said and 0 < sum(said) < 2000


def test_bounds_and_sides_are_those_of_the_filter():
    recipe = load_recipe("lsdir", patch_size_px=512)
    cuts = {c.field: c for p in recipe.filters() for c in _find_cuts(p, made_values())}
    assert cuts["max_aspect"].keeps_below and cuts["max_aspect"].inclusive and cuts["max_aspect"].value == 2.0
    assert cuts["flat_vote_frac"].keeps_below and not cuts["flat_vote_frac"].inclusive
    assert cuts["min_side_px"].values == (540, 1080, 1620, 2160, 2700, 3240, 4320, 8640)
    assert not cuts["min_laplacian_variance"].keeps_below and cuts["max_laplacian_variance"].keeps_below


@dataclass(frozen=True, slots=True, kw_only=True)
class Odd:
    """Keep where either score is high: no set of lines."""

    name: ClassVar[str] = "odd"
    level: ClassVar[str] = "patch"
    columns: ClassVar[Mapping[str, type]] = {"a": float, "b": float}
    min_score: float = 0.5

    def measure(self, view):
        raise NotImplementedError

    def judge(self, scores):
        high = max(scores["a"] or 0, scores["b"] or 0)
        return KEEP if high >= self.min_score else Verdict(keep=False, reason="odd")


def test_a_gate_that_is_no_set_of_lines_stays_a_black_box(monkeypatch):
    rng = np.random.default_rng(1)
    values = {"a": rng.uniform(size=400), "b": rng.uniform(size=400)}
    assert _find_cuts(Odd(), values) == []
    monkeypatch.setattr("curate.recipes.plugins.load", lambda *_: Odd)
    from curate.recipes import Recipe

    kept = np.maximum(values["a"], values["b"]) >= 0.5
    rules = recipe_rules(Recipe(name="r", measure=("odd",), gates=("odd",)), values, kept, np.zeros(400, bool))
    assert rules.cuts == () and np.array_equal(rules.kept(), kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lenient(Odd):
    """Keep what has no value, as a gate on the quality of JPEGs must for a PNG."""

    def judge(self, scores):
        return KEEP if scores["a"] is None or scores["a"] > self.min_score else Verdict(keep=False, reason="low")


def test_a_gate_may_let_nulls_pass():
    values = {"a": np.array([0.2, 0.5, 0.7, np.nan]), "b": np.zeros(4)}
    (cut,) = _find_cuts(Lenient(), values)
    assert (cut.keeps_null, cut.keeps_below, cut.inclusive) == (True, False, False)
    assert cut.passes(values["a"]).tolist() == [False, False, True, True]


def test_patches_kept_on_purpose_stay_when_thresholds_move():
    values = {"flat_area": np.array([0.1, 0.9, 0.9, np.nan])}
    recipe = build(
        type(load_recipe("lsdir", patch_size_px=512)),
        {"name": "r", "measure": ("flat_area",), "gates": ("flat_area",)},
        where="r",
    )
    kept = np.array([True, True, False, False])
    rules = recipe_rules(recipe, values, kept, np.zeros(4, bool))
    (cut,) = rules.cuts
    assert rules.kept().tolist() == kept.tolist()
    assert rules.kept(cut, 0.0).tolist() == [False, True, False, False]
    assert rules.kept(cut, 1.0).tolist() == [True, True, True, False]  # a null never passes


def bars(svg: str, name: str) -> list[tuple[float, float]]:
    found = re.findall(rf'<rect class="{name}" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', svg)
    return [(float(x), float(x) + float(width)) for x, width in found]


@pytest.mark.parametrize("equal_is_left", [True, False])
def test_no_bar_mixes_both_sides_of_a_threshold(equal_is_left):
    values = np.arange(0, 64) / 64
    kept = values <= 0.5 if equal_is_left else values < 0.5
    svg = histogram("t", values[kept], values[~kept], [Limit(0.5, "0.5", equal_is_left)])
    line = float(re.search(r'class="limit" d="M([\d.]+) ', svg)[1])
    assert max(right for _, right in bars(svg, "kept")) <= line + 0.1
    assert min(left for left, _ in bars(svg, "dropped")) >= line - 0.1


def test_histograms_of_odd_data():
    nothing = np.array([])
    assert histogram("t", nothing, nothing, []) == ""
    assert len(bars(histogram("t", np.zeros(5), nothing, []), "kept")) == 1
    tail = np.concatenate([np.full(900, 1.0), np.geomspace(1, 1e5, 100)])
    svg = histogram("a < b", tail, nothing, [Limit(1e9, ">= 1e+09")])
    assert (
        "a &lt; b" in svg and ">100<" in svg and 'class="limit"' not in svg
    )  # logarithmic; the threshold is off the scale
    assert "\u2192" in svg
    assert [short(v) for v in (12500.0, 999.4, 0.12345, 0.0)] == ["12.5k", "999", "0.123", "0"]

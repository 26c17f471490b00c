"""The filter that docs/extending.md shows works as shown."""

import re
import sys
import tomllib
import types
from pathlib import Path

import numpy as np
import pytest

from curate.core import plugins
from curate.core.config import build
from curate.recipes import Recipe

DOCUMENT = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()


@pytest.fixture
def shown_filter(monkeypatch):
    code = re.search(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)[1]
    module = types.ModuleType("curate.filters.dark")
    module.__package__ = "curate.filters"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "extending.md", "exec", dont_inherit=True), module.__dict__)
    known = plugins.names("curate.filters")
    load = plugins.load
    monkeypatch.setattr(plugins, "names", lambda package: (*known, "dark"))
    monkeypatch.setattr(plugins, "load", lambda package, name: module.Plugin if name == "dark" else load(package, name))
    return module.Plugin


def test_the_shown_filter_and_recipe_work(shown_filter):
    recipe = build(
        Recipe, {"name": "mine"} | tomllib.loads(re.search(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)[1]), where="t"
    )
    dark = recipe.filters()[-1]
    assert isinstance(dark, shown_filter) and dark.min_mean_luma_levels == 20

    class Seen:
        grey = np.full((4, 4), 19, np.uint8)

    assert dark.judge(dark.measure(Seen())).reason == "dark"

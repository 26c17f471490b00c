"""Recorded parameters give the same picture for ever: a few values of each, kept from the day they were recorded.

`IRDISTILL_WRITE_GOLDEN=1 pytest tests/golden/test_restoration_degradations_golden.py` writes the file anew; a changed number
is a breaking change and belongs into CHANGELOG.md. Values are compared to 2/255: codecs and libraries round differently.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from curate.core import plugins
from restoration.tasks import FOLDER, make_degradation, replay

GOLDEN = Path(__file__).with_name("degradations.json")
NAMES = (*(name for name in plugins.names(FOLDER) if name != "chain"), "rain-heavy", "real-esrgan", "bsrgan", "sr3")
SIZE = (40, 56)
TOLERANCE = 2 / 255


def image_CHW() -> np.ndarray:
    rows, columns = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    waves = [0.5 + 0.4 * np.sin(rows / 4 + channel) * np.cos(columns / 6) for channel in range(3)]
    return (np.round(np.stack(waves) * 255) / 255).astype(np.float32)


def probes(image: np.ndarray) -> list[float]:
    """Take nine pixels, the mean and the spread."""
    picked = image[:, 4::16, 5::23].ravel()[:9]
    return [round(float(value), 5) for value in (*picked, image.mean(), image.std())]


def rounded(value: object) -> object:
    """Round every number: logarithms differ in their last digit between machines."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return round(value, 9) if isinstance(value, float) else value


def record(name: str) -> dict:
    plugin = make_degradation(name)
    parameters = plugin.draw(np.random.default_rng(2026), *SIZE)
    return {
        "degradation": plugin.name,
        "parameters": parameters,
        "probes": probes(plugin.render(image_CHW(), parameters)),
    }


@pytest.mark.parametrize("name", NAMES)
def test_recorded_parameters_give_the_recorded_picture(name):
    stored = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("IRDISTILL_WRITE_GOLDEN"):
        stored[name] = record(name)
        GOLDEN.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
    assert name in stored, "record it: IRDISTILL_WRITE_GOLDEN=1"
    found = replay(stored[name]["degradation"], image_CHW(), stored[name]["parameters"])
    np.testing.assert_allclose(probes(found), stored[name]["probes"], atol=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_draws_the_same_parameters(name):
    stored = json.loads(GOLDEN.read_text())[name]["parameters"]
    assert rounded(record(name)["parameters"]) == rounded(stored)

"""DyNet against outputs of the published implementation, parameters filled by name (folder IRDISTILL_GOLDEN)."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from curate.core.errors import ManifestError
from restoration.models import make_model, num_parameters
from restoration.models.dynet import DEAD_LAYERS

GOLDEN = Path(os.environ.get("IRDISTILL_GOLDEN", Path(__file__).parents[2] / "../shared/golden"))
MAX_RELATIVE_ERROR, MAX_GRADIENT_ERROR = 1e-4, 1e-3  # float32
pytestmark = pytest.mark.skipif(
    not (GOLDEN / "dynet.npz").is_file(), reason=f"no golden files at {GOLDEN} (IRDISTILL_GOLDEN)"
)


@pytest.fixture(scope="module")
def shapes():
    return json.loads((GOLDEN / "dynet.json").read_text())


@pytest.fixture(scope="module")
def published_state(shapes):
    spec = importlib.util.spec_from_file_location("golden_fill", GOLDEN / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    return {name: torch.from_numpy(fill.values(name, tuple(shape))) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def model(published_state):
    model = make_model("dynet-s")
    model.load_published(published_state)
    return model


def test_parameter_names_and_counts(shapes, model):
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    assert sum(sizes.values()) == 16_726_031
    assert num_parameters(model) == 16_613_135 == sum(sizes.values()) - sum(sizes[name] for name in DEAD_LAYERS)
    ours = {name: list(value.shape) for name, value in model.state_dict().items()}
    assert ours == {name: shape for name, shape in shapes.items() if name not in DEAD_LAYERS}


@pytest.mark.parametrize("depth", ["S", "L"])
def test_outputs_and_gradient_norms(model, depth):
    with np.load(GOLDEN / "dynet.npz") as golden:
        expected = {name: golden[name] for name in golden.files}
    model.zero_grad()
    x = torch.from_numpy(expected["input"])
    output = model(x, model.depths[depth.lower()])
    truth = expected[f"output_{depth}"]
    assert np.abs(output.detach().numpy() - truth).max() / np.abs(truth).max() <= MAX_RELATIVE_ERROR
    loss = (output - x).abs().mean()
    loss.backward()
    assert loss.item() == pytest.approx(float(expected[f"loss_{depth}"]), rel=MAX_RELATIVE_ERROR)
    parameters = dict(model.named_parameters())
    checked = [name for name in expected if name.startswith(f"gradnorm_{depth}:")]
    assert checked
    for name in checked:
        norm = parameters[name.partition(":")[2]].grad.norm().item()
        assert norm == pytest.approx(float(expected[name]), rel=MAX_GRADIENT_ERROR), name


def test_a_missing_parameter_is_named(published_state):
    broken = {name: value for name, value in published_state.items() if name != "output.weight"}
    with pytest.raises(ManifestError, match=r"output\.weight"):
        make_model("dynet-s").load_published(broken)

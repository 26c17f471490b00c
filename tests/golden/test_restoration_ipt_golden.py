"""IPT against outputs of the published implementation, parameters filled by name (folder IRDISTILL_GOLDEN)."""

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
from restoration.models.ipt import IPT, UNUSED, Config

GOLDEN = Path(os.environ.get("IRDISTILL_GOLDEN", Path(__file__).parents[2] / "../shared/golden"))
LITERAL = Path(__file__).parents[1] / "oracle" / "test_restoration_ipt_literal.py"
MAX_RELATIVE_ERROR = 1e-4  # float32
TASKS = ("sr2", "sr3", "sr4", "rain", "noise30", "noise50")
pytestmark = pytest.mark.skipif(
    not (GOLDEN / "ipt.npz").is_file(), reason=f"no golden files at {GOLDEN} (IRDISTILL_GOLDEN)"
)


def read_shapes(size: str) -> dict[str, list[int]]:
    return json.loads((GOLDEN / f"ipt_{size}.json").read_text())


def published_state(size: str) -> dict[str, torch.Tensor]:
    """Fill by name, but for the frozen means, which keep their own values."""
    spec = importlib.util.spec_from_file_location("golden_fill", GOLDEN / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    state = {name: torch.from_numpy(fill.values(name, tuple(shape))) for name, shape in read_shapes(size).items()}
    means = 255 * torch.tensor([0.4488, 0.4371, 0.4040])
    for name, sign in (("sub_mean", -1), ("add_mean", 1)):
        state |= {f"{name}.weight": torch.eye(3)[:, :, None, None], f"{name}.bias": sign * means}
    return state


@pytest.fixture(scope="module")
def expected():
    with np.load(GOLDEN / "ipt.npz") as golden:
        return {name: golden[name] for name in golden.files}


@pytest.fixture(scope="module")
def tiny():
    model = make_model("ipt-tiny").eval()
    model.load_published(published_state("tiny"))
    return model


@torch.inference_mode()
def error(model, x_levels: np.ndarray, task: str, truth: np.ndarray, step: int = 1) -> float:
    output = 255 * model(torch.from_numpy(x_levels) / 255, task)[..., ::step, ::step].numpy()
    assert output.shape == truth.shape
    return float(np.abs(output - truth).max() / np.abs(truth).max())


@pytest.mark.parametrize("number", range(6))
def test_tiny_outputs(tiny, expected, number):
    truth = expected[f"output_tiny_task{number}"]
    assert error(tiny, expected["input"], TASKS[number], truth) <= MAX_RELATIVE_ERROR


def test_full_outputs(expected):
    """Filled parameters make attention of one-hot rows: the last bit of a sum, layer by layer, becomes a tenth of the output.

    So the published values hold for one picture, contiguous weights, and kernels that add in their order; where this machine's
    do not, the literal arrangement misses them too, and ours must still equal that.
    """
    model = make_model("ipt").eval()
    model.load_published(published_state("full"))
    x = expected["input"][:1]
    errors = {n: error(model, x, TASKS[n], expected[f"output_full_task{n}"], step=4) for n in (0, 2, 3)}
    if max(errors.values()) <= MAX_RELATIVE_ERROR:
        return
    spec = importlib.util.spec_from_file_location("literal", LITERAL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    literal = module.LiteralIPT(model.config).eval()
    literal.load_state_dict(model.state_dict())
    for number in errors:
        with torch.inference_mode():
            truth = 255 * literal(torch.from_numpy(x) / 255, TASKS[number]).numpy()
        missed = np.abs(truth[..., ::4, ::4] - expected[f"output_full_task{number}"]).max()
        assert missed > MAX_RELATIVE_ERROR * np.abs(truth).max(), f"only ours misses the published values: {errors}"
        assert error(model, x, TASKS[number], truth) <= MAX_RELATIVE_ERROR, number


@pytest.mark.parametrize(("size", "name", "count"), [("full", "ipt", 118_892_394), ("tiny", "ipt-tiny", None)])
def test_parameter_names_shapes_and_count(size, name, count):
    with torch.device("meta"):
        model = make_model(name)
    ours = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert ours == {key: shape for key, shape in read_shapes(size).items() if key != UNUSED}
    assert (
        num_parameters(model) == sum(int(np.prod(shape)) for shape in ours.values()) == (count or num_parameters(model))
    )


@pytest.mark.parametrize(
    ("tasks", "count"),
    [({"sr2": 2}, 115_460_443), ({"sr3": 3}, 115_645_083), ({"sr4": 4}, 115_608_155), ({"noise30": 1}, 115_312_731)],
)
def test_single_task_counts(tasks, count):
    with torch.device("meta"):
        assert num_parameters(IPT(Config(tasks=tasks))) == count


def test_heads_are_taken_by_name_from_the_six(tiny, expected):
    """A network of two tasks loads the published file of six and computes the same with its own two."""
    few = make_model("ipt-tiny", {**plain_tiny(), "tasks": {"noise50": 1, "sr3": 3}}).eval()
    few.load_published(published_state("tiny"))
    for number in (1, 5):
        truth = expected[f"output_tiny_task{number}"]
        assert error(few, expected["input"], TASKS[number], truth) <= MAX_RELATIVE_ERROR


def test_single_task_file(tiny, expected):
    """One head, whatever the number of rows of its embedding; a network of six heads refuses it and says how to go on."""
    state = published_state("tiny")
    single = {name: value for name, value in state.items() if not name.startswith(("head.", "tail."))}
    single |= {name: value for name, value in state.items() if name.startswith(("head.0.", "tail.0."))}
    model = make_model("ipt-tiny", {**plain_tiny(), "tasks": {"twice": 2}}).eval()
    for rows in (6, 1):
        single["body.query_embed.weight"] = state["body.query_embed.weight"][:rows]
        model.load_published(single)
        assert error(model, expected["input"], "twice", expected["output_tiny_task0"]) <= MAX_RELATIVE_ERROR
    with pytest.raises(ManifestError, match=r"holds 1 heads, this network 6 .* sr2 = 2"):
        make_model("ipt-tiny").load_published(single)
    single["body.query_embed.weight"] = state["body.query_embed.weight"][:0]
    with pytest.raises(ManifestError, match=r"query_embed\.weight has shape"):
        model.load_published(single)


def plain_tiny() -> dict[str, object]:
    return {"channels": 16, "num_heads": 4, "num_encoder_layers": 2, "num_decoder_layers": 2}

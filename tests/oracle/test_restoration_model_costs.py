"""Multiply-adds of every network against the published ones, counted on shapes alone (meta tensors).

Counted: half of what torch's FlopCounterMode counts, that is convolutions and every matrix product, attention's included, of
the literal arrangement (the oracles beside this file, which equal our networks in value and gradient); norms, softmax,
activations and resizing are not counted. Our own arrangement folds attention into the output projection and needs less.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from restoration.models import make_model, preset

MAX_ERROR = 1e-3


def neighbour(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"test_restoration_{name}.py"))
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def unets():
    return neighbour("unets_literal")


def giga_macs(run, *arguments) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(*arguments)
    return counter.get_total_flops() / 2e9


def on_meta(name: str) -> torch.nn.Module:
    with torch.device("meta"):
        return make_model(name).requires_grad_(False)  # the counter's hooks want a history of whatever has gradients


@pytest.mark.parametrize(
    ("name", "published"), [("dynet-l", 132.23), ("dynet-s", 90.81), ("promptir", 132.23), ("restormer", 118.58)]
)
def test_multiply_adds_at_224(unets, name, published):
    """Source: spec/dynet.md 1.4, fvcore, attention's products included."""
    model, x = on_meta(name), torch.empty(1, 3, 224, 224, device="meta")
    literal = {"promptir": unets.literal_promptir, "restormer": unets.literal_restormer}.get(name)
    if literal is None:
        count = giga_macs(unets.dynet_literal.literal_dynet, dict(model.named_parameters()), x, model.reuse)
    else:
        count = giga_macs(literal, dict(model.named_parameters()), x)
    assert count == pytest.approx(published, rel=MAX_ERROR)
    assert giga_macs(model, x) < count


def test_multiply_adds_of_ipt():
    """Source: spec/ipt.md section 1, at 48x48, head and tail included."""
    x = torch.empty(1, 3, 48, 48, device="meta")
    with torch.device("meta"):
        literal = neighbour("ipt_literal").LiteralIPT(preset("ipt")).requires_grad_(False)
    for task, published in {"rain": 32.97, "sr2": 33.32, "sr3": 33.77, "sr4": 34.73}.items():
        counts = giga_macs(literal, x, task), giga_macs(on_meta("ipt"), x, task)
        assert counts == pytest.approx((published, published), rel=MAX_ERROR), task


def test_multiply_adds_of_nafnet(unets):
    model, x = on_meta("nafnet-small"), torch.empty(1, 3, 256, 256, device="meta")
    count = giga_macs(unets.literal_nafnet, dict(model.named_parameters()), x)
    assert count == pytest.approx(giga_macs(model, x)) and count < 0.15 * 118.61  # a seventh of dynet-s

"""One contract for every named model of restoration/models."""

from __future__ import annotations

import pytest
import torch

from curate.core.config import build, to_plain
from curate.core.errors import ConfigError, PluginError
from restoration.bound import bind, parse_depth
from restoration.models import make_model, model_names, num_parameters, preset, training_defaults

LARGE = {"dynet-s", "dynet-l"}  # 16.6 M parameters: run by the golden test
SMALL_NAMES = [name for name in model_names() if name not in LARGE]
SIZES = {"dynet-s": 16_613_135, "dynet-l": 16_613_135}
MAX_SIZES = {"dynet-tiny": 150_000, "tiny": 2_000}


def woken(name: str) -> torch.nn.Module:
    """Fresh networks return their input; small noise on every weight makes them do something."""
    model = make_model(name)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("name", SMALL_NAMES)
@pytest.mark.parametrize("size", [(64, 64), (5, 7), (1, 1), (33, 50), (8, 3)])
def test_any_size_keeps_its_shape(name, size):
    output = woken(name)(torch.rand(1, 3, *size))
    assert output.shape == (1, 3, *size) and output.dtype == torch.float32 and torch.isfinite(output).all()


@pytest.mark.parametrize("name", SMALL_NAMES)
def test_fresh_weights_return_the_input(name):
    x = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(make_model(name)(x), x)


@pytest.mark.parametrize("name", SMALL_NAMES)
def test_every_parameter_learns(name):
    model = woken(name)
    model(torch.rand(2, 3, 16, 24)).square().mean().backward()
    without = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize("name", SMALL_NAMES)
def test_pictures_of_a_batch_do_not_mix(name):
    model, x = woken(name).eval(), torch.rand(3, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL_NAMES)
def test_state_and_config_survive_being_written_down(name):
    model = woken(name)
    plain = to_plain(model.config)
    again = make_model(name, plain)
    assert again.config == model.config == build(type(model.config), plain, where=name)
    again.load_state_dict(model.state_dict())
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize("name", SMALL_NAMES)
def test_every_depth_runs_and_changes_the_output(name):
    model, x = woken(name), torch.rand(1, 3, 16, 16)
    outputs = [model(x, depth) for depth in model.depths.values()]
    assert all(output.shape == x.shape for output in outputs)
    assert len(outputs) < 2 or not torch.equal(outputs[0], outputs[1])


@pytest.mark.parametrize("name", model_names())
def test_size_training_defaults_and_docstring(name):
    with torch.device("meta"):
        count = num_parameters(make_model(name))
    assert count == SIZES.get(name, count) and count <= MAX_SIZES.get(name, count)
    defaults = training_defaults(name)
    assert defaults.peak_lr > 0 and defaults.batch_size >= 1 and defaults.crop_px >= 8
    assert all(f"{field}:" in type(preset(name)).__doc__ for field in to_plain(preset(name)))


def test_tiny_dynet_is_what_the_design_says():
    config = preset("dynet-tiny")
    assert 8 <= config.channels[0] <= 12
    assert (config.depth_s, config.depth_l) == ((1, 1, 1, 2), (2, 2, 2, 3))


def test_both_depths_share_one_set_of_weights():
    with torch.device("meta"):
        small, large = make_model("dynet-s"), make_model("dynet-l")
    assert list(small.state_dict()) == list(large.state_dict())
    assert (small.reuse, large.reuse) == ((2, 3, 3, 4), (4, 6, 6, 8))


@pytest.mark.parametrize(
    ("typo", "near"), [("dynet-tny", "dynet-tiny"), ("dynt-s", "dynet-s"), ("dynet", "dynet-s"), ("", "dynet-l")]
)
def test_typo_lists_near_names(typo, near):
    with pytest.raises(PluginError, match=near):
        make_model(typo)


@pytest.mark.parametrize(
    "values",
    [
        {"channels": [12, 18, 24, 32]}, {"num_heads": [5, 1, 1, 1]}, {"reuse": [1, 1, 1, 0]}, {"expansion": 0.0},
        {"chanels": [1, 2, 3, 4]}, {"depth_l": [1, 2]}, {"num_prompts": 0},
    ],
)  # fmt: skip
def test_dynet_config_refuses_nonsense(values):
    with pytest.raises(ConfigError):
        make_model("dynet-tiny", {**to_plain(preset("dynet-tiny")), **values})


def test_depth_words():
    model = make_model("dynet-tiny")
    assert parse_depth(model, "") == (1, 1, 1, 2)
    assert parse_depth(model, "l") == (2, 2, 2, 3)
    assert parse_depth(model, "1,2,3,4") == (1, 2, 3, 4)
    for wrong in ("xl", "1,2,3", "0,1,1,1", "1,2,3,-4", "9999,1,1,1"):
        with pytest.raises(ConfigError, match="depth must be"):
            parse_depth(model, wrong)
    assert parse_depth(make_model("tiny"), "") is None
    with pytest.raises(ConfigError, match="one depth"):
        parse_depth(make_model("tiny"), "s")
    assert (bind(model, depth="l").reuse, bind(model, task="any").scale) == ((2, 2, 2, 3), 1)


def test_dynet_refuses_what_is_not_a_batch():
    with pytest.raises(ValueError, match="B, 3, H, W"):
        make_model("dynet-tiny")(torch.rand(3, 8, 8))

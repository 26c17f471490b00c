"""One contract for every named model of restoration/models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from curate.core.config import build, to_plain
from curate.core.errors import ConfigError, PluginError
from restoration.bound import bind, parse_depth
from restoration.models import channels_last, make_model, model_names, num_parameters, preset, training_defaults

MODELS_PAGE = Path(__file__).parents[2] / "docs" / "models.md"
LARGE = {
    "dynet-s",
    "dynet-l",
    "promptir",
    "restormer",
    "ipt",
    "ipt-tiny",
    "nafnet-small",
}  # as they are: shapes alone (meta)
SIZES = {
    "dynet-s": 16_613_135, "dynet-l": 16_613_135, "promptir": 35_376_967, "restormer": 26_126_644, "ipt": 118_892_394,
    "nafnet-small": 9_706_275,
}  # fmt: skip
MAX_SIZES = {"dynet-tiny": 150_000, "tiny": 2_000, "nafnet-tiny": 170_000, "ipt-tiny": 2_500_000}
NO_SKIP = {"ipt"}  # nothing leads from input to output but what is learned
WIDTHS = {"channels": [8, 16, 24, 32], "num_heads": [1, 2, 2, 4], "num_refinement": 1}
PROMPTS = {"prompt_channels": [8, 8, 8], "prompt_side_px": [16, 8, 4]}
SHRUNK = {
    "dynet-s": WIDTHS | PROMPTS | {"reuse": [1, 1, 1, 2], "depth_s": [1, 1, 1, 2]},
    "promptir": WIDTHS | PROMPTS | {"num_blocks": [1, 1, 1, 2]},
    "restormer": WIDTHS | {"num_blocks": [1, 1, 1, 2]},
    "ipt": {
        "channels": 8, "num_heads": 4, "num_encoder_layers": 1, "num_decoder_layers": 1, "tile_px": 24,
        "tasks": {"sr2": 2, "sr3": 3, "sr8": 8, "mine": 1},
    },
    "nafnet-small": {"channels": 4, "encoder_blocks": [1, 0, 1], "middle_blocks": 1, "decoder_blocks": [1, 1, 0]},
}  # fmt: skip
NAMES = [name for name in model_names() if name not in LARGE] + list(SHRUNK)


def small(name: str) -> torch.nn.Module:
    """Make a network; a large one of other widths, so that it can be run here."""
    return make_model(name, {**to_plain(preset(name)), **SHRUNK.get(name, {})})


def woken(name: str) -> torch.nn.Module:
    """Fresh networks return their input; small noise on every weight makes them do something."""
    model = small(name)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def heads(model: torch.nn.Module) -> dict[str | None, int]:
    """List what a call may ask for: head -> scale; None: nothing."""
    return dict(model.tasks) or {None: 1}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(64, 64), (5, 7), (1, 1), (33, 50), (8, 3)])
def test_any_size_keeps_its_shape(name, size):
    model = woken(name)
    for head, scale in heads(model).items():
        output = model(torch.rand(1, 3, *size), head)
        assert output.shape == (1, 3, scale * size[0], scale * size[1])
        assert output.dtype == torch.float32 and torch.isfinite(output).all()


@pytest.mark.parametrize("name", sorted(LARGE))
def test_large_networks_as_they_are(name):
    with torch.device("meta"):
        model = make_model(name)
    for head, scale in heads(model).items():
        x = torch.empty(1, 3, 60, 52, device="meta")
        assert model(x, head).shape == (1, 3, 60 * scale, 52 * scale)


@pytest.mark.parametrize("name", sorted(set(NAMES) - NO_SKIP))
def test_fresh_weights_return_the_input(name):
    x = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(small(name)(x), x)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns(name):
    model = woken(name)
    x = torch.rand(2, 3, 16, 24)
    sum(model(x, head).square().mean() for head in heads(model)).backward()
    learning = {key: value for key, value in model.named_parameters() if value.requires_grad}
    without = [key for key, value in learning.items() if value.grad is None or not value.grad.abs().sum() > 0]
    assert without == [] and len(learning) >= len(list(model.parameters())) - 4  # the frozen means of ipt


@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_a_batch_do_not_mix(name):
    model, x = woken(name).eval(), torch.rand(3, 3, 16, 16)
    head = next(iter(heads(model)))
    with torch.inference_mode():
        torch.testing.assert_close(model(x, head)[1:2], model(x[1:2], head), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_state_and_config_survive_being_written_down(name):
    model = woken(name)
    plain = json.loads(json.dumps(to_plain(model.config)))
    again = make_model(name, plain)
    assert again.config == model.config == build(type(model.config), plain, where=name)
    assert list(again.tasks.items()) == list(model.tasks.items())
    again.load_state_dict(model.state_dict())
    x, head = torch.rand(1, 3, 16, 16), list(heads(model))[-1]
    assert torch.equal(again(x, head), model(x, head))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NO_SKIP])
def test_every_depth_runs_and_changes_the_output(name):
    model, x = woken(name), torch.rand(1, 3, 16, 16)
    outputs = [model(x, depth) for depth in model.depths.values()]
    assert all(output.shape == x.shape for output in outputs)
    assert len(outputs) < 2 or not torch.equal(outputs[0], outputs[1])


@pytest.mark.parametrize("name", NAMES)
def test_autocast_and_channels_last(name):
    model, x = channels_last(woken(name)).eval(), torch.rand(1, 3, 24, 24)
    head = next(iter(heads(model)))
    with torch.inference_mode():
        exact = model(x.contiguous(memory_format=torch.channels_last), head)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(x, head)
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().mean() <= 0.05 * exact.abs().mean() + 0.01


@pytest.mark.parametrize("name", ["ipt", "nafnet-small", "tiny"])
def test_weights_in_bf16(name):
    model, x = woken(name).eval(), torch.rand(1, 3, 24, 24)
    head = next(iter(heads(model)))
    with torch.inference_mode():
        exact = model(x, head)
        rough = model.bfloat16()(x.bfloat16(), head)
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).abs().mean() <= 0.05 * exact.abs().mean() + 0.01


@pytest.mark.parametrize("name", model_names())
def test_size_training_defaults_and_docstring(name):
    with torch.device("meta"):
        count = num_parameters(make_model(name))
    assert count == SIZES.get(name, count) and count <= MAX_SIZES.get(name, count)
    assert name in SIZES or name in MAX_SIZES
    assert f"| {count:,} |" in MODELS_PAGE.read_text() and f"`{name}`" in MODELS_PAGE.read_text()
    assert name not in SIZES or f"{count:,} parameters" in type(preset(name)).__doc__
    defaults = training_defaults(name)
    assert defaults.peak_lr > 0 and defaults.batch_size >= 1 and defaults.crop_px >= 8
    assert all(f"{field}:" in type(preset(name)).__doc__ for field in to_plain(preset(name)))


def test_a_head_must_be_named_where_there_are_several():
    model, x = small("ipt"), torch.rand(1, 3, 24, 24)
    for wrong in (None, "sr5", ""):
        with pytest.raises(ConfigError, match="sr2, sr3, sr8, mine"):
            model(x, wrong)
    single = make_model("ipt", {**to_plain(model.config), "tasks": {"sr2": 2}})
    assert single(x).shape == (1, 3, 48, 48)
    assert (bind(model, task="sr3").scale, bind(single).task) == (3, "sr2")
    with pytest.raises(ConfigError, match="name one"):
        bind(model)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("ipt", {"tasks": {}}), ("ipt", {"tasks": {"sr5": 5}}), ("ipt", {"num_heads": 5}), ("ipt", {"tile_px": 50}),
        ("ipt", {"overlap_px": 30}), ("ipt", {"tiles_per_batch": 0}), ("ipt", {"tasks": {"sr2": "two"}}),
        ("restormer", {"norm": "batch"}),
        ("restormer", {"num_blocks": [1, 1, 1, 0]}), ("restormer", {"channels": [8, 18, 24, 32]}),
        ("promptir", {"prompt_channels": [8, 8, 9]}), ("promptir", {"num_prompts": 0}), ("promptir", {"expansion": 0.0}),
        ("nafnet-small", {"channels": 7}), ("nafnet-small", {"encoder_blocks": [1]}),
        ("nafnet-small", {"decoder_blocks": [1, 1, 1, 65]}),
    ],
)  # fmt: skip
def test_configs_refuse_nonsense(name, values):
    with pytest.raises(ConfigError):
        make_model(name, {**to_plain(small(name).config), **values})


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

"""What the whole picture decides, measured once: replayed it changes nothing, and tiles that share it agree with the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from curate.core.errors import ConfigError
from restoration.bound import bind
from restoration.memory import WORKSPACE_FACTOR, ForwardCost, forward_cost, memory_limit, parse_bytes
from restoration.models import make_model
from restoration.restorer import Restorer, TilingConfig, turn_back, turn_by, turn_place
from restoration.statistics import Place, SharedStatistics, looks_at_everything, measuring, replaying

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network():
    """A dynet-tiny that does something: fresh networks return their input."""
    torch.manual_seed(0)
    model = make_model("dynet-tiny")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return bind(model.eval())


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Bright and busy on the left, dark and flat on the right: halves that attention treats differently."""
    rng = np.random.default_rng(0)
    image = np.full((168, 296, 3), 20.0)
    image[:, :148] = 170
    image += rng.normal(0, 1, image.shape) * np.where(np.arange(296) < 148, 40, 3)[None, :, None]
    return np.clip(image, 0, 255).astype(np.uint8).astype(np.uint16) * 257


def restored(network, picture, limit=10**10, ensemble=False, **settings):
    tiling = TilingConfig(**{"tile_px": 128, "overlap_px": 64, "margin_px": 24, **settings})
    return Restorer(network, device=CPU, limit_bytes=limit, self_ensemble=ensemble, tiling=tiling).restore(picture)


@torch.inference_mode()
def test_replaying_what_was_measured_changes_nothing(network):
    x_BCHW, places = torch.rand(1, 3, 48, 64), [Place(0, 0, 48, 64)]
    plain = network(x_BCHW)
    with measuring(network.module, places, (48, 64)) as shared:
        measured = network(x_BCHW)
    with replaying(network.module, shared, places, (48, 64)):
        replayed = network(x_BCHW)
    torch.testing.assert_close(measured, plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(replayed, plain, rtol=1e-4, atol=1e-5)
    assert torch.equal(network(x_BCHW), plain), "nothing is left behind"


@torch.inference_mode()
def test_a_batch_of_equal_windows_measures_what_one_does(network):
    x_BCHW = torch.rand(1, 3, 32, 32)
    place = Place(0, 0, 32, 32)
    outputs = []
    for num in (1, 3):
        with measuring(network.module, [place] * num, (32, 32)) as shared:
            network(x_BCHW.repeat(num, 1, 1, 1))
        with replaying(network.module, shared, [place], (32, 32)):
            outputs.append(network(x_BCHW))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_batches_of_windows_add_up(network):
    """Equal windows one after another measure what one does: sums carry over, averages stay."""
    x_BCHW, place, shared = torch.rand(1, 3, 32, 32), Place(0, 0, 32, 32), SharedStatistics()
    for num in (1, 2, 1):
        with measuring(network.module, [place] * num, (32, 32), shared):
            network(x_BCHW.repeat(num, 1, 1, 1))
    with replaying(network.module, shared, [place], (32, 32)):
        replayed = network(x_BCHW)
    torch.testing.assert_close(replayed, network(x_BCHW), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_sums_and_averages_over_batches():
    shared = SharedStatistics()
    for values, total, mean in (([1.0, 3.0], 4.0, 2.0), ([5.0], 9.0, 3.0)):
        shared.begin([Place(0, 0, 8, 8)] * len(values), (8, 8), replay=False)
        assert (float(shared.total(torch.tensor(values))), float(shared.mean(torch.tensor(values)))) == (total, mean)


def test_a_prompt_is_spread_as_over_the_whole_picture():
    grid, shared = torch.rand(1, 4, 6, 5), SharedStatistics()
    whole = functional.interpolate(grid, (40, 72), mode="bilinear", align_corners=False)
    shared.begin([Place(0, 0, 160, 288), Place(32, 64, 160, 288)], (64, 96), replay=True)
    parts = shared.spread(grid, (16, 24))
    torch.testing.assert_close(parts[0], whole[0, :, :16, :24])
    torch.testing.assert_close(parts[1], whole[0, :, 8:24, 16:40])


def test_the_seam_is_closed_after_an_error(network):
    with pytest.raises(RuntimeError), measuring(network.module, [Place(0, 0, 8, 8)], (8, 8)):
        raise RuntimeError
    assert looks_at_everything(network.module) and not looks_at_everything(make_model("tiny"))
    assert all(part.statistics is None for part in network.module.modules() if hasattr(part, "statistics"))


def test_tiles_that_share_agree_with_the_whole_and_tiles_that_do_not_do_not(network, picture):
    whole = restored(network, picture).astype(float)
    assert np.abs(whole - picture).mean() > 257, "the network does something"
    exact = restored(network, picture, whole=False, window_px=296, window_frac=1.0)
    alone = restored(network, picture, whole=False, shared=False)
    difference, without = (np.abs(other - whole).max() / 65535 for other in (exact, alone))
    assert difference <= 1 / 255, difference
    assert without > 8 * difference, (difference, without)
    together = restored(network, picture, whole=False, batch=3)
    assert np.abs(together.astype(int) - restored(network, picture, whole=False)).max() <= 8, (
        "one matrix for several tiles"
    )


def test_turns_are_undone_and_places_turn_with_them():
    whole = torch.arange(24 * 40, dtype=torch.float32).reshape(1, 1, 24, 40)
    tile, place = whole[:, :, 8:16, 16:40], Place(8, 16, 24, 40)
    for turn in range(8):
        turned_whole, turned_tile = turn_by(whole, turn), turn_by(tile, turn)
        found = turn_place(place, 8, 24, turn)
        assert turned_whole.shape[2:] == (found.height, found.width)
        rows = slice(found.top, found.top + turned_tile.shape[2])
        assert torch.equal(turned_whole[:, :, rows, found.left : found.left + turned_tile.shape[3]], turned_tile)
        assert torch.equal(turn_back(turned_tile, turn), tile)


def test_self_ensemble_is_the_mean_of_eight_views_whole_or_tiled(network, picture):
    small = picture[:96, 100:244]
    x_BCHW = torch.from_numpy(small.astype(np.float32).transpose(2, 0, 1)[None] / np.float32(65535))
    with torch.inference_mode():
        mean = sum(turn_back(network(turn_by(x_BCHW, turn)), turn) for turn in range(8)) / 8
    expected = np.clip(np.rint(mean[0].permute(1, 2, 0).numpy() * 65535), 0, 65535)
    assert np.abs(restored(network, small, ensemble=True) - expected).max() <= 8
    tiled = restored(
        network, small, ensemble=True, whole=False, tile_px=128, overlap_px=64, window_px=144, window_frac=1.0
    )
    assert np.abs(tiled - expected).max() <= 257


def test_sizes_of_memory():
    assert parse_bytes("800MB", name="x") == 800_000_000 and parse_bytes("1GiB", name="x") == 2**30
    assert parse_bytes(" 2 gb ", name="x") == parse_bytes("2G", name="x") == 2_000_000_000
    for wrong in ("", "2", "0GB", "-1GB", "two", "2GBs", "nan"):
        if wrong != "2":
            with pytest.raises(ConfigError, match="max_memory must be a size"):
                parse_bytes(wrong, name="max_memory")
    assert memory_limit("", CPU) == 4_000_000_000


def test_a_forward_pass_is_counted():
    """Two planes live at once: 8 channels of float32, then their ReLU."""
    cost = forward_cost(lambda x_BCHW: torch.relu(x_BCHW.repeat(1, 8, 1, 1)), CPU)
    assert cost.per_pixel == pytest.approx(WORKSPACE_FACTOR * 2 * 24 * 4, rel=0.01) and cost.fixed == pytest.approx(
        0, abs=1e3
    )
    assert ForwardCost(100.0, 10.0).pixels_in(1100) == 100 and ForwardCost(100.0, 10.0).of(100) == 1100


def test_memory_decides_between_whole_tiles_and_refusal(network):
    generous = Restorer(network, device=CPU, limit_bytes=10**11)
    assert generous.plan(4000, 6000, 3).whole and not generous.plan(4000, 6000, 3).num_windows
    taken = 10**11 - generous.cost.pixels_in(10**11)  # whatever this process holds already
    assert taken > 0
    base = generous.free_bytes(0)
    pictures = 4000 * 6000 * 6
    tight = Restorer(network, device=CPU, limit_bytes=10**11 - base + pictures + 700_000_000)
    plan = tight.plan(4000, 6000, 3)
    assert not plan.whole and plan.grid.tile_px == 384 and plan.num_windows * plan.window_px**2 > 10**6
    tighter = Restorer(network, device=CPU, limit_bytes=10**11 - base + pictures + 180_000_000)
    assert 96 <= tighter.plan(4000, 6000, 3).grid.tile_px < 384
    itself = make_model("tiny")
    itself.probe_sides_px = (64, 128)
    alone = Restorer(bind(itself), device=CPU, limit_bytes=10**11 - base + pictures + 700_000_000)
    assert 1000 < alone.plan(4000, 6000, 3).grid.tile_px < 6000, "a network that tiles by itself gets large pieces"
    with pytest.raises(ConfigError, match=r"6000x4000 needs at least \d.* raise --max-memory"):
        Restorer(network, device=CPU, limit_bytes=10**8).check_room(4000, 6000, 3, 10**6)

"""Any size through a network of one size: exact where the network does nothing, no seam, bounded batches, gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from restoration.models._tiles import reflect_to_size, run_in_tiles, tile_starts
from restoration.models.ipt import IPT, Config

SETTINGS = {"tile_px": 12, "overlap_px": 4, "tiles_per_batch": 5}


def enlarge(scale: int):
    return lambda tiles: torch.nn.functional.interpolate(tiles, scale_factor=scale, mode="nearest")


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("size", [(12, 12), (13, 40), (50, 12), (5, 30), (1, 1), (2, 3)])
def test_what_changes_no_pixel_comes_back_exactly(size, scale):
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    output = run_in_tiles(x, enlarge(scale), scale=scale, **SETTINGS)
    torch.testing.assert_close(output, enlarge(scale)(x), rtol=1e-12, atol=1e-12)


def test_tiles_that_disagree_are_blended_without_a_step():
    """Every tile returns a constant of its own: the result changes by no more than the ramp allows from pixel to pixel."""
    values = iter(range(100))

    def run(tiles: Tensor) -> Tensor:
        return torch.stack([torch.full_like(tile, next(values) % 2) for tile in tiles])

    output = run_in_tiles(torch.rand(1, 1, 12, 100), run, scale=1, **SETTINGS)[0, 0, 6]
    assert output.min() < 0.01 and output.max() > 0.99
    assert output.diff().abs().max() <= 1 / SETTINGS["overlap_px"] + 1e-6


def test_batches_are_bounded_and_cover_everything():
    seen = []

    def run(tiles: Tensor) -> Tensor:
        seen.append(len(tiles))
        return tiles

    run_in_tiles(torch.rand(2, 3, 40, 40), run, scale=1, **SETTINGS)
    assert max(seen) == 4 and sum(seen) == 2 * len(tile_starts(40, 12, 4)) ** 2  # two pictures, two places at a time


@pytest.mark.parametrize(("size", "overlap"), [(12, 4), (13, 4), (100, 0), (101, 4), (97, 6)])
def test_starts_cover_with_the_overlap(size, overlap):
    starts = tile_starts(size, 12, overlap)
    assert starts[0] == 0 and starts[-1] == size - 12
    assert all(0 < b - a <= 12 - overlap for a, b in itertools.pairwise(starts))


def test_reflection_goes_on_where_a_picture_is_small():
    x = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    assert reflect_to_size(x, 2, 8).tolist() == [[[[1, 2, 3, 2, 1, 2, 3, 2]] * 2]]


def test_a_tile_and_its_picture_agree_and_gradients_flow():
    torch.manual_seed(0)
    config = Config(channels=4, num_heads=2, num_encoder_layers=1, num_decoder_layers=1, tile_px=12, overlap_px=4)
    model = IPT(config)
    x = torch.rand(1, 3, 12, 12)
    features, tokens = model.encode(x, "sr2")
    assert tokens.shape == (1, 16, 36) and torch.equal(tokens, model.tokens(x, "sr2"))
    assert torch.equal(model.decode(features, tokens, "sr2"), model(x, "sr2"))
    model(torch.rand(1, 3, 20, 9), "sr2").square().mean().backward()
    grads = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert grads["head.0.0.weight"].norm() > 0 and "head.1.0.weight" not in grads  # other heads stay out of it
    rows = grads["body.query_embed.weight"].norm(dim=1)
    assert rows[0] > 0 and rows[1:].sum() == 0

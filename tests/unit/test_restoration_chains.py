"""Chains: what a TOML file may say, every mistake as a line, order and odds, sizes on the way."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import pytest
import torch

from curate.core import plugins
from curate.core.errors import ConfigError
from restoration.degradations.chain import load_chain, shipped_chains
from restoration.tasks import FOLDER, make_degradation, replay


def write(tmp_path, text: str) -> str:
    (tmp_path / "mine.toml").write_text(text)
    return str(tmp_path / "mine.toml")


def names(chain, seed: int) -> list[str]:
    return [step["degradation"] for step in chain.draw(np.random.default_rng(seed), 64, 64)["steps"]]


@pytest.mark.parametrize("name", shipped_chains())
def test_shipped_chains_run_at_any_size(name):
    chain = load_chain(name)
    for seed, size in enumerate([(64, 80), (33, 47), (1, 1), (1, 9)]):
        image = np.random.default_rng(seed).random((3, *size), np.float32)
        damaged = chain.apply(image, np.random.default_rng(seed))
        assert damaged.shape == image.shape and 0 <= damaged.min() <= damaged.max() <= 1
        np.testing.assert_allclose(damaged * 255, np.rint(damaged * 255), atol=1e-3)


def test_shipped_numbers():
    """Second blur with 0.8, sinc in a tenth, either order at the end; BSRGAN never shrinks to the target before the first."""
    real, bsr = load_chain("real-esrgan"), load_chain("bsrgan")
    assert real.target_scale == bsr.target_scale == 4
    first = collections.Counter(names(real, seed)[0] for seed in range(400))
    assert first["sinc"] / 400 == pytest.approx(0.1, abs=0.05)
    assert sum(name in ("gaussian_blur", "sinc") for name in names(real, 0)) >= 1
    last = {names(real, seed)[-1] for seed in range(40)}
    assert last == {"jpeg", "sinc", "resize"}
    for seed in range(60):
        assert names(bsr, seed)[-1] == "jpeg"
        sizes = [
            step["parameters"]["height"] for step in bsr.draw(np.random.default_rng(seed), 64, 64)["steps"]
            if step["degradation"] == "resize"
        ]  # fmt: skip
        assert sizes[-1] == 16
    assert len({tuple(names(bsr, seed)) for seed in range(30)}) > 15


def test_orders_and_odds(tmp_path):
    chain = load_chain(write(tmp_path, """
        order = "shuffled"
        [[steps]]
        degradation = "speckle"
        keep_order = true
        [[steps]]
        degradation = "poisson"
        probability = 0.25
        [[steps]]
        degradation = "sinc"
        keep_order = true
        [[steps]]
        order = "one_of"
        steps = [{ degradation = "jpeg", weight = 3 }, { degradation = "webp", weight = 1 }]
    """))  # fmt: skip
    drawn = [names(chain, seed) for seed in range(400)]
    assert all(row.index("speckle") < row.index("sinc") for row in drawn)
    assert sum("poisson" in row for row in drawn) / 400 == pytest.approx(0.25, abs=0.07)
    assert sum("webp" in row for row in drawn) / 400 == pytest.approx(0.25, abs=0.07)
    assert {row[0] for row in drawn} >= {"speckle", "poisson", "jpeg", "webp"}


def test_a_file_of_ones_own_is_a_task_and_replays(tmp_path):
    task = f"chain:{write(tmp_path, '[[steps]]' + chr(10) + 'degradation = ' + chr(34) + 'rain' + chr(34))}"
    image = np.full((3, 40, 40), 0.3, np.float32)
    parameters = make_degradation(task).draw(np.random.default_rng(0), 40, 40)
    expected = make_degradation(task).apply(image, np.random.default_rng(0))
    np.testing.assert_array_equal(replay("chain", image, parameters), expected)
    batch = make_degradation(task).render_batch(torch.from_numpy(image)[None], [parameters])
    assert batch.shape == (1, 3, 40, 40) and float(batch.mean()) > 0.3


def test_every_mistake_is_one_line_that_says_where(tmp_path):
    path = write(
        tmp_path,
        """
        order = "random"
        tarket_scale = 2
        target_scale = 0.5
        round_levels = 1
        [[steps]]
        degradation = "jpeg"
        settings = { min_quality = 200 }
        probability = 1.5
        [[steps]]
        degradation = "gaussian_blurr"
        [[steps]]
        [[steps]]
        steps = [{ degradation = "sinc", weight = "much" }, { degradation = "chain" }, 3]
        settings = { a = 1 }
        [[steps]]
        degradation = "speckle"
        order = "fixed"
        keep_order = 1
        settings = { sigma = 2 }
        [[steps]]
        order = "one_of"
        steps = [{ degradation = "sinc", weight = 0 }]
    """,
    )
    with pytest.raises(ConfigError) as raised:
        load_chain(path)
    lines = str(raised.value).splitlines()
    assert all(line.startswith(path) for line in lines)
    for number, expected in enumerate([
        "did you mean 'target_scale'", "order must be one of fixed, shuffled, one_of, got 'random'",
        "steps[0]: probability must be a number from 0 to 1, got 1.5", "steps[0]: jpeg needs 1 <= min_quality",
        "steps[1]: no degradations plug-in called 'gaussian_blurr'; near names: gaussian_blur",
        "steps[2] needs either a degradation or steps", "steps[3]: settings belong to a degradation",
        "steps[3].steps[0]: weight must be a number", "steps[3].steps[1]: a chain inside a chain",
        "steps[3].steps[2] must be a table, got 3", "steps[4]: keep_order must be true or false",
        "steps[4]: order belongs to a group", "steps[4]: speckle: unknown key 'sigma'",
        "steps[5]: one step of a group one_of", "target_scale must be a number from 1 to 8, got 0.5",
        "round_levels must be true or false, got 1",
    ]):  # fmt: skip
        assert sum(expected in line for line in lines) == 1, (number, expected, lines)
    assert len(lines) == 16


def test_the_documented_chain_works_and_every_file_is_documented(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "degradations.md").read_text()
    text = page.partition("```toml")[2].partition("```")[0]
    image = np.full((3, 40, 40), 0.3, np.float32)
    assert load_chain(write(tmp_path, text)).apply(image, np.random.default_rng(0)).shape == image.shape
    assert all(f"| `{name}` |" in page for name in plugins.names(FOLDER))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", "needs either"), ("steps = []", "at least one step"), ("steps = 3", "at least one step"), ("a = [", "TOML")],
)
def test_other_broken_files(tmp_path, text, expected):
    with pytest.raises(ConfigError, match=expected):
        load_chain(write(tmp_path, text))
    with pytest.raises(ConfigError, match=r"none\.toml"):
        make_degradation(f"chain:{tmp_path}/none.toml")
    with pytest.raises(ConfigError, match="shipped: bsrgan, real_esrgan"):
        make_degradation("chain:esrgan")

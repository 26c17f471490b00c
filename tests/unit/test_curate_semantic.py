"""Near pairs of embeddings: exact in one cell, nearly all in many, bounded where thousands of rows are alike."""

import numpy as np
import pytest

from curate.core.errors import ConfigError, NumericsError
from curate.dedup import semantic
from curate.dedup.groups import keepers
from curate.dedup.semantic import NearConfig, nearest_above


def make_features(num: int, dim: int = 48, seed: int = 0) -> np.ndarray:
    """Rows around 40 centres; every eighth is a near copy of another row, at a cosine of 0.93 to 0.999."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(40, dim))[rng.integers(0, 40, num)] + rng.normal(size=(num, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for copy in range(0, num, 8):
        source = rows[rng.integers(0, num)]
        aside = rng.normal(size=dim)
        aside -= aside @ source * source
        cosine = rng.uniform(0.93, 0.999)
        rows[copy] = cosine * source + np.sqrt(1 - cosine**2) * aside / np.linalg.norm(aside)
    return (rows * rng.uniform(0.5, 3, (num, 1))).astype(np.float16)


def brute(features: np.ndarray, min_cosine: float) -> dict[tuple[int, int], float]:
    rows = features.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = rows @ rows.T
    return {(int(i), int(j)): cosine[i, j] for i, j in zip(*np.nonzero(np.triu(cosine >= min_cosine, 1)), strict=True)}


def found(near: semantic.Near) -> dict[tuple[int, int], float]:
    return dict(zip(zip(near.first.tolist(), near.second.tolist(), strict=True), near.cosine.tolist(), strict=True))


def test_exact_below_the_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(semantic, "BLOCK_ROWS", 70)  # several blocks, and a last one that is not full
    monkeypatch.setattr(semantic, "BLOCK_COLUMNS", 130)
    features = make_features(900)
    wanted = brute(features, 0.95)
    near = nearest_above(features, NearConfig())
    assert found(near) == pytest.approx(wanted, abs=1e-5) and len(wanted) > 40
    np.save(tmp_path / "f.npy", features)
    again = nearest_above(np.load(tmp_path / "f.npy", mmap_mode="r"), NearConfig())
    assert np.array_equal(again.first, near.first) and np.array_equal(again.cosine, near.cosine)
    assert np.all(near.first < near.second) and np.all(np.diff(near.first) >= 0)


def test_cells_find_nearly_all_and_the_same_each_time():
    features = make_features(6000, seed=3)
    wanted = brute(features, 0.95)
    config = NearConfig(exact_rows=1000, rows_per_cell=300, threads=1)
    near = found(nearest_above(features, config))
    assert near == found(nearest_above(features, config))
    assert near == pytest.approx({pair: wanted[pair] for pair in near}, abs=1e-5)  # nothing that is not there
    assert len(near) >= 0.95 * len(wanted)
    one_cluster = found(nearest_above(features, NearConfig(exact_rows=1000, rows_per_cell=300, probes=1, threads=1)))
    assert set(one_cluster) <= set(near) and len(one_cluster) >= 0.5 * len(wanted)


def test_only_the_nearest_of_each_row():
    rng = np.random.default_rng(0)
    features = (rng.normal(size=8) + 0.05 * rng.normal(size=(60, 8))).astype(np.float32)
    every = brute(features, 0.9)
    near = found(nearest_above(features, NearConfig(min_cosine=0.9, num_nearest=3)))
    wanted = set()
    for row in range(60):
        mine = sorted((pair for pair in every if row in pair), key=lambda pair: -every[pair])
        wanted |= set(mine[:3])
    assert set(near) == wanted


def test_a_crowd_of_like_rows_stays_bounded_and_dissolves_in_rounds(monkeypatch):
    monkeypatch.setattr(semantic, "HELD_PAIRS", 5000)
    monkeypatch.setattr(semantic, "BLOCK_ROWS", 200)
    rng = np.random.default_rng(0)
    features = (rng.normal(size=16) + 1e-3 * rng.normal(size=(1500, 16))).astype(np.float32)
    near = nearest_above(features, NearConfig(num_nearest=4))
    assert 1500 <= len(near.first) <= 2 * 4 * 1500 and np.all(near.cosine > 0.99)
    assert np.all(np.bincount(np.concatenate([near.first, near.second]), minlength=1500) >= 4)  # 1.1 million are near
    left = np.arange(1500)
    for _ in range(20):  # who was dropped wants no neighbours any more: rounds go on until no two kept are near
        near = nearest_above(features[left], NearConfig(num_nearest=4))
        if not len(near.first):
            break
        left = left[keepers(len(left), near.first, near.second, left) == np.arange(len(left))]
    assert len(left) == 1


def test_few_rows():
    for num in (0, 1):
        assert len(nearest_above(np.ones((num, 4), np.float32), NearConfig()).first) == 0
    assert found(nearest_above(np.ones((2, 4), np.float16), NearConfig())) == pytest.approx({(0, 1): 1.0})


def test_wrong_rows_and_settings_are_refused():
    features = np.ones((5, 4), np.float32)
    for wrong in (0.0, np.nan, np.inf):
        features[3] = wrong
        with pytest.raises(NumericsError, match="row 3 "):
            nearest_above(features, NearConfig())
    for shape in (np.ones(4, np.float32), np.ones((4, 4), np.int64)):
        with pytest.raises(ConfigError, match="features"):
            nearest_above(shape, NearConfig())
    for field, value in (("min_cosine", 1.5), ("min_cosine", float("nan")), ("num_nearest", 0), ("probes", 0)):
        with pytest.raises(ConfigError, match=field):
            NearConfig(**{field: value})

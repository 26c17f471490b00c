"""MMD^2 and the random networks' moments: formulas against loops, NumPy against torch, and the unit checks of the spec."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill.mmd import kernel, mean_kernel, mean_within, median_distance, mmd2_biased, mmd2_unbiased
from distill.moments import NUM_MOMENTS, coral, draw_blocks, moments


def _naive_kernel(a: np.ndarray, b: np.ndarray, h: float) -> float:
    return float(np.mean([np.exp(-np.sum((a - b) ** 2) / (s * h * h)) for s in (0.25, 0.5, 1, 2, 4)]))


def test_the_kernel_is_the_mean_of_five_gaussians() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(5, 3)), rng.normal(size=(7, 3))
    naive = np.array([[_naive_kernel(a, b, 1.3) for b in right] for a in left])
    assert kernel(left, right, 1.3) == pytest.approx(naive, abs=1e-12)
    assert kernel(torch.from_numpy(left), torch.from_numpy(right), 1.3).numpy() == pytest.approx(naive, abs=1e-12)
    assert mean_kernel(left, right, 1.3) == pytest.approx(naive.mean(axis=1))


def test_a_sample_is_at_no_distance_from_itself_in_the_biased_form() -> None:
    rows = np.random.default_rng(1).normal(size=(40, 6))
    assert mmd2_biased(rows, rows, 2.0) == pytest.approx(0, abs=1e-14)
    assert mmd2_biased(torch.from_numpy(rows), torch.from_numpy(rows.copy()), 2.0).item() == pytest.approx(0, abs=1e-14)


def test_the_unbiased_form_leaves_out_a_row_with_itself() -> None:
    rng = np.random.default_rng(2)
    left, right = rng.normal(size=(6, 2)), rng.normal(size=(9, 2))
    own = [_naive_kernel(left[i], left[j], 1.0) for i in range(6) for j in range(6) if i != j]
    other = [_naive_kernel(right[i], right[j], 1.0) for i in range(9) for j in range(9) if i != j]
    across = [_naive_kernel(a, b, 1.0) for a in left for b in right]
    wanted = np.mean(own) + np.mean(other) - 2 * np.mean(across)
    assert mmd2_unbiased(left, right, 1.0) == pytest.approx(wanted, abs=1e-12)
    assert mean_within(left, 1.0) == pytest.approx(np.mean(own))


def test_two_random_halves_are_at_distance_zero_within_two_deviations() -> None:
    """Spec section 5. Over 100 splits the mean is 0 to its own error, and one split in twenty or so is farther than 2 sigma."""
    rng = np.random.default_rng(3)
    values = []
    for _ in range(100):
        rows = rng.normal(size=(120, 8))
        values.append(mmd2_unbiased(rows[:60], rows[60:], 4.0))
    deviation = np.std(values, ddof=1)
    assert abs(np.mean(values)) <= 2 * deviation / np.sqrt(len(values))
    assert np.mean(np.abs(values) <= 2 * deviation) >= 0.9
    assert min(values) < 0 < max(values)
    shifted = rng.normal(size=(60, 8)) + 0.5
    assert mmd2_unbiased(rows[:60], shifted, 4.0) > 5 * deviation


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    left, right = rng.normal(size=(50, 4)), rng.normal(size=(70, 4))
    whole = mean_kernel(left, right, 1.0)
    monkeypatch.setattr("distill.mmd._BLOCK_VALUES", 300)
    assert mean_kernel(left, right, 1.0) == pytest.approx(whole, abs=1e-14)


def test_the_median_distance() -> None:
    rows = np.array([[0.0, 0], [3, 4], [0, 0]])
    assert median_distance(rows) == pytest.approx(5)
    assert median_distance(np.ones((5, 2))) == 1.0


def test_moments_are_means_and_deviations_of_three_blocks() -> None:
    blocks = draw_blocks(np.random.default_rng(0), "cpu", torch.float32)
    crops = [torch.from_numpy(np.random.default_rng(n).random((3, 32, 40), np.float32)) for n in range(3)]
    found = moments(blocks, crops)
    assert found.shape == (3, NUM_MOMENTS) == (3, 768)
    values = torch.stack(crops)
    for number, block in enumerate(blocks):
        values = block(values)
        mean, deviation = found[:, 256 * number : 256 * number + 128], found[:, 256 * number + 128 : 256 * number + 256]
        torch.testing.assert_close(mean, values.mean(dim=(2, 3)))
        torch.testing.assert_close(
            deviation, values.std(dim=(2, 3), unbiased=False), rtol=1e-3, atol=2e-4
        )  # 1e-4 of a dead channel
    assert not torch.equal(found, moments(draw_blocks(np.random.default_rng(1), "cpu", torch.float32), crops))
    assert torch.equal(found, moments(draw_blocks(np.random.default_rng(0), "cpu", torch.float32), crops))


def test_crops_of_several_sizes_are_seen_one_by_one() -> None:
    blocks = draw_blocks(np.random.default_rng(0), "cpu", torch.float32)
    crops = [torch.rand(3, 32, 32), torch.rand(3, 16, 24)]
    found = moments(blocks, crops)
    torch.testing.assert_close(found[1], moments(blocks, crops[1:])[0])


def test_coral_compares_covariances() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(30, 4)), rng.normal(size=(50, 4)) * 2
    wanted = np.sum((np.cov(left.T) - np.cov(right.T)) ** 2) / (4 * 16)
    assert coral(torch.from_numpy(left), torch.from_numpy(right)).item() == pytest.approx(wanted)
    assert coral(torch.from_numpy(left), torch.from_numpy(left + 3)).item() == pytest.approx(0, abs=1e-12)


def test_weights_are_repeated_rows():
    rng = np.random.default_rng(6)
    left, right = rng.normal(0, 1, (7, 3)), rng.normal(0.3, 1, (5, 3))
    times = np.array([1, 2, 1, 3, 1])
    weights, repeated = times / times.sum(), np.repeat(right, times, axis=0)
    assert mean_kernel(left, right, 1.1, weights) == pytest.approx(mean_kernel(left, repeated, 1.1))
    even = np.full(5, 0.2)
    assert mean_within(right, 1.1, even) == pytest.approx(mean_within(right, 1.1))
    assert mmd2_unbiased(left, right, 1.1, weights_right=even) == pytest.approx(mmd2_unbiased(left, right, 1.1))
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    wanted = sum(weights[i] * weights[j] * kernel(right[[i]], right[[j]], 1.1)[0, 0] for i, j in pairs)
    assert mean_within(right, 1.1, weights) == pytest.approx(wanted / sum(weights[i] * weights[j] for i, j in pairs))

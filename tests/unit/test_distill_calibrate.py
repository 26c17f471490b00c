"""The calibrators on made pictures and a small encoder made here: guard, field, weights, and what each says of itself."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy import optimize

from curate.core.errors import ConfigError, ImageError, ManifestError, NumericsError
from distill import fitting
from distill.calibrate import cnn, kmm, none
from distill.calibration import CalibrationRequest, Changes
from distill.field import NUM_PARAMETERS, FieldChange, build_network
from distill.fitconfig import FitConfig
from distill.mmd import kernel, mmd2_biased
from distill.moments import coral, draw_blocks
from distill.seeing import Chunk, Sight, shrink
from distill.views import global_view
from distill.yardstick import YardstickConfig, build_yardstick

SIDE_PX, NUM, NUM_CHOSEN = 48, 160, 16
SHORT = FitConfig(steps_iter=16, side_px=64, lr=4e-3, corpus_batch=32, corpus_crops=6)


class SmallEncoder:
    """Mean of 4 x 4 pixel patches through a fixed random layer; a stand-in, trained on nothing."""

    name, input_px = "small", 32

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self.weight = torch.from_numpy(rng.normal(0, 0.3, (24, 3, 4, 4)).astype(np.float32))

    def mean_token(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.nn.functional.conv2d(x_BCHW - 0.5, self.weight, stride=4)).mean(dim=(2, 3))


class NoGradient:
    name = "handcrafted"


class Count:
    def __init__(self) -> None:
        self.total = self.done = 0

    def begin(self, total: int, done: int, *, label: str = "encode", unit: str = "patches") -> None:
        self.total, self.done, self.what = total, done, (label, unit)

    def step(self, num: int) -> None:
        self.done += num


def pictures(*, paired: bool = False) -> list:
    """Make grey textures under a coloured light; the light is what makes a subset differ."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(NUM):
        light = rng.normal(0, 7, 3)
        texture = rng.normal(128, 12, (SIDE_PX, SIDE_PX, 1)).clip(60, 200)
        clean = np.clip(texture + light, 0, 255).astype(np.uint8)
        rain = np.clip(clean + np.where(rng.random((SIDE_PX, SIDE_PX, 1)) < 0.1, 30, 0), 0, 255).astype(np.uint8)
        found.append((clean, rain if paired else None))
    return found


PICTURES = {paired: pictures(paired=paired) for paired in (False, True)}


def request(chosen, *, paired=False, encoder=None, **more) -> CalibrationRequest:
    encoder = encoder or SmallEncoder()
    eye = encoder if hasattr(encoder, "mean_token") else SmallEncoder()

    def rows(member: int) -> np.ndarray:
        planes = [
            torch.from_numpy(pair[member].transpose(2, 0, 1).astype(np.float32) / 255) for pair in PICTURES[paired]
        ]
        return eye.mean_token(torch.stack([shrink(plane, eye.input_px) for plane in planes])).numpy()

    return CalibrationRequest(
        rows=rows(0), degraded_rows=rows(1) if paired else None, chosen=np.asarray(chosen, dtype=np.int64),
        read=PICTURES[paired].__getitem__, encoder=encoder, watch=Count(), **more,
    )  # fmt: skip


def reddest() -> np.ndarray:
    return np.sort(
        np.argsort([pair[0][..., 0].mean() - pair[0][..., 2].mean() for pair in PICTURES[False]])[-NUM_CHOSEN:]
    )


def anyhow() -> np.ndarray:
    return np.sort(np.random.default_rng(3).choice(NUM, NUM_CHOSEN, replace=False))


def test_a_shifted_subset_is_fitted_and_the_change_accepted():
    asked = request(reddest())
    got = cnn.Plugin(fit=SHORT).calibrate(asked)
    assert got.facts["accepted"] is True
    assert got.change is not None
    numbers = got.facts["mmd2"]
    assert numbers["differs"] is True
    assert numbers["before_fit"] - numbers["after"] > 2 * numbers["null_std"] > 0
    assert numbers["before_fit"] == pytest.approx(numbers["before"], abs=1e-6)
    assert got.facts["fit"]["parameters"] == sum(v.size for v in got.change.tensors().values()) == NUM_PARAMETERS
    assert 1 <= got.facts["fit"]["kept_step"] <= SHORT.steps_iter
    assert [0, numbers["before_fit"]] in got.facts["fit"]["history"]
    assert min(value for _, value in got.facts["fit"]["history"]) == numbers["after"]
    assert (asked.watch.total, asked.watch.done) == (SHORT.steps_iter, SHORT.steps_iter)
    assert asked.watch.what == ("calibrate", "steps")
    assert np.array_equal(got.weights, np.ones(NUM_CHOSEN))
    assert "seconds" not in str(got.facts)
    meter = Changes(got.change)
    for place in asked.chosen:
        meter(*PICTURES[False][place])
    said = meter.facts()
    assert said["patches"] == NUM_CHOSEN
    assert 0.5 < said["largest_change_levels"] <= 8 + 1e-6
    assert 0 < said["mean_change_levels"] < said["largest_change_levels"]
    assert 30 < said["psnr_db_min"] <= said["psnr_db_median"] < 60


def test_what_is_kept_is_what_the_numbers_say():
    """Applied to the pictures and encoded anew, the kept network gives the distance that the facts name."""
    asked = request(reddest())
    got = cnn.Plugin(fit=SHORT).calibrate(asked)
    measured = build_yardstick(asked.members(), asked.chosen, YardstickConfig(), asked.seed)
    shifted = [torch.from_numpy(got.change.shift(*PICTURES[False][place])[1][0]) for place in asked.chosen]
    rows = SmallEncoder().mean_token(torch.stack([shrink(picture, 32) for picture in shifted])).numpy()
    again = measured.members["x"].distance(measured.members["x"].project(rows))
    assert again == pytest.approx(got.facts["mmd2"]["after"], abs=1e-5)


def test_a_representative_subset_stays_untouched_and_unread():
    def refuse(place):
        raise AssertionError("a representative subset needs no pixel")

    asked = request(anyhow())
    asked = CalibrationRequest(rows=asked.rows, chosen=asked.chosen, read=refuse, encoder=asked.encoder)
    got = cnn.Plugin().calibrate(asked)
    assert got.change is None
    assert got.facts["accepted"] is False
    assert "nothing to correct" in got.facts["reason"]
    numbers = got.facts["mmd2"]
    assert numbers["before"] <= numbers["null_mean"] + 2 * numbers["null_std"]


def test_a_change_that_does_not_help_enough_is_told_and_not_used():
    weak = FitConfig(steps_iter=2, side_px=16, eps_levels=0.01, l_r=0.0)
    got = cnn.Plugin(fit=weak).calibrate(request(reddest()))
    assert got.change is None
    assert got.facts["accepted"] is False
    assert "pixels stay as they were" in got.facts["reason"]
    assert got.facts["mmd2"]["after"] <= got.facts["mmd2"]["before_fit"]
    assert got.facts["fit"]["steps"] == 2


def test_pairs_are_measured_on_both_members_and_get_one_field():
    asked = request(reddest(), paired=True)
    config = FitConfig(steps_iter=5, side_px=32, lr=1e-2, corpus_batch=32, corpus_crops=4)
    got = cnn.Plugin(fit=config).calibrate(asked)
    assert set(got.facts["mmd2"]["members"]) == {"x", "y"}
    assert {"mmd2.y", "coral.y", "moments.y"} <= set(got.facts["fit"]["last_losses"])
    assert got.facts["accepted"] is True
    clean, degraded = PICTURES[True][asked.chosen[0]]
    new, new_degraded = got.change.apply(clean, degraded)
    difference = new_degraded.astype(int) - new.astype(int)
    assert np.array_equal(difference, 257 * (degraded.astype(int) - clean.astype(int)))
    assert not np.array_equal(new, clean.astype(np.uint16) * 257)


def test_threads_change_no_bit_and_seeds_do():
    config = FitConfig(steps_iter=3, side_px=16, lr=1e-2, corpus_batch=16, corpus_crops=4)

    def weights(**more):
        measured = build_yardstick(asked.members(), asked.chosen, YardstickConfig(), 0)
        change = fitting.fit_field(request(asked.chosen, **more), measured, config).change
        return np.concatenate([values.ravel() for values in change.tensors().values()])

    asked = request(reddest())
    alone = weights(workers=1)
    assert np.array_equal(alone, weights(workers=2))
    assert not np.array_equal(alone, weights(seed=1))


def test_a_subset_too_large_for_a_step_is_drawn_from_and_checked_now_and_then():
    config = FitConfig(steps_iter=6, side_px=16, lr=1e-2, l_r=0, subset_batch=8, check_every_iter=4, chunk_patches=3)
    got = cnn.Plugin(fit=config).calibrate(request(reddest()))
    assert [step for step, _ in got.facts["fit"]["history"]] == [0, 4, 6]


def test_gradients_reach_every_layer_and_equal_those_of_one_whole_graph():
    """The losses' gradient by chunks is the gradient of the plain sum."""
    asked, config = request(reddest()), FitConfig(side_px=16, chunk_patches=3, moments_bf16=False)
    measured = build_yardstick(asked.members(), asked.chosen, YardstickConfig(), 0)
    with ThreadPoolExecutor(2) as pool:
        sight = Sight(asked, measured, config, "cpu", pool)
        with torch.no_grad():  # the last layer starts at zero and would stop the others' gradient
            sight.network[-1].weight.copy_(torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (3, 32, 3, 3))))
        corners = np.random.default_rng(1).random((NUM_CHOSEN, 2))
        blocks = draw_blocks(np.random.default_rng(2), "cpu", torch.float32)
        chunks = sight.chunks(range(NUM_CHOSEN), corners)

        def loss(seen):
            phi = seen["phi.x"]
            return mmd2_biased(phi, fit, 2.0) + coral(phi, fit) + seen["moments.x"].mean(0).sum() + seen["field"].mean()

        fit = sight.tensor(measured.members["x"].fit)
        leaves = {name: values.requires_grad_(True) for name, values in sight.subset(chunks, blocks).items()}
        of_seen = dict(zip(leaves, torch.autograd.grad(loss(leaves), list(leaves.values())), strict=True))
        by_chunks = sight.gradients(chunks, blocks, of_seen)
        whole = torch.autograd.grad(
            loss(sight.look(Chunk(list(range(NUM_CHOSEN)), corners), blocks)), list(sight.network.parameters())
        )
    for ours, plain in zip(by_chunks, whole, strict=True):
        assert ours.abs().max() > 0
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-6)


def test_an_encoder_without_gradient_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"calibrate cnn needs an encoder .* got handcrafted"):
        cnn.Plugin().calibrate(request(reddest(), encoder=NoGradient()))


def test_rows_of_another_encoder_are_refused():
    asked = request(reddest())
    other = CalibrationRequest(
        rows=asked.rows[:, ::-1] * 3, chosen=asked.chosen, read=asked.read, encoder=asked.encoder
    )
    with pytest.raises(ConfigError, match="not the mean tokens of encoder small"):
        cnn.Plugin(fit=SHORT).calibrate(other)


def test_rows_that_are_not_finite_are_refused():
    asked = request(anyhow())
    asked.rows[7, 0] = np.nan
    for plugin in (cnn.Plugin(), kmm.Plugin(), none.Plugin()):
        with pytest.raises(NumericsError, match="not finite"):
            plugin.calibrate(asked)


@pytest.mark.parametrize("plugin", [cnn.Plugin(), kmm.Plugin(), none.Plugin()])
def test_a_single_patch_is_left_alone(plugin):
    got = plugin.calibrate(request([4]))
    assert (got.change, got.facts["accepted"], got.facts["mmd2"]) == (None, False, None)
    assert got.weights.tolist() == [1.0]


def test_none_measures_and_touches_nothing():
    got = none.Plugin().calibrate(request(reddest()))
    assert (got.change, got.facts["mode"], got.facts["accepted"]) == (None, "none", False)
    assert got.facts["mmd2"]["before"] > got.facts["mmd2"]["null_mean"] + 2 * got.facts["mmd2"]["null_std"]
    assert np.array_equal(got.weights, np.ones(NUM_CHOSEN))


def test_the_null_is_what_random_subsets_are():
    """About one random subset in forty is farther than 2 deviations; a shifted one is."""
    asked = request(anyhow())
    rng = np.random.default_rng(9)
    differs = [
        build_yardstick(
            asked.members(), np.sort(rng.choice(NUM, NUM_CHOSEN, replace=False)), YardstickConfig(), seed
        ).differs
        for seed in range(60)
    ]
    assert np.mean(differs) < 0.15
    assert build_yardstick(asked.members(), reddest(), YardstickConfig(), 0).differs


@pytest.mark.parametrize("num", [2, 9, 33, 200])
def test_the_rank_of_phi_is_half_the_subset_within_bounds(num):
    rows = np.random.default_rng(0).normal(size=(500, 100)).astype(np.float16)
    measured = build_yardstick({"x": rows}, np.arange(num), YardstickConfig(), 0)
    assert measured.members["x"].basis.shape == (100, int(np.clip(num // 2, 8, 64)))
    assert np.mean(np.var(measured.members["x"].fit, axis=0)) == pytest.approx(1)


def test_kmm_equals_a_quadratic_programme():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        points, corpus = rng.normal(0.7, 1, (9, 3)), rng.normal(0, 1, (200, 3))
        within, target = kernel(points, points, 1.5), kernel(points, corpus, 1.5).mean(axis=1)

        def objective(w, within=within, target=target):
            return w @ within @ w / 81 - 2 * w @ target / 9

        got, gain = kmm.solve(within, target, max_weight=5.0, mean_slack=0.05, steps=500)
        bands = optimize.LinearConstraint(np.full(9, 1 / 9), 0.95, 1.05)
        best = optimize.minimize(
            objective, np.ones(9), jac=lambda w, within=within, target=target: 2 * within @ w / 81 - 2 * target / 9,
            bounds=[(0, 5)] * 9, constraints=[bands], method="SLSQP", options={"ftol": 1e-14, "maxiter": 1000},
        )  # fmt: skip
        assert objective(got) == pytest.approx(best.fun, abs=1e-7)
        assert gain == pytest.approx(objective(np.ones(9)) - objective(got))
        assert got == pytest.approx(best.x, abs=2e-2)
        assert got.min() >= 0
        assert got.max() <= 5
        assert 0.95 - 1e-12 <= got.mean() <= 1.05 + 1e-12


def test_the_projection_is_the_nearest_point():
    rng = np.random.default_rng(2)
    for spread in (0.1, 1.0, 10.0, 100.0):
        values = rng.normal(0, spread, 11)
        near = kmm.project(values, 5.0, 0.05)
        assert near.min() >= 0
        assert near.max() <= 5
        assert abs(near.mean() - 1) <= 0.05 + 1e-9
        for _ in range(200):  # optimality: no feasible point lies in the direction of `values`
            other = kmm.project(rng.uniform(0, 5, 11), 5.0, 0.05)
            assert (values - near) @ (other - near) <= 1e-7 * (1 + spread)
    assert kmm.project(np.full(4, 7.0), 5.0, 0.05) == pytest.approx(np.full(4, 1.05))


@pytest.mark.parametrize("paired", [False, True])
def test_kmm_brings_a_shifted_subset_nearer_without_touching_pixels(paired):
    got = kmm.Plugin().calibrate(request(reddest(), paired=paired))
    assert (got.change, got.facts["mode"]) == (None, "kmm")
    assert got.facts["mmd2"]["after"] < got.facts["mmd2"]["before"]
    assert got.facts["weights"]["objective_gain"] > 0
    assert got.weights.min() >= 0
    assert got.weights.max() <= 5
    assert abs(got.weights.mean() - 1) <= 0.05 + 1e-8
    assert np.std(got.weights) > 0.1


def test_kmm_in_blocks_and_with_a_sample_of_the_corpus_stays_in_bounds():
    small = kmm.Plugin(block_rows=5, max_products=1, yardstick=YardstickConfig(max_rows=60))
    got = small.calibrate(request(reddest()))
    assert got.facts["weights"]["blocks"] == 4
    assert got.facts["weights"]["corpus_rows_compared"] == 60
    assert abs(got.weights.mean() - 1) <= 0.05 + 1e-8


@pytest.mark.parametrize("paired", [False, True])
def test_the_untrained_network_says_nothing(paired):
    network = build_network(np.random.default_rng(0))
    assert sum(parameter.numel() for parameter in network.parameters()) == NUM_PARAMETERS == 21_123
    clean, degraded = PICTURES[paired][0]
    for kind in ("additive", "log_gain"):
        changed = FieldChange(network=network, kind=kind, eps=8 / 255).apply(clean, degraded)
        assert np.array_equal(changed[0], clean.astype(np.uint16) * 257)
        if paired:
            assert np.array_equal(changed[1], degraded.astype(np.uint16) * 257)


def loud_network():
    """Make a network with large random weights, so that the field reaches its bounds."""
    network = build_network(np.random.default_rng(4))
    with torch.no_grad():
        network[-1].weight.copy_(torch.from_numpy(np.random.default_rng(5).normal(0, 4, (3, 32, 3, 3))))
    return network


@pytest.mark.parametrize("kind", ["additive", "log_gain"])
def test_pairs_keep_their_relation_and_nothing_is_clipped(kind):
    rng = np.random.default_rng(8)
    clean = rng.integers(0, 256, (90, 130, 3), dtype=np.uint8)  # black and white are among them
    degraded = rng.integers(0, 256, (90, 130, 3), dtype=np.uint8)
    change = FieldChange(network=loud_network(), kind=kind, eps=8 / 255)
    field, (new, new_degraded) = change.shift(clean, degraded)
    assert np.abs(field).max() == pytest.approx(8 / 255, rel=1e-3)
    x, y = (image.transpose(2, 0, 1).astype(np.float64) / 255 for image in (clean, degraded))
    if kind == "additive":
        broken = np.abs((new_degraded.astype(np.float64) - new) - (y - x))
    else:
        broken = np.abs(new_degraded.astype(np.float64) * x - new.astype(np.float64) * y)
    assert broken.max() <= 1e-6
    assert min(new.min(), new_degraded.min()) >= 0
    assert max(new.max(), new_degraded.max()) <= 1 + 1e-6
    deep, deep_degraded = change.apply(clean, degraded)
    for rounded, exact in ((deep, new), (deep_degraded, new_degraded)):
        assert np.abs(rounded.transpose(2, 0, 1) / 65535 - exact).max() <= 1.01 / 65535
    if kind == "additive":
        assert np.array_equal(deep_degraded.astype(int) - deep, 257 * (degraded.astype(int) - clean))


def test_the_weights_survive_their_file(tmp_path):
    from safetensors.numpy import load_file, save_file

    change = FieldChange(network=loud_network(), kind="additive", eps=8 / 255)
    save_file(change.tensors(), tmp_path / "calibrator.safetensors")
    again = FieldChange.from_tensors(load_file(tmp_path / "calibrator.safetensors"), kind="additive", eps=8 / 255)
    picture = PICTURES[False][3][0]
    assert np.array_equal(again.apply(picture, None)[0], change.apply(picture, None)[0])
    with pytest.raises(ManifestError, match="do not fit"):
        FieldChange.from_tensors({"0.weight": np.zeros((1, 1), np.float32)}, kind="additive", eps=8 / 255)


def test_a_pair_of_two_sizes_is_refused():
    change = FieldChange(network=loud_network(), kind="additive", eps=8 / 255)
    with pytest.raises(ImageError, match="two sizes"):
        change.apply(np.zeros((32, 32, 3), np.uint8), np.zeros((16, 16, 3), np.uint8))


def test_the_field_is_smooth():
    clean = PICTURES[False][0][0].repeat(8, axis=0).repeat(8, axis=1)
    field, _ = FieldChange(network=loud_network(), kind="additive", eps=8 / 255, side_px=32).shift(clean, None)
    assert field.shape == (3, 384, 384)
    assert np.abs(np.diff(field, axis=2)).max() < 0.35 * np.abs(field).max()


def test_the_differentiable_view_is_pillows():
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    ours = shrink(torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255), 32).numpy()
    assert np.abs(ours.transpose(1, 2, 0) * 255 - global_view(image, 32)).max() <= 1.0  # Pillow rounds to levels twice


@pytest.mark.parametrize(
    "values",
    [{"kind": "gamma"}, {"eps_levels": 0.0}, {"lr": float("nan")}, {"l_id": -1.0}, {"steps_iter": 0}, {"subset_batch": 1}],
)  # fmt: skip
def test_nonsense_is_refused(values):
    with pytest.raises(ConfigError, match=r"cnn\.fit\."):
        FitConfig(**values)
    with pytest.raises(ConfigError, match="kmm"):
        kmm.Plugin(max_weight=0.5)
    with pytest.raises(ConfigError, match="yardstick"):
        YardstickConfig(null_draws=1)


def test_a_plain_picture_gets_a_plain_field():
    """Nothing at the picture's edge makes the network draw a frame."""
    field, _ = FieldChange(network=loud_network(), kind="additive", eps=8 / 255, side_px=32).shift(
        np.full((64, 64, 3), 90, np.uint8), None
    )
    assert np.abs(field).max() > 1e-4
    assert np.ptp(field, axis=(1, 2)).max() < 1e-5


NUM_FEW, NUM_MANY = 80, 1900


def two_tasks():
    """Rows of a rare and a common task that look different; 16 and 38 of them are 2 % with a floor of 16."""
    rng = np.random.default_rng(4)
    rows = np.concatenate([rng.normal(2, 1, (NUM_FEW, 12)), rng.normal(0, 1, (NUM_MANY, 12))]).astype(np.float32)
    return rows, np.repeat([0, 1], [NUM_FEW, NUM_MANY])


def fair(seed):
    """Choose at random inside each task."""
    rng = np.random.default_rng(seed)
    few, many = rng.choice(NUM_FEW, 16, replace=False), NUM_FEW + rng.choice(NUM_MANY, 38, replace=False)
    return np.sort(np.concatenate([few, many]))


def test_more_of_a_rare_task_is_no_difference():
    """The subset has 30 % of the rare task and the corpus 4 %: by intention, so the guard looks at each task's choice."""
    rows, task_of = two_tasks()
    blind = [build_yardstick({"x": rows}, fair(seed), YardstickConfig(), seed).differs for seed in range(20)]
    by_task = [build_yardstick({"x": rows}, fair(seed), YardstickConfig(), seed, task_of) for seed in range(20)]
    assert np.mean(blind) > 0.9
    assert np.mean([one.differs for one in by_task]) < 0.2
    assert abs(np.mean([one.total_before for one in by_task])) < 3 * by_task[0].null_std
    for one in by_task:
        weights = one.fit_weights
        assert weights.sum() == pytest.approx(1)
        assert weights[task_of[one.fit_rows] == 0].sum() == pytest.approx(16 / 54)
        assert one.members["x"].held_weights.sum() == pytest.approx(1)
    assert "size and tasks" in by_task[0].describe()


def test_a_biased_choice_inside_a_task_is_still_a_difference():
    rows, task_of = two_tasks()
    top = np.concatenate([np.argsort(rows[:NUM_FEW, 0])[-16:], NUM_FEW + np.argsort(rows[NUM_FEW:, 0])[-38:]])
    assert build_yardstick({"x": rows}, np.sort(top), YardstickConfig(), 0, task_of).differs


def test_tasks_of_few_rows_and_large_corpora_are_no_trouble():
    rows, _ = two_tasks()
    four = build_yardstick({"x": rows[:4]}, np.array([0, 3]), YardstickConfig(), 0, np.arange(4) // 3)
    assert np.isfinite(four.total_before)
    task_of = np.repeat([0, 1], [NUM_FEW, NUM_MANY])
    sampled = build_yardstick({"x": rows}, fair(0), YardstickConfig(max_rows=200, max_chosen=20), 0, task_of)
    assert len(sampled.fit_rows) <= 101
    assert len(sampled.chosen) == 20
    assert not sampled.differs


def test_kmm_leaves_the_tasks_as_the_budget_shared_them():
    rows, task_of = two_tasks()
    asked = CalibrationRequest(rows=rows, chosen=fair(0), read=None, encoder=NoGradient())
    blind = kmm.Plugin().calibrate(asked).weights
    by_task = kmm.Plugin().calibrate(dataclasses.replace(asked, task_of=task_of))
    rare = task_of[asked.chosen] == 0
    assert blind[rare].mean() < 0.5
    assert 0.8 < by_task.weights[rare].mean() < 1.2
    assert by_task.facts["mmd2"]["after"] < by_task.facts["mmd2"]["before"]


def test_cnn_draws_the_corpus_with_the_subset_s_share_of_each_task():
    asked = dataclasses.replace(request(reddest()), task_of=np.arange(NUM) % 3 // 2)
    got = cnn.Plugin(fit=FitConfig(steps_iter=4, side_px=32, lr=1e-2, corpus_batch=32, corpus_crops=4)).calibrate(asked)
    assert got.facts["fit"]["steps"] == 4
    assert got.facts["mmd2"]["after"] < got.facts["mmd2"]["before_fit"]

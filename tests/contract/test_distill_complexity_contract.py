"""One contract over every file of `distill/complexity`: pure, deterministic, ordered plainly, cached numbers of known shape."""

import dataclasses
import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate import BuildShardsConfig, Dataset, build_shards, load_encoder, open_dataset
from curate.core import plugins
from curate.core.errors import ConfigError, MissingDependencyError
from curate.recipes import load_recipe
from distill.measure import Patches, Scores
from distill.views import global_view, native_crops

PACKAGE = "distill.complexity"
NAMES = plugins.names(PACKAGE)
SIDE = 64  # of a view in these tests
NEEDS_WEIGHTS = {"authors_code", "review_entropy"}


@pytest.fixture(scope="module")
def corpus(make_folder, tmp_path_factory) -> Dataset:
    root = tmp_path_factory.mktemp("corpus")
    build_shards(
        BuildShardsConfig(
            source=make_folder(root / "photos", num=4),
            out=root / "c",
            recipe=load_recipe("everything", patch_size_px=96),
            patch_size_px=96,
        )
    )
    return open_dataset(root / "c")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, str]:
    """Random weights of small real networks, saved as the files that a user would give."""
    import open_clip
    import timm
    import torch
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0)
        clip = open_clip.create_model("ViT-S-32", load_weights=False)
    save_file({key: value.contiguous() for key, value in vit.state_dict().items()}, root / "vit.safetensors")
    torch.save(clip.state_dict(), root / "clip.pt")
    return {"vit": str(root / "vit.safetensors"), "clip": str(root / "clip.pt")}


@pytest.fixture(scope="module")
def plugin_of(checkpoints):
    options: dict[str, dict[str, Any]] = {
        "authors_code": {
            "vit_model": "vit_tiny_patch16_224", "vit_checkpoint": checkpoints["vit"],
            "clip_model": "ViT-S-32", "clip_checkpoint": checkpoints["clip"],
        },
        "review_entropy": {
            "vit_model": "vit_tiny_patch16_224", "vit_checkpoint": checkpoints["vit"], "num_features": 192,
        },
        "network_loss": {"steps": 5, "num_patches": 8},
    }  # fmt: skip
    return lambda name: plugins.load(PACKAGE, name)(**options.get(name, {}))


def _patches(images: list[np.ndarray]) -> Patches:
    """Make a batch whose tokens are raw 8x8 blocks of grey, as an encoder without weights would give."""
    views, owner, is_global = [], [], []
    for number, image in enumerate(images):
        for place, view in enumerate([global_view(image, SIDE), *native_crops(image, SIDE)]):
            views.append(view)
            owner.append(number)
            is_global.append(place == 0)
    stacked = np.stack(views)
    blocks = stacked[..., 0].reshape(len(views), 8, 8, 8, 8).transpose(0, 1, 3, 2, 4).reshape(len(views), 64, 64)
    arrays = (stacked, (blocks / 255).astype(np.float32), np.array(owner), np.array(is_global))
    for array in (*arrays, *images):
        array.setflags(write=False)
    return Patches(
        clean=images, degraded=images, views=arrays[0], tokens=arrays[1], owner=arrays[2], is_global=arrays[3]
    )


def _plain() -> list[np.ndarray]:
    """One colour, a gentle ramp, noise."""
    ramp = np.repeat(np.linspace(90, 130, 96).astype(np.uint8)[None, :, None], 96, axis=0).repeat(3, axis=2)
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    return [np.full((96, 96, 3), 120, np.uint8), ramp, noise]


def _finish(plugin: Any, values: np.ndarray) -> Scores:
    """Finish on patches that are each of a photograph of their own."""
    return plugin.finish(values, np.arange(len(values)))


def test_the_folder_holds_what_the_command_offers() -> None:
    assert set(NAMES) == {
        "vit_entropy", "authors_code", "review_entropy", "histogram", "gradient", "psnr_bicubic", "token_entropy_raw",
        "network_loss",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_file_names_itself_and_its_source(name: str) -> None:
    module = importlib.import_module(f"{PACKAGE}.{name}")
    assert module.Plugin.name == name
    assert "Source:" in (module.__doc__ or "")
    assert dataclasses.is_dataclass(module.Plugin) and module.Plugin.__dataclass_params__.frozen


@pytest.mark.parametrize("name", NAMES)
def test_numbers_have_a_known_shape_and_do_not_depend_on_the_batch(name: str, plugin_of, corpus, tmp_path) -> None:
    plugin = plugin_of(name)
    look = plugin.prepare(corpus, tmp_path)
    images = _plain()
    values = look(_patches(images))
    assert values.shape == (3, len(plugin.values))
    assert values.dtype == (np.float32 if name == "review_entropy" else np.float64), (
        "769 numbers a patch are kept short"
    )
    assert look(_patches(images)).tobytes() == values.tobytes()
    alone = look(_patches(images[1:]))
    assert alone == pytest.approx(values[1:], abs=2e-3, rel=1e-3, nan_ok=True)
    scores = _finish(plugin, values)
    assert scores.complexity.shape == (3,) and scores.complexity.dtype == np.float64
    assert np.isfinite(scores.complexity).all()
    assert (scores.uncertainty is not None) == (name == "authors_code")


@pytest.mark.parametrize("name", sorted(set(NAMES) - NEEDS_WEIGHTS))
def test_one_colour_is_nothing_and_noise_is_most(name: str, plugin_of, corpus, tmp_path) -> None:
    plugin = plugin_of(name)
    scores = _finish(plugin, plugin.prepare(corpus, tmp_path)(_patches(_plain()))).complexity
    assert scores[0] == 0
    assert 0 < scores[1] < scores[2]


@pytest.mark.parametrize("name", sorted(set(NAMES) - NEEDS_WEIGHTS - {"histogram", "gradient", "vit_entropy"}))
def test_a_picture_tiled_from_one_piece_is_simpler_than_the_whole(name, plugin_of, corpus, tmp_path, make_photo):
    """Of `histogram` and `gradient` this is not asked: they see no order."""
    photo = make_photo(5, 96, 96)
    if name == "token_entropy_raw":
        tiled = np.tile(photo[:16, :16], (6, 6, 1))
    else:
        tiled = np.tile(photo[:2, :2], (48, 48, 1)) // 8 + 100  # little detail: nothing that resizing would lose
    plugin = plugin_of(name)
    scores = _finish(plugin, plugin.prepare(corpus, tmp_path)(_patches([tiled, photo]))).complexity
    assert scores[0] < scores[1]


@pytest.mark.parametrize("seed", [1, 5, 9])
def test_the_vit_finds_a_picture_tiled_from_one_patch_simpler(seed: int, make_photo) -> None:
    """With the real weights: what a ViT makes of a repeated texture cannot be said of raw blocks."""
    try:
        encoder = load_encoder("vit_s14")
    except MissingDependencyError as error:
        if os.environ.get("IRDISTILL_REQUIRE_WEIGHTS"):
            raise
        pytest.skip(str(error))
    photo = make_photo(seed, 224, 224)
    tiled = np.tile(photo[:14, :14], (16, 16, 1))  # a patch of the ViT
    flat = np.full_like(photo, 77)
    views = np.stack([flat, tiled, photo])
    patches = Patches(
        clean=list(views), degraded=list(views), views=views, tokens=encoder.encode(views).tokens, owner=np.arange(3),
        is_global=np.ones(3, bool),
    )  # fmt: skip
    plugin = plugins.load(PACKAGE, "vit_entropy")()
    scores = _finish(plugin, plugin.measure(patches)).complexity
    assert scores[0] == 0 < scores[1] < scores[2]


def test_the_whole_view_and_the_crops_count_half_each(plugin_of, corpus, tmp_path, make_photo) -> None:
    plugin = plugin_of("vit_entropy")
    values = plugin.prepare(corpus, tmp_path)(_patches([make_photo(1, 96, 96), make_photo(2, 40, 40)]))
    assert np.isnan(values[1, 1]), "a patch smaller than a view has no crops"
    scores = _finish(plugin, values).complexity
    assert scores[0] == pytest.approx((values[0, 0] + values[0, 1]) / 2)
    assert scores[1] == values[1, 0]


def test_authors_code_is_its_formula(plugin_of, checkpoints, corpus, tmp_path, make_photo) -> None:
    """Random weights: the formula is checked, not anybody's numbers."""
    import open_clip
    import timm
    import torch
    from safetensors.torch import load_file

    clean, degraded = make_photo(1, 224, 224), make_photo(2, 224, 224)
    batch = dataclasses.replace(_patches([clean]), degraded=[degraded])
    plugin = plugin_of("authors_code")
    values = plugin.prepare(corpus, tmp_path)(batch)
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0).eval()
    vit.load_state_dict(load_file(checkpoints["vit"]))
    clip = open_clip.create_model("ViT-S-32", load_weights=False).eval()
    clip.load_state_dict(torch.load(checkpoints["clip"], weights_only=True))
    x = torch.from_numpy(degraded.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    with torch.inference_mode():
        hidden = vit.forward_features((x - 0.5) / 0.5)
        mean, deviation = (
            torch.tensor(values)[:, None, None]
            for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
        )
        embedding = clip.encode_image((x - mean) / deviation)
    assert hidden.shape[1] == 197
    wanted = [float(torch.var(hidden.mean(1), dim=1)), float(torch.var(embedding, dim=1))]
    assert values[0] == pytest.approx(wanted, rel=2e-2)  # bf16 where the machine has it
    scores = _finish(plugin, values)
    assert scores.complexity[0] == 0.5 * values[0, 0] + 0.5 * values[0, 1]
    assert scores.uncertainty is not None and scores.uncertainty[0] == values[0, 1]


def test_review_entropy_is_its_formula(plugin_of, corpus, tmp_path, make_photo) -> None:
    plugin = plugin_of("review_entropy")
    images = [make_photo(seed, 96, 96) for seed in range(3)]
    values = plugin.prepare(corpus, tmp_path)(_patches(images))
    counts = np.bincount(np.round(images[0].astype(float) @ [0.299, 0.587, 0.114]).astype(int).ravel(), minlength=256)
    share = counts[counts > 0] / counts.sum()
    assert values[0, 0] == pytest.approx(-(share * np.log2(share)).sum(), abs=0.02)
    rng = np.random.default_rng(0)
    features, truth = rng.normal(size=(200, 192)), rng.normal(size=192)
    labels = features @ truth + 5
    made = np.concatenate([labels[:, None], features], axis=1)
    predicted = _finish(plugin, made).complexity
    fold = np.arange(40)  # the first of five
    rest = np.setdiff1d(np.arange(200), fold)
    centred = features[rest] - features[rest].mean(0)
    ridge = 1e-2 * np.linalg.eigvalsh(np.cov(centred.T, bias=True)).mean()
    head = (
        np.linalg.inv(centred.T @ centred + ridge * len(rest) * np.eye(192))
        @ centred.T
        @ (labels[rest] - labels[rest].mean())
    )
    assert predicted[fold] == pytest.approx((features[fold] - features[rest].mean(0)) @ head + labels[rest].mean())
    changed = made.copy()
    changed[fold, 0] += 100
    assert _finish(plugin, changed).complexity[fold] == pytest.approx(predicted[fold]), "no patch sees its own label"


def test_the_network_is_trained_once_and_kept(plugin_of, corpus, tmp_path, make_photo) -> None:
    plugin = plugin_of("network_loss")
    batch = _patches([make_photo(1, 96, 96)])
    first = plugin.prepare(corpus, tmp_path)(batch)
    kept = (tmp_path / "network_loss.safetensors").read_bytes()
    assert plugin.prepare(corpus, tmp_path)(batch).tolist() == first.tolist()
    (tmp_path / "again").mkdir()
    assert plugin.prepare(corpus, tmp_path / "again")(batch).tolist() == first.tolist()
    assert (tmp_path / "again" / "network_loss.safetensors").read_bytes() == kept


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("vit_entropy", {"min_energy": 0.0}), ("vit_entropy", {"crop_weight_frac": 1.1}),
        ("vit_entropy", {"crop_weight_frac": float("nan")}), ("token_entropy_raw", {"block_px": 1}),
        ("review_entropy", {"num_folds": 1}), ("review_entropy", {"lambda_share": 0.0}),
        ("network_loss", {"steps": 0}), ("network_loss", {"learning_rate": float("nan")}),
    ],
)  # fmt: skip
def test_nonsense_is_refused(name: str, values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=name):
        plugins.load(PACKAGE, name)(**values)


def test_weights_that_are_not_there_are_one_line(corpus, tmp_path: Path) -> None:
    plugin = plugins.load(PACKAGE, "review_entropy")(vit_checkpoint=str(tmp_path / "none.safetensors"))
    with pytest.raises(Exception, match=r"none\.safetensors") as caught:
        plugin.prepare(corpus, tmp_path)
    assert len(str(caught.value).splitlines()) == 1

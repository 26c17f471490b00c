"""One contract over every encoder; the ViT's weights come from the set-up step (`curate fetch-weights vit_s14`)."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from curate.core.errors import ImageError, MissingDependencyError, PluginError
from curate.encoders._loading import Encoder, encoder_names, load_encoder, one_torch_thread


def _random_weights(name: str, folder: Path) -> dict[str, str]:
    """Give options with weights that are there without a network: random ones, for the encoders that can take any."""
    import open_clip
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    if name == "timm":
        model, option = timm.create_model("vit_tiny_patch16_224", pretrained=False), "vit_tiny_patch16_224"
    elif name == "open_clip":
        model, option = open_clip.create_model("ViT-S-32", load_weights=False), "ViT-S-32"
    else:
        return {}
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, folder / f"{name}.safetensors")
    return {"model": option, "checkpoint": str(folder / f"{name}.safetensors")}


@pytest.fixture(scope="module", params=encoder_names())
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoder]:
    try:
        loaded = load_encoder(request.param, _random_weights(request.param, tmp_path_factory.mktemp("weights")))
        with one_torch_thread(loaded.uses_torch):
            yield loaded
    except MissingDependencyError as error:
        if os.environ.get("IRDISTILL_REQUIRE_WEIGHTS"):
            raise
        pytest.skip(str(error))


def _batch(make_photo: Callable[..., np.ndarray], side_px: int) -> np.ndarray:
    batch = np.stack([make_photo(seed, side_px, side_px) for seed in range(3)])
    batch.setflags(write=False)
    return batch


def test_the_folder_holds_what_the_command_offers() -> None:
    assert encoder_names() == ("handcrafted", "open_clip", "timm", "vit_s14")
    for name in ("vit-b16", "_loading", ""):
        with pytest.raises(PluginError, match="near names: "):
            load_encoder(name)


def test_rows_and_tokens(encoder: Encoder, make_photo: Callable[..., np.ndarray]) -> None:
    images = _batch(make_photo, encoder.input_px)
    encoded = encoder.encode(images)
    assert encoded.rows.dtype == encoded.tokens.dtype == np.float32
    assert encoded.rows.ndim == 2
    assert encoded.tokens.ndim == 3
    assert len(encoded.rows) == len(encoded.tokens) == 3
    assert np.isfinite(encoded.rows).all()
    assert np.isfinite(encoded.tokens).all()
    again = encoder.encode(images)
    assert again.rows.tobytes() == encoded.rows.tobytes()
    assert again.tokens.tobytes() == encoded.tokens.tobytes()


def test_images_of_a_batch_do_not_see_each_other(encoder: Encoder, make_photo: Callable[..., np.ndarray]) -> None:
    images = _batch(make_photo, encoder.input_px)
    together, alone = encoder.encode(images), encoder.encode(images[1:2])
    exact = encoder.settings.get("precision", "fp32") == "fp32"
    for one, two in ((together.rows[1], alone.rows[0]), (together.tokens[1], alone.tokens[0])):
        # bfloat16 keeps 8 bits: a product in other blocks may round otherwise
        assert one == pytest.approx(two, abs=1e-4 if exact else 0.02 * float(np.abs(two).max()))
    assert np.abs(together.rows[0] - together.rows[1]).max() > 1e-3


def test_what_it_is(encoder: Encoder) -> None:
    assert encoder.name in encoder_names()
    assert encoder.label
    assert encoder.weights_sha256 == "" or len(encoder.weights_sha256) == 64
    assert set(encoder.settings) >= ({"precision", "device"} if encoder.uses_torch else set())


def test_the_mean_token_is_that_of_the_tokens(encoder: Encoder, make_photo: Callable[..., np.ndarray]) -> None:
    if not encoder.pools_tokens:
        assert not hasattr(encoder, "mean_token")
        return
    import torch

    images = _batch(make_photo, encoder.input_px)
    x = torch.from_numpy(images.copy()).permute(0, 3, 1, 2) / 255
    got, wanted = encoder.mean_token(x).detach().numpy(), encoder.encode(images).tokens.mean(axis=1)
    assert (got * wanted).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(wanted, axis=1) == pytest.approx(
        1, abs=1e-3
    )


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 224, 224, 3), np.float32), np.zeros((224, 224, 3), np.uint8), np.zeros((1, 3, 224, 224), np.uint8),
     np.zeros((0, 224, 224, 3), np.uint8), np.zeros((1, 225, 224, 3), np.uint8)],
)  # fmt: skip
def test_wrong_batches_are_refused(encoder: Encoder, images: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"wanted \(N, 224, 224, 3\) uint8"):
        encoder.encode(images)

"""One contract over every encoder; the ViT's weights come from the set-up step (`curate fetch-weights vit_s14`)."""

import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from curate.core.errors import ImageError, MissingDependencyError, PluginError
from curate.encoders._loading import Encoder, encoder_names, load_encoder, one_torch_thread


@pytest.fixture(scope="module", params=encoder_names())
def encoder(request: pytest.FixtureRequest) -> Iterator[Encoder]:
    try:
        loaded = load_encoder(request.param)
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
    assert encoder_names() == ("handcrafted", "vit_s14")
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
    assert together.rows[1] == pytest.approx(alone.rows[0], abs=1e-4)
    assert together.tokens[1] == pytest.approx(alone.tokens[0], abs=1e-4)
    assert np.abs(together.rows[0] - together.rows[1]).max() > 1e-3


def test_what_it_is(encoder: Encoder) -> None:
    assert encoder.name in encoder_names()
    assert encoder.label
    assert encoder.weights_sha256 == "" or len(encoder.weights_sha256) == 64


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 224, 224, 3), np.float32), np.zeros((224, 224, 3), np.uint8), np.zeros((1, 3, 224, 224), np.uint8),
     np.zeros((0, 224, 224, 3), np.uint8), np.zeros((1, 225, 224, 3), np.uint8)],
)  # fmt: skip
def test_wrong_batches_are_refused(encoder: Encoder, images: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"wanted \(N, 224, 224, 3\) uint8"):
        encoder.encode(images)

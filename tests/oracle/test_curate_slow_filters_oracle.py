"""The slow scores against literal transcriptions, and on series whose order is known."""

import cv2
import numpy as np
import pytest

from curate.core.images import decode_grey, decode_image, orient, read_facts
from curate.core.records import ImageFacts
from curate.filters import blockiness
from curate.view import ImageView, PatchView


def view_of(data: bytes) -> ImageView:
    facts = read_facts(data)
    rgb = decode_image(data, facts)
    return ImageView(facts=facts, num_bytes=len(data), rgb=rgb, grey=decode_grey(data, facts, rgb))


def plain_view(rgb: np.ndarray) -> ImageView:
    facts = ImageFacts(
        format="png", width=rgb.shape[1], height=rgb.shape[0], orientation=1, mode="RGB", policy="", icc_profile=""
    )
    return ImageView(facts=facts, num_bytes=1, rgb=rgb, grey=cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))


def detailed(seed: int, side: int = 512) -> np.ndarray:
    """Make a picture whose spectrum falls as 1/f, as photographs' do, with some hard edges; (side, side, 3) uint8."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) + 1 / side
    spectrum = np.fft.rfft2(rng.normal(0, 1, (side, side))) / frequency
    grey = np.fft.irfft2(spectrum)
    grey = 120 + 30 * grey / grey.std()
    for _ in range(40):
        y, x, h, w = (int(v) for v in rng.integers(0, side, 4))
        grey[y : y + h // 8, x : x + w // 8] += rng.normal(0, 30)
    return np.clip(grey[..., None] + rng.normal(0, 2, (side, side, 1)) + [8, 0, -8], 0, 255).astype(np.uint8)


def literal_blockiness(grey: np.ndarray) -> float:
    """Compute spec/curation.md section 5, coefficient by coefficient and block by block."""

    def variation(plane):
        rows, columns = plane.shape[0] // 8, plane.shape[1] // 8
        dct = np.zeros((rows * 8, columns * 8))
        for r in range(rows):
            for c in range(columns):
                block = plane[8 * r : 8 * r + 8, 8 * c : 8 * c + 8].astype(np.float64)
                dct[8 * r : 8 * r + 8, 8 * c : 8 * c + 8] = cv2.dct(block)
        total = np.zeros((8, 8))
        for r in range(1, rows - 1):
            for c in range(1, columns - 1):
                here, left, right, up, down = (
                    dct[8 * (r + a) : 8 * (r + a) + 8, 8 * (c + b) : 8 * (c + b) + 8]
                    for a, b in ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))
                )
                total += np.sqrt((left + right - 2 * here) ** 2 + (up + down - 2 * here) ** 2)
        return total / ((rows - 2) * (columns - 2))

    value = variation(grey)
    return float((np.abs(variation(grey[4:, 4:]) - value) / value).sum())


@pytest.mark.parametrize("quality", [None, 95, 75, 40, 10])
def test_blockiness_equals_a_literal_transcription(jpeg_bytes, quality):
    photo = detailed(1, 200)[:, :168]
    view = plain_view(photo) if quality is None else view_of(jpeg_bytes(photo, quality=quality))
    expected = literal_blockiness(view.grey)
    assert blockiness.Plugin().measure(view)["blockiness"] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_blockiness_falls_with_quality(jpeg_bytes, seed):
    photo = detailed(seed)
    values = [
        blockiness.Plugin().measure(PatchView(image=view_of(jpeg_bytes(photo, quality=q)), y=8, x=16, size_px=480))[
            "blockiness"
        ]
        for q in (10, 20, 30, 50, 70, 80, 90, 95)
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] > 5 * values[-1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_blockiness_finds_the_grid_of_a_turned_picture(jpeg_bytes, orientation):
    decoded = decode_image(jpeg_bytes(detailed(4)[:389, :507], quality=30))
    turned = np.ascontiguousarray(orient(decoded, orientation))
    upright = ImageView(
        facts=ImageFacts(
            format="jpeg", width=turned.shape[1], height=turned.shape[0], orientation=orientation, mode="RGB",
            policy="oriented", icc_profile="",
        ),
        num_bytes=1, rgb=turned, grey=cv2.cvtColor(turned, cv2.COLOR_RGB2GRAY),
    )  # fmt: skip
    still = plain_view(decoded)
    plugin = blockiness.Plugin()
    here = plugin.measure(PatchView(image=upright, y=64, x=64, size_px=256))["blockiness"]
    assert here == pytest.approx(plugin.measure(still)["blockiness"], rel=0.3)


def test_blockiness_of_flat_and_tiny_planes():
    assert blockiness.blockiness(np.full((64, 64), 77, np.uint8)) == 0.0
    assert blockiness.blockiness(np.zeros((39, 64), np.uint8)) is None
    assert blockiness.Plugin().judge({"blockiness": None}).reason == "too-small"
    assert blockiness.Plugin(max_blockiness=10).judge({"blockiness": 11.0}).reason == "blocky"

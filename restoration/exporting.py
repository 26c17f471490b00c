"""Networks for other programs: `export(ExportConfig) -> ExportResult` writes ONNX, safetensors and a model card.

The ONNX file takes any batch, height and width (padding and cropping are inside) and holds one depth and one head, since both
decide what is computed. It is run in ONNX Runtime at two sizes before it is kept: more than `MAX_DIFFERENCE` away from
PyTorch and nothing is written. The safetensors file holds the averaged weights, every depth and head of them.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from curate.core.artifacts import atomic_path, write_bytes
from curate.core.errors import ConfigError, MissingDependencyError, NumericsError

from .bound import Bound, bind
from .checkpoint import LoadedModel, load_run
from .model_card import is_card, write_card
from .models import describe
from .record import versions

FORMATS = ("onnx", "safetensors", "both")
MAX_DIFFERENCE = 1e-4  # of the range [0, 1]
OPSET = 18  # what torch 2.9 to 2.14 write natively; ONNX Runtime knows it since 1.14
CHECK_SHAPES = ((1, 3, 64, 96), (2, 3, 75, 53))  # the second is no multiple of anything
_EXAMPLE_SHAPE = (2, 3, 40, 56)
_UNSUITED = "{name} cannot be exported to ONNX for every size ({reason}); --format safetensors works"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """One export.

    Attributes:
        run: RUN folder.
        out: folder for `model.onnx`, `model.safetensors` and `README.md`; those of an earlier export are replaced.
        format: `onnx`, `safetensors` or `both`.
        task: which head the ONNX file uses.
        depth: which depth the ONNX file has.
        checkpoint: `last` or `best`.
        licence: of the weights, for the card; "": the card says that none was given.
    """

    run: Path
    out: Path
    format: str = "both"
    task: str = ""
    depth: str = ""
    checkpoint: str = "last"
    licence: str = ""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.format not in FORMATS:
            raise ConfigError(f"export.format must be one of {', '.join(FORMATS)}, got {self.format!r}")
        if self.out.is_file():
            raise ConfigError(f"output {self.out} is a file: name a folder")


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison of ONNX Runtime with PyTorch.

    Attributes:
        shape: of the input.
        max_difference: largest absolute difference of the outputs, whose range is [0, 1].
    """

    shape: tuple[int, ...]
    max_difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What was written.

    Attributes:
        files: in the order in which they were written.
        checks: of the ONNX file; empty without one.
    """

    files: tuple[Path, ...]
    checks: tuple[Check, ...]


def export(config: ExportConfig) -> ExportResult:
    """Write a network for other programs.

    Raises:
        ConfigError: no such run, depth or head, or `out` holds files of these names that are not ours.
        ManifestError: a broken checkpoint.
        MissingDependencyError: ONNX was asked for without the extra `export`.
        NumericsError: ONNX Runtime computes something else than PyTorch.
    """
    _check_ours(config)
    loaded = load_run(config.run, which=config.checkpoint)
    network = bind(loaded.module, depth=config.depth, task=config.task)
    files: list[Path] = []
    checks: tuple[Check, ...] = ()
    if config.format != "safetensors":
        checks = _write_onnx(config.out / "model.onnx", loaded, network)
        files.append(config.out / "model.onnx")
    if config.format != "onnx":
        files.append(_write_safetensors(config.out / "model.safetensors", loaded))
    names = [path.name for path in files]
    card = write_card(config.run, loaded, network, files=names, checks=checks, licence=config.licence)
    write_bytes(config.out / "README.md", card.encode())
    return ExportResult(files=(*files, config.out / "README.md"), checks=checks)


def _check_ours(config: ExportConfig) -> None:
    """Refuse to replace a README.md or model that no export of ours wrote."""
    card = config.out / "README.md"
    if card.is_file() and is_card(card.read_text(encoding="utf-8", errors="replace")):
        return
    left_out = {"onnx": "model.safetensors", "safetensors": "model.onnx"}.get(config.format, "")
    names = [name for name in ("README.md", "model.onnx", "model.safetensors") if name != left_out]
    if there := [name for name in names if os.path.lexists(config.out / name)]:
        raise ConfigError(
            f"output {config.out} holds {', '.join(there)} of another origin: choose a new folder for OUT, or remove them"
        )


class AnySize(nn.Module):
    """A network with its choices made and the padding done by indices, which any size exports to.

    Equal to the network itself for sides of at least `align_px` pixels.
    """

    def __init__(self, network: Bound) -> None:
        super().__init__()
        self.inner = network.module
        self._choice = network.reuse or network.task or None
        self._scale = network.scale
        self._align: int = getattr(network.module, "align_px", 8)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Restore (B, 3, H, W) in [0, 1] to (B, 3, scale * H, scale * W), not clamped."""
        height, width = x_BCHW.shape[2], x_BCHW.shape[3]
        if self._align > 1:
            x_BCHW = x_BCHW.index_select(2, _mirrored(height, self._align))
            x_BCHW = x_BCHW.index_select(3, _mirrored(width, self._align))
        output_BCHW: Tensor = self.inner(x_BCHW, self._choice)
        return output_BCHW[:, :, : height * self._scale, : width * self._scale]


def _mirrored(size: int, align: int) -> Tensor:
    """Give the indices 0 .. size - 1 and then back from size - 2, as many as the next multiple has."""
    index = torch.arange((size + align - 1) // align * align)
    return torch.minimum(index, 2 * (size - 1) - index).clamp_min(0)


def _write_onnx(path: Path, loaded: LoadedModel, network: Bound) -> tuple[Check, ...]:
    onnx, runtime = _import_onnx()
    module = AnySize(network).eval()
    with tempfile.TemporaryDirectory() as folder:
        traced = Path(folder) / "model.onnx"
        _trace(module, traced, loaded.name)
        model = onnx.load(str(traced))
    onnx.helper.set_model_props(model, _properties(loaded, network))
    model.producer_name, model.producer_version = "irdistill", versions()["irdistill"]
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    checks = _compare(data, network, runtime)
    write_bytes(path, data)
    return checks


def _trace(module: nn.Module, path: Path, name: str) -> None:
    sizes = ({0: "batch", 2: "height", 3: "width"},)
    try:
        with _quiet():
            program = torch.onnx.export(
                module, (torch.rand(_EXAMPLE_SHAPE),), dynamo=True, opset_version=OPSET, input_names=["input"],
                output_names=["output"], dynamic_shapes=sizes, verbose=False,
            )  # fmt: skip
            assert program is not None, "dynamo=True returns a program"
            program.save(str(path), external_data=False)
    except RuntimeError as error:  # OnnxExporterError is one
        cause = type(error.__cause__ or error).__name__
        raise ConfigError(_UNSUITED.format(name=name, reason=f"torch.export: {cause}")) from error


def _properties(loaded: LoadedModel, network: Bound) -> dict[str, str]:
    return {
        **describe(loaded.name, network.module), "step": str(loaded.step), "checkpoint": loaded.file,
        "depth": ",".join(map(str, network.reuse or ())), "task": network.task, "scale": str(network.scale),
        "input": "(batch, 3, height, width) float32, RGB in [0, 1]", "output": "the same, not clamped",
    }  # fmt: skip


@torch.inference_mode()
def _compare(data: bytes, network: Bound, runtime: Any) -> tuple[Check, ...]:
    failures = runtime.capi.onnxruntime_pybind11_state
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    checks = []
    for shape in CHECK_SHAPES:
        x_BCHW = torch.rand(shape, generator=generator)
        try:
            (output,) = session.run(None, {session.get_inputs()[0].name: x_BCHW.numpy()})
        except (failures.Fail, failures.InvalidArgument, failures.RuntimeException) as error:
            reason = f"the file does not run at {shape}: {str(error).splitlines()[0]}"
            raise ConfigError(_UNSUITED.format(name=type(network.module).__name__, reason=reason)) from error
        expected = network(x_BCHW).numpy()
        if output.shape != expected.shape:
            reason = f"it gives {output.shape} at {shape}"
            raise ConfigError(_UNSUITED.format(name=type(network.module).__name__, reason=reason))
        difference = float(np.abs(output - expected).max())
        if not difference <= MAX_DIFFERENCE:
            raise NumericsError(
                f"ONNX Runtime differs from PyTorch by {difference:.1e} at {shape} (allowed: {MAX_DIFFERENCE}): not written"
            )
        checks.append(Check(shape, difference))
    return tuple(checks)


def _write_safetensors(path: Path, loaded: LoadedModel) -> Path:
    tensors = {name: value.detach().contiguous() for name, value in loaded.module.state_dict().items()}
    metadata = {
        **describe(loaded.name, loaded.module),
        "step": str(loaded.step),
        "checkpoint": loaded.file,
        "format": "pt",
    }
    with atomic_path(path) as temporary:
        save_file(tensors, str(temporary), metadata=metadata)
    return path


def _import_onnx() -> Sequence[Any]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - what torch.onnx translates with
    except ImportError as error:
        raise MissingDependencyError(
            f"ONNX export needs {error.name}: pip install 'irdistill[export]', or use --format safetensors"
        ) from error
    return onnx, onnxruntime


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on its own progress off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        sink = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

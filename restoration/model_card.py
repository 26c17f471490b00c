"""The README.md beside exported weights: what they are, how they came about, what was measured, how to use them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.core.artifacts import read_json
from curate.core.errors import ManifestError

from .bound import Bound
from .checkpoint import LoadedModel
from .models import num_parameters

if TYPE_CHECKING:
    from .exporting import Check

MARKER = "library_name: irdistill"
_LOAD_SAFETENSORS = """\
```python
import json, safetensors.torch, safetensors, restoration
with safetensors.safe_open("model.safetensors", "pt") as file:
    about = file.metadata()
model = restoration.make_model(about["model"], json.loads(about["config"])).eval()
model.load_state_dict(safetensors.torch.load_file("model.safetensors"))  # then model(x_BCHW) in [0, 1]
```
"""
_LOAD_ONNX = """\
```python
import numpy, onnxruntime, PIL.Image
session = onnxruntime.InferenceSession("model.onnx")
x = numpy.asarray(PIL.Image.open("in.png").convert("RGB"), "float32").transpose(2, 0, 1)[None] / 255
y = session.run(None, {"input": x})[0][0].clip(0, 1).transpose(1, 2, 0)
PIL.Image.fromarray((y * 255).round().astype("uint8")).save("out.png")
```
"""


def write_card(
    run: Path, loaded: LoadedModel, network: Bound, *, files: Sequence[str], checks: Sequence[Check], licence: str
) -> str:
    """Write the card from what the run says of itself; what it does not say is said to be unknown."""
    record = _read(run / "run.json")
    parts = [
        "---", f"license: {licence or 'unknown'}", MARKER, "pipeline_tag: image-to-image", "---", "",
        f"# {loaded.name}, step {loaded.step:,}", "", _what(loaded, network), "",
        "## Files", "", *(f"- `{name}`: {_file(name, network)}" for name in files), "",
        "## How it was trained", "", *_training(record), "",
        "## Measured", "", *_measured(run, loaded), "",
        "## Use", "",
    ]  # fmt: skip
    if "model.safetensors" in files:
        parts += ["With irdistill installed:", "", _LOAD_SAFETENSORS]
    if "model.onnx" in files:
        parts += ["With ONNX Runtime alone:", "", _LOAD_ONNX]
        shown = "; ".join(f"{check.max_difference:.1e} at {'x'.join(map(str, check.shape))}" for check in checks)
        parts += [f"Largest difference from PyTorch when it was exported: {shown} (range 0 to 1).", ""]
    parts += [
        "Large pictures: `restoration restore` tiles them without seams; a forward pass holds the whole picture.",
        "",
    ]
    parts += [
        "## Licence",
        "",
        licence or "None was given: ask whoever trained these weights, and mind the training data's.",
    ]
    return "\n".join(parts) + "\n"


def is_card(text: str) -> bool:
    """Tell a card of ours from someone else's README.md."""
    head = text.split("\n---", 1)[0].splitlines()
    return head[:1] == ["---"] and MARKER in head


def _what(loaded: LoadedModel, network: Bound) -> str:
    module: Any = network.module
    size = "of the same size" if network.scale == 1 else f"{network.scale} times as high and wide"
    lines = [
        f"A restoration network of irdistill, architecture `{loaded.name}`, {num_parameters(module):,} parameters.",
        f"RGB pictures of any size in, values 0 to 1; RGB pictures {size} out.",
    ]
    if module.depths:
        words = ", ".join(f"`{name}` = {','.join(map(str, counts))}" for name, counts in module.depths.items())
        lines.append(f"Its depth is chosen at run time ({words}); trained at {','.join(map(str, module.reuse))}.")
    if module.tasks:
        lines.append(f"Heads: {', '.join(module.tasks)}.")
    return " ".join(lines)


def _file(name: str, network: Bound) -> str:
    if name.endswith(".onnx"):
        depth = f" at depth {','.join(map(str, network.reuse))}" if network.reuse else ""
        head = f", head {network.task}" if network.task else ""
        return f"the network{depth}{head}; batch, height and width are free"
    return "the averaged weights, with the network's name and sizes in its header"


def _training(record: Mapping[str, Any]) -> list[str]:
    config, inputs = record.get("config", {}), record.get("inputs", {})
    if not config:
        return ["Unknown: the run holds no run.json of `restoration train`."]
    if record.get("status") == "imported":
        file = inputs.get("file", {}) if isinstance(inputs, Mapping) else {}
        name, sha256 = Path(str(file.get("path", "unknown"))).name, file.get("sha256", "unknown")
        return ["Elsewhere: these weights were imported.", "", f"- file: `{name}`", f"- sha256 of the file: {sha256}"]
    data = inputs.get("data", {}) if isinstance(inputs, Mapping) else {}
    facts = {
        "status": record.get("status"), "data": Path(str(data.get("path", "unknown"))).name,
        "patches": data.get("samples"), "content hash of the data": data.get("content_hash"),
        "config hash": record.get("config_hash"), "seed": config.get("seed"),
        **{name: config.get(name) for name in ("recipe", "steps", "tasks", "batch_size", "crop_px", "peak_lr")},
        "versions": record.get("versions"),
    }  # fmt: skip
    return [f"- {name}: {_short(value)}" for name, value in facts.items() if value not in (None, "", {})]


def _measured(run: Path, loaded: LoadedModel) -> list[str]:
    rows = []
    for path in sorted((run / "eval").glob("*.json")):
        result = _read(path)
        before, after = (result.get("mean", {}).get(side, {}) for side in ("input", "output"))
        if "psnr_db" not in before or "psnr_db" not in after or result.get("checkpoint") != loaded.file:
            continue
        numbers = [
            _number(side.get(metric), digits)
            for metric, digits in (("psnr_db", 2), ("ssim", 4))
            for side in (before, after)
        ]
        names = [result["bench"], result["task"], result["protocol"], result.get("depth") or "-"]
        rows.append(f"| {' | '.join([*names, *numbers])} |")
    if not rows:
        return ["Nothing yet with this checkpoint: `restoration evaluate RUN BENCH --task ...`, then export again."]
    head = ["| bench | task | protocol | depth | PSNR dB before | after | SSIM before | after |", "| --- " * 8 + "|"]
    return head + rows


def _number(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "-"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"`{text}`" if isinstance(value, Mapping) else text


def _read(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except ManifestError:
        return {}
    return value if isinstance(value, dict) else {}

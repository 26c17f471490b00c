"""Measure how people would rate a patch (NIMA), with a checkpoint of your own; nothing is shipped or downloaded.

Name it in the recipe: `[thresholds.nima]` with `checkpoint = "FILE"` (`.safetensors`, or a PyTorch file of tensors only). It
holds the state dict of a torchvision network whose last layer gives 10 logits, one per rating 1 to 10; names may carry
the prefix `module.` or `model.`. The interface is tested with made (random) weights only: no trained checkpoint was at hand, so
what values a real one gives here is not known.

Source: Talebi & Milanfar, "NIMA: Neural Image Assessment", IEEE TIP 27(8), 2018. Differs: the whole patch is shrunk to 224 px
(theirs takes a crop of 224 of 256). Million-IRD selects by NIMA but never published its threshold; ours is the scale's middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np

from ..core.errors import ConfigError
from ..core.records import KEEP, Image, Score, Verdict
from ..encoders._loading import one_torch_thread
from ..view import View

if TYPE_CHECKING:
    import torch

BACKBONES = ("mobilenet_v2", "resnet50", "vgg16")
NUM_RATINGS = 10
INPUT_PX = 224
_MEAN, _STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)  # ImageNet's
_PREFIXES = ("module.", "model.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Gate on the mean rating: higher is better."""

    name: ClassVar[str] = "nima"
    level: ClassVar[str] = "patch"
    columns: ClassVar[Mapping[str, type]] = {"nima": float}
    checkpoint: str = ""  # path of the weights; measuring without one is an error
    backbone: str = "mobilenet_v2"  # torchvision's name of the network
    min_nima: float = 5.0  # ours: just under the middle of the scale 1..10

    def __post_init__(self) -> None:
        """Check ranges; the checkpoint is opened by the first `measure`."""
        if not isinstance(self.checkpoint, str):
            raise ConfigError(f"nima.checkpoint must be a path, got {self.checkpoint!r}")
        if self.backbone not in BACKBONES:
            raise ConfigError(f"nima.backbone must be one of {', '.join(BACKBONES)}, got {self.backbone!r}")
        if not 1 <= self.min_nima <= NUM_RATINGS:
            raise ConfigError(f"nima.min_nima must be in 1..10, got {self.min_nima}")

    def measure(self, view: View) -> Mapping[str, Score]:
        """Return the mean of the predicted distribution over ratings, 1..10.

        Raises:
            ConfigError: no checkpoint is named, it is missing, or its tensors do not fit the backbone.
        """
        if not self.checkpoint:
            raise ConfigError('nima needs a checkpoint: write [thresholds.nima] checkpoint = "FILE" in the recipe')
        return {"nima": mean_rating(_network(self.checkpoint, self.backbone), view.rgb)}

    def judge(self, scores: Mapping[str, Score]) -> Verdict:
        """Keep if known and not below the threshold."""
        value = scores["nima"]
        if value is None:
            return Verdict(keep=False, reason="quality-unknown")
        return KEEP if value >= self.min_nima else Verdict(keep=False, reason="low-rating")


def mean_rating(network: torch.nn.Module, rgb: Image) -> float:
    """Predict the mean rating of (H, W, 3) uint8 RGB with a network of 10 logits; 1..10."""
    import torch

    small = cv2.resize(rgb, (INPUT_PX, INPUT_PX), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    batch = torch.from_numpy(np.ascontiguousarray(((small - _MEAN) / _STD).transpose(2, 0, 1)[None]))
    with torch.inference_mode(), one_torch_thread():
        share = torch.softmax(network(batch)[0].double(), dim=0)
        return float(share @ torch.arange(1, NUM_RATINGS + 1, dtype=torch.float64))


@cache
def _network(checkpoint: str, backbone: str) -> torch.nn.Module:
    import torchvision

    network: torch.nn.Module = torchvision.models.get_model(backbone, weights=None, num_classes=NUM_RATINGS)
    tensors = {_bare(name): tensor for name, tensor in _read_tensors(Path(checkpoint).expanduser()).items()}
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise ConfigError(f"nima.checkpoint {checkpoint} does not fit {backbone} with 10 outputs: {first}") from error
    return network.eval()


def _read_tensors(path: Path) -> dict[str, Any]:
    """Read a state dict; never unpickles code."""
    import safetensors.torch
    import torch

    if not path.is_file():
        raise ConfigError(f"nima.checkpoint {path} is not a file")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(str(path)))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(f"nima.checkpoint {path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise ConfigError(f"nima.checkpoint {path} is not a state dict (names to tensors)")
    return found


def _bare(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name

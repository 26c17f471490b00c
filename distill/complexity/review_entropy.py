"""Complexity as a review of TripleD describes it: a ViT at 128 px whose features predict the picture's entropy.

The clean picture is shrunk to 128x128 and goes through a ViT-B/16 whose position embedding is resized from 14x14 to 8x8
(bicubic, antialiased: timm's own). A ridge regression from the mean token predicts the Shannon entropy (bits) of the luma
histogram at full resolution; every patch is scored by a head that did not see it (5 folds over the sorted photographs, so that
nearly all patches of one share a fold). The review's "manual revision" of the labels cannot be reproduced.

Label and features are kept as float32, which the features are anyway: of 8 million patches they take 25 GB on disk. The
regression reads them in blocks and sums in float64.

The weights are not shipped: without a checkpoint they come from the hub. Tested by its formula with random weights, against
nobody's numbers.

Source: spec/tripled.md sections 1 (row 9) and 4.1 [REV]; ridge and folds are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from curate import Dataset
from curate.core.errors import ConfigError
from curate.encoders.timm import build_timm

from ..descriptors import histogram_bits
from ..measure import Look, Patches, Scores
from ..ridge import cross_fitted_ridge
from ..views import global_view


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Predicted entropy in bits, about 0..8.

    Attributes:
        vit_model: timm's name.
        vit_checkpoint: a local file; "" = from the hub.
        num_features: width of that model.
        side_px: side of the shrunk picture.
        num_folds: of the cross-fit.
        lambda_share: of the mean eigenvalue of the features' covariance.
    """

    name: ClassVar[str] = "review_entropy"
    uses_torch: ClassVar[bool] = True
    looks_at_tokens: ClassVar[bool] = False
    vit_model: str = "vit_base_patch16_224"
    vit_checkpoint: str = ""
    num_features: int = 768
    side_px: int = 128  # [REV]
    num_folds: int = 5  # spec/tripled.md section 4.1
    lambda_share: float = 1e-2  # the same

    def __post_init__(self) -> None:
        for name in ("num_features", "side_px"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"{self.name}.{name} must be >= 1, got {getattr(self, name)}")
        if not self.num_folds >= 2:
            raise ConfigError(f"{self.name}.num_folds must be >= 2, got {self.num_folds}")
        if not self.lambda_share > 0:
            raise ConfigError(f"{self.name}.lambda_share must be > 0, got {self.lambda_share}")

    @property
    def values(self) -> tuple[str, ...]:
        """The label, then the features."""
        return ("entropy_bits", *(f"f{number}" for number in range(self.num_features)))

    def prepare(self, corpus: Dataset, folder: Path) -> Look:
        """Load the ViT and fit it to the smaller picture."""
        import torch
        from timm.data import resolve_model_data_config

        model = build_timm(self.vit_model, self.vit_checkpoint, where=self.name)
        model.set_input_size(img_size=(self.side_px, self.side_px))
        data: dict[str, Any] = resolve_model_data_config(model)
        mean, deviation = (np.array(data[name], np.float32) for name in ("mean", "std"))

        def look(patches: Patches) -> NDArray[np.float32]:
            small = np.stack([global_view(image, self.side_px) for image in patches.clean])
            scaled = (small.astype(np.float32) / np.float32(255) - mean) / deviation
            with torch.inference_mode():
                tokens = model.forward_features(torch.from_numpy(scaled.transpose(0, 3, 1, 2).copy()))
            features_ND = tokens[:, model.num_prefix_tokens :].mean(dim=1).float().numpy()
            if features_ND.shape[1] != self.num_features:
                raise ConfigError(
                    f"{self.name}: {self.vit_model} has {features_ND.shape[1]} features, num_features says {self.num_features}"
                )
            bits = np.array([[histogram_bits(image)] for image in patches.clean], np.float32)
            return np.concatenate([bits, features_ND], axis=1)

        return look

    def finish(self, values_NK: NDArray[np.floating], groups_N: NDArray[np.int64]) -> Scores:
        """Predict the label of every patch from those of other photographs."""
        predicted = cross_fitted_ridge(values_NK, groups_N, num_folds=self.num_folds, lambda_share=self.lambda_share)
        return Scores(complexity=predicted)

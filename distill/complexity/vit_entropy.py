"""Complexity as the entropy of the spectrum of a ViT's patch tokens: how many directions the tokens really use.

Source: "entropy" after TripleD's reviewers; this formula is ours (effective rank, Roy and Vetterli, EUSIPCO 2007;
spec/tripled.md section 4.1). Difference from the spec: a view of one colour scores 0 by rule, because a ViT's position
embedding gives it unequal tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from curate.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Normalised entropy of the eigenvalues of the centred token Gram matrix."""

    name: ClassVar[str] = "vit_entropy"
    uses_torch: ClassVar[bool] = True
    min_energy: float = 1e-8  # sum of eigenvalues under which nothing varies: spec/tripled.md section 4.1

    def __post_init__(self) -> None:
        if not self.min_energy > 0:
            raise ConfigError(f"vit_entropy.min_energy must be > 0, got {self.min_energy}")

    def measure(self, images_NHWC: NDArray[np.uint8], tokens_NTD: NDArray[np.float32]) -> NDArray[np.float64]:
        """Score a batch of views.

        Args:
            images_NHWC: (N, S, S, 3) uint8, what the encoder saw. Not modified.
            tokens_NTD: (N, T, D) float32 patch tokens, T >= 3. Not modified.

        Returns:
            (N,) float64 in [0, 1]: 0 = all tokens equal, 1 = no direction preferred.
        """
        spectrum_NR = _spectrum(tokens_NTD)
        energy_N = spectrum_NR.sum(axis=1)
        share_NR = spectrum_NR / np.maximum(energy_N, self.min_energy)[:, None]
        entropy_N = -(share_NR * np.log(share_NR + 1e-12)).sum(axis=1)
        most = np.log(min(tokens_NTD.shape[1] - 1, tokens_NTD.shape[2]))
        flat_N = (images_NHWC == images_NHWC[:, :1, :1]).all(axis=(1, 2, 3))
        return np.where(flat_N | (energy_N < self.min_energy), 0.0, np.clip(entropy_N / most, 0.0, 1.0))


def _spectrum(tokens_NTD: NDArray[np.float32]) -> NDArray[np.float64]:
    """Eigenvalues of the centred Gram matrix, taken on its smaller side: the others are zero.

    With torch, whose threads can be held to one: OpenBLAS's cannot, and waiting for each other they took 737 ms for what
    takes 5 ms on one thread.
    """
    import torch

    centred = torch.from_numpy(tokens_NTD.astype(np.float64))
    centred -= centred.mean(dim=1, keepdim=True)
    gram = centred.mT @ centred if centred.shape[2] < centred.shape[1] else centred @ centred.mT
    spectrum_NR: NDArray[np.float64] = torch.linalg.eigvalsh(gram).numpy()
    return np.maximum(spectrum_NR, 0.0)

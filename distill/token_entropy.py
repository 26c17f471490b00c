"""How many directions a picture's tokens really use: the entropy of the spectrum of their centred Gram matrix.

Source: effective rank, Roy and Vetterli, EUSIPCO 2007; spec/tripled.md section 4.1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .measure import Patches

WHOLE_AND_CROPS = ("whole", "crops")


def token_entropies(tokens_NTD: NDArray[np.floating], *, min_energy: float) -> NDArray[np.float64]:
    """Measure the spread of each picture's tokens.

    Args:
        tokens_NTD: (N, T, D), T >= 3. Not modified.
        min_energy: sum of eigenvalues under which nothing varies.

    Returns:
        (N,) float64 in [0, 1]: 0 = all tokens equal, 1 = no direction preferred.
    """
    spectrum_NR = _spectrum(tokens_NTD)
    energy_N = spectrum_NR.sum(axis=1)
    share_NR = spectrum_NR / np.maximum(energy_N, min_energy)[:, None]
    entropy_N = -(share_NR * np.log(share_NR + 1e-12)).sum(axis=1)
    most = np.log(min(tokens_NTD.shape[1] - 1, tokens_NTD.shape[2]))
    return np.where(energy_N < min_energy, 0.0, np.clip(entropy_N / most, 0.0, 1.0))


def entropy_of_views(patches: Patches, tokens_VTD: NDArray[np.floating], *, min_energy: float) -> NDArray[np.float64]:
    """Measure each patch's whole view and the mean of its crops.

    A view of one colour is 0 by rule, because a ViT's position embedding gives it unequal tokens.

    Args:
        patches: with views.
        tokens_VTD: of each view.
        min_energy: as in `token_entropies`.

    Returns:
        (patches, 2) float64: whole, mean of the crops; NaN for a patch without crops.
    """
    views = patches.views
    flat_V = (views == views[:, :1, :1]).all(axis=(1, 2, 3))
    # what lies beyond the ninth digit is rounding of the machine
    entropy_V = np.round(np.where(flat_V, 0.0, token_entropies(tokens_VTD, min_energy=min_energy)), 9)
    num = len(patches.clean)
    crops = ~patches.is_global
    sums = np.bincount(patches.owner[crops], weights=entropy_V[crops], minlength=num)
    counts = np.bincount(patches.owner[crops], minlength=num)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return np.stack([entropy_V[patches.is_global], means], axis=1)


def weigh_views(values_N2: NDArray[np.float64], crop_weight_frac: float) -> NDArray[np.float64]:
    """Join the whole view and the crops; a patch without crops is judged by the whole view."""
    share = np.where(np.isnan(values_N2[:, 1]), 0.0, crop_weight_frac)
    return np.asarray((1 - share) * values_N2[:, 0] + share * np.nan_to_num(values_N2[:, 1]), dtype=np.float64)


def _spectrum(tokens_NTD: NDArray[np.floating]) -> NDArray[np.float64]:
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

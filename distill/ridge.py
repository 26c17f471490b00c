"""Linear regression that scores every row by a head that did not see it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def cross_fitted_ridge(
    features_ND: NDArray[np.float64], targets_N: NDArray[np.float64], *, num_folds: int, lambda_share: float
) -> NDArray[np.float64]:
    """Predict each row by ridge regression fitted on the other folds.

    Folds are runs of consecutive rows, so that rows that belong together and stand together fall into one.

    Args:
        features_ND: (N, D), finite. Not modified.
        targets_N: (N,).
        num_folds: folds; with fewer rows than two the mean target is the prediction.
        lambda_share: regularisation, as a share of the mean eigenvalue of the fold's feature covariance.

    Returns:
        (N,) float64 predictions.
    """
    num = len(targets_N)
    predicted = np.full(num, targets_N.mean() if num else 0.0)
    folds = [fold for fold in np.array_split(np.arange(num), num_folds) if 0 < len(fold) < num]
    for fold in folds:
        seen = np.ones(num, np.bool_)
        seen[fold] = False
        mean, target_mean = features_ND[seen].mean(axis=0), targets_N[seen].mean()
        centred = features_ND[seen] - mean
        covariance = centred.T @ centred / len(centred)
        ridge = lambda_share * np.trace(covariance) / len(covariance)
        if ridge > 0:  # else nothing varies, and the mean is all there is to say
            head = np.linalg.solve(
                covariance + ridge * np.eye(len(covariance)), centred.T @ (targets_N[seen] - target_mean) / len(centred)
            )
            predicted[fold] = (features_ND[fold] - mean) @ head + target_mean
        else:
            predicted[fold] = target_mean
    return predicted

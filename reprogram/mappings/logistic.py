"""Convex fit of a linear map from source log-probabilities to target classes."""

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

STRENGTHS = tuple(10.0**exponent for exponent in range(-5, 1))
"""Inverse regularisation strengths that cross-validation chooses from (features have unit variance)."""

FEW = 1e-2
"""Inverse strength where a class has too few examples for cross-validation."""


class LogisticFit(NamedTuple):
    """Weight [K_t, F] and bias [K_t], scores = features @ weight.T + bias, and the inverse strength of the penalty."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    strength: float


def fit_logistic(
    features: NDArray[np.float64],
    targets: NDArray[np.int64],
    num_classes: int,
    num_folds: int = 3,
    seed: int = 0,
    strength: float | None = None,
    per_feature: bool = True,
    weights: NDArray[np.float64] | None = None,
) -> LogisticFit:
    """Fits multinomial logistic regression with an L2 penalty chosen by stratified cross-validation.

    Features are standardised for the fit; the result applies to features as given. A class without examples gets the
    lowest bias, so that it is never predicted. With too few examples of a class for two folds, the inverse strength is
    0.01.

    Args:
        features: [N, F].
        targets: [N] in 0..num_classes-1.
        num_classes: K_t.
        num_folds: At most this many folds.
        seed: Of the folds.
        strength: Inverse strength of the penalty; ``None``: chosen, which takes many times as long.
        per_feature: Whether each feature is brought to unit variance; ``False``: one divisor brings them there on
            average, for features of one unit such as pixels. Where these are more than examples, they are rotated into
            the space of the examples, which changes nothing but the time.
        weights: [N] of the examples in the loss, and in the score of a fold, > 0; ``None``: all 1. Mean and variance of
            the features are those of all examples alike.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold
    from threadpoolctl import threadpool_limits

    weight, bias = np.zeros((num_classes, features.shape[1])), np.full(num_classes, -np.inf)
    present, sizes = np.unique(targets, return_counts=True)
    mean, std = features.mean(axis=0), features.std(axis=0)
    if not per_feature:
        std = np.full_like(std, np.sqrt((std**2).mean()))
    std[std < 1e-6] = 1.0
    folds = min(num_folds, int(sizes.min()))
    if len(present) == 1:
        bias[present] = 0.0
    else:
        standardised, basis = (features - mean) / std, None
        if not per_feature and len(features) < features.shape[1]:
            basis, triangle = np.linalg.qr(standardised.T)  # the penalty does not see a rotation
            standardised = triangle.T
        # small matrices: threads only wait for each other; a fit that stops early is still a good one
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.filterwarnings("ignore", "The number of unique classes")  # a few images of each class
            if strength is None and folds >= 2:
                search = LogisticRegressionCV(
                    Cs=STRENGTHS,
                    l1_ratios=(0.0,),
                    cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
                    scoring="neg_log_loss",
                    tol=1e-3,  # enough to tell strengths apart that differ tenfold
                    max_iter=300,
                    refit=False,
                    use_legacy_attributes=False,
                )
                strength = float(search.fit(standardised.astype(np.float32), targets, sample_weight=weights).C_)
            strength = FEW if strength is None else strength
            model = LogisticRegression(C=strength, max_iter=300).fit(standardised, targets, sample_weight=weights)
        coefficients, intercepts = model.coef_, model.intercept_
        if len(present) == 2:  # scikit-learn gives one row, of the second class
            coefficients = np.concatenate([-coefficients, coefficients]) / 2
            intercepts = np.concatenate([-intercepts, intercepts]) / 2
        weight[present] = (coefficients if basis is None else coefficients @ basis.T) / std
        bias[present] = intercepts - weight[present] @ mean
    # a missing class: as improbable as 1e-6 of the least likely present one at the mean of the features
    level = (weight[present] @ mean + bias[present]).min() + np.log(1e-6)
    weight[np.isinf(bias)] = weight[present].mean(axis=0)
    missing = np.isinf(bias)
    bias[missing] = level - weight[missing] @ mean
    return LogisticFit(weight, bias, FEW if strength is None else strength)

"""Classifier two-sample test."""

import numpy as np

from ._samples import two_samples


def c2st(x: np.ndarray, y: np.ndarray, num_folds: int = 5, z_score: bool = True, seed: int = 1) -> float:
    """Accuracy of a classifier that tells two samples apart, on rows that it has not seen: 0.5 where they are alike.

    Lopez-Paz, Oquab (2017), "Revisiting classifier two-sample tests", with the classifier of the simulation-based
    inference benchmark (Lueckmann et al. 2021, sbibm), so that its figures compare: two hidden layers of 10 d
    ReLU units, trained by Adam until the loss stands still, mean accuracy over the folds of a cross-validation.

    Args:
        x: (n, d), by custom the reference, whose moments scale both.
        y: (n, d).
        num_folds: of the cross-validation.
        z_score: take off the mean of x and divide by its standard deviation, column by column.
        seed: of the folds and of the classifier's initial weights.

    Returns:
        The accuracy, in [0, 1]. Its standard error is about sqrt(a (1 - a) / (2 n)); far below 0.5 it says that rows
        come twice. Takes seconds to minutes for 10,000 rows.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: x or y is not two-dimensional, not real and finite, their shapes differ (with other numbers of
            rows chance would not be 0.5), or there are not 2 to n folds.
    """
    x, y = two_samples(x, y, 2)
    if len(x) != len(y):
        raise ValueError(
            f"x and y must hold equally many points, got {len(x)} and {len(y)}; take as many rows of both, "
            "for chance to be 0.5"
        )
    if isinstance(num_folds, bool) or num_folds != int(num_folds) or not 2 <= num_folds <= len(x):
        raise ValueError(f"num_folds must be a whole number from 2 to the {len(x)} rows of x, got {num_folds!r}")
    try:
        from sklearn.model_selection import KFold, cross_val_score
        from sklearn.neural_network import MLPClassifier
    except ImportError as error:
        raise ImportError("evaluation.c2st needs scikit-learn: pip install 'ppl_gen[sklearn]'") from error
    if z_score:
        loc, scale = x.mean(axis=0), x.std(axis=0, ddof=1)
        scale[scale == 0.0] = 1.0  # a constant column stays as it is
        x, y = (x - loc) / scale, (y - loc) / scale
    width = 10 * x.shape[1]
    classifier = MLPClassifier((width, width), max_iter=10_000, random_state=seed)
    folds = KFold(int(num_folds), shuffle=True, random_state=seed)
    labels = np.repeat([0, 1], len(x))
    return float(cross_val_score(classifier, np.concatenate([x, y]), labels, cv=folds).mean())

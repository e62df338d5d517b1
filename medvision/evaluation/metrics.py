"""Every metric as a function of probabilities and true classes.

`probs` is (N, K) float64, rows sum to 1; `targets` is (N,) int64 in [0, K); N is at least 1 and K at least 2. The
predicted class is the most probable one, the first of equals. Metrics per class are (K,), one class against the rest,
and their macro mean is `macro(metric(probs, targets))`. Whatever is undefined is NaN, never 0.
"""

import numpy as np
from numpy.typing import NDArray

from medvision.evaluation import confusion, probabilities
from medvision.evaluation.confusion import Tally, macro
from medvision.evaluation.ranking import Ranking

__all__ = [
    "accuracy",
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "brier",
    "calibration_intercept",
    "calibration_slope",
    "expected_calibration_error",
    "f1",
    "kappa",
    "kappa_quadratic",
    "log_loss",
    "macro",
    "mcc",
    "npv",
    "precision",
    "recall",
    "specificity",
    "top_k_accuracy",
]

Probs = NDArray[np.float64]
Targets = NDArray[np.int64]


def accuracy(probs: Probs, targets: Targets) -> float:
    """Fraction of samples whose class was predicted, in [0, 1].

    >>> accuracy(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]), np.array([0, 1, 1, 1]))
    0.75
    """
    return float(confusion.accuracy(_tally(probs, targets)))


def balanced_accuracy(probs: Probs, targets: Targets) -> float:
    """Mean recall over the classes that have samples, in [0, 1]; chance is 1 / K.

    >>> round(balanced_accuracy(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]), np.array([0, 1, 1, 1])), 4)
    0.8333
    """
    return float(confusion.balanced_accuracy(_tally(probs, targets)))


def recall(probs: Probs, targets: Targets) -> NDArray[np.float64]:
    """Fraction of each class's samples that were found (sensitivity); NaN for a class without samples.

    >>> recall(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]), np.array([0, 1, 1, 1])).round(4).tolist()
    [1.0, 0.6667]
    """
    return confusion.recall(_tally(probs, targets))


def specificity(probs: Probs, targets: Targets) -> NDArray[np.float64]:
    """Fraction of the other classes' samples that were not taken for this one; NaN where there are no others.

    >>> specificity(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), np.array([0, 1, 1])).tolist()
    [0.5, 1.0]
    """
    return confusion.specificity(_tally(probs, targets))


def precision(probs: Probs, targets: Targets) -> NDArray[np.float64]:
    """Fraction of each class's predictions that were right (PPV); NaN for a class that was never predicted.

    >>> precision(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), np.array([0, 1, 1])).tolist()
    [0.5, 1.0]
    """
    return confusion.precision(_tally(probs, targets))


def npv(probs: Probs, targets: Targets) -> NDArray[np.float64]:
    """Fraction of the predictions of other classes that were not of this one; NaN where all predictions are of it.

    >>> npv(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), np.array([0, 1, 1])).tolist()
    [1.0, 0.5]
    """
    return confusion.npv(_tally(probs, targets))


def f1(probs: Probs, targets: Targets) -> NDArray[np.float64]:
    """Harmonic mean of precision and recall; NaN for a class without samples, 0 where none of them was found.

    >>> f1(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), np.array([0, 1, 1])).round(4).tolist()
    [0.6667, 0.6667]
    """
    return confusion.f1(_tally(probs, targets))


def mcc(probs: Probs, targets: Targets) -> float:
    """Matthews correlation of predicted and true classes, in [-1, 1]; NaN where one of the two is constant.

    >>> round(mcc(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]), np.array([0, 1, 1, 1])), 4)
    0.5774

    Source: Gorodkin 2004, doi:10.1016/j.compbiolchem.2004.09.006.
    """
    return float(confusion.mcc(_tally(probs, targets)))


def kappa(probs: Probs, targets: Targets) -> float:
    """Cohen's kappa, agreement beyond chance, in [-1, 1]; NaN where truth and prediction are one and the same class.

    >>> kappa(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]), np.array([0, 1, 1, 1]))
    0.5

    Source: Cohen 1960, doi:10.1177/001316446002000104.
    """
    return float(confusion.kappa(_tally(probs, targets)))


def kappa_quadratic(probs: Probs, targets: Targets) -> float:
    """Cohen's kappa with quadratic weights, in [-1, 1]; it means something where the order of the classes does.

    >>> round(kappa_quadratic(np.eye(3)[[0, 1, 2, 1]], np.array([0, 1, 2, 2])), 4)
    0.8

    Source: Cohen 1968, doi:10.1037/h0026256.
    """
    return float(confusion.kappa_quadratic(_tally(probs, targets)))


def auroc(probs: Probs, targets: Targets) -> NDArray[np.float64]:
    """Chance that a sample of the class has a higher probability for it than one of another, ties counting half.

    NaN where every sample or none is of the class.

    >>> auroc(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]]), np.array([0, 1, 1, 0])).tolist()
    [1.0, 1.0]
    """
    rankings = (Ranking.of(probs[:, c], targets == c) for c in range(probs.shape[1]))
    return np.concatenate([ranking.auroc(_once(targets)) for ranking in rankings])


def average_precision(probs: Probs, targets: Targets) -> NDArray[np.float64]:
    """Mean, over the samples of a class, of the precision at the score of each; chance is the class's share.

    NaN where every sample or none is of the class.

    >>> probs = np.array([0.1, 0.8, 0.4, 0.3])
    >>> average_precision(np.stack([1 - probs, probs], axis=1), np.array([0, 1, 0, 1])).round(4).tolist()
    [0.8333, 0.8333]

    Source: Zhu 2004, "Recall, precision and average precision".
    """
    rankings = (Ranking.of(probs[:, c], targets == c) for c in range(probs.shape[1]))
    return np.concatenate([ranking.average_precision(_once(targets)) for ranking in rankings])


def log_loss(probs: Probs, targets: Targets) -> float:
    """Mean of minus the natural logarithm of the true class's probability, in [0, 36.04].

    >>> round(log_loss(np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 1])), 4)
    0.4904
    """
    return float(probabilities.log_losses(probs, targets).mean())


def brier(probs: Probs, targets: Targets) -> float:
    """Mean squared distance of probabilities and truth: in [0, 1] for two classes, where it is halved, else [0, 2].

    >>> brier(np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([0, 1]))
    0.125

    Source: Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
    """
    return float(probabilities.brier_scores(probs, targets).mean())


def expected_calibration_error(probs: Probs, targets: Targets, n_bins: int = probabilities.N_BINS) -> float:
    """Mean gap between confidence and accuracy over bins of equal width, in [0, 1].

    It is never below 0 and so too large on average, the more so the fewer the samples.

    >>> round(expected_calibration_error(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1])), 4)
    0.15

    Source: Guo et al. 2017, arXiv:1706.04599, eq. 3.
    """
    return probabilities.Confidences.of(probs, targets, n_bins).error()


def calibration_slope(probs: Probs, targets: Targets) -> float:
    """Slope of the logistic regression of an event on the logit of its stated probability; 1 is right.

    Below 1 the probabilities are too extreme. The event is class 1 where there are two classes; where there are more
    it is that the prediction is right, and its probability is that of the predicted class. NaN where the fit has no
    maximum: one outcome alone, equal probabilities, or outcomes that the probabilities separate.

    >>> probs = np.array([0.2] * 5 + [0.8] * 5)
    >>> round(calibration_slope(np.stack([1 - probs, probs], axis=1), np.array([0, 0, 0, 0, 1, 0, 1, 1, 1, 1])), 6)
    1.0

    Source: Cox 1958, doi:10.1093/biomet/45.3-4.562; Van Calster et al. 2016, doi:10.1016/j.jclinepi.2015.12.005.
    """
    return probabilities.Recalibration.of(probs, targets).slope


def calibration_intercept(probs: Probs, targets: Targets) -> float:
    """Intercept of the same regression with its slope held at 1 ("calibration in the large"); 0 is right.

    Below 0 the probabilities are too high. NaN where only one outcome occurs.

    >>> probs = np.array([0.2] * 5 + [0.8] * 5)
    >>> probs = np.stack([1 - probs, probs], axis=1)
    >>> round(calibration_intercept(probs, np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])), 4)
    0.6239

    Source: Van Calster et al. 2016, doi:10.1016/j.jclinepi.2015.12.005.
    """
    return probabilities.Recalibration.of(probs, targets).intercept


def top_k_accuracy(probs: Probs, targets: Targets, k: int) -> float:
    """Fraction of samples whose class is among the k most probable, of equal ones the first, in [0, 1].

    >>> top_k_accuracy(np.array([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]]), np.array([1, 2]), k=2)
    0.5
    """
    return float((probabilities.true_class_ranks(probs, targets) < k).mean())


def _tally(probs: Probs, targets: Targets) -> Tally:
    return Tally.of(probs.argmax(axis=1), targets, probs.shape[1])


def _once(targets: Targets) -> NDArray[np.uint8]:
    return np.ones((1, len(targets)), dtype=np.uint8)

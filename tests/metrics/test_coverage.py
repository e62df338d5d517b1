"""How often intervals hold the truth, over 10,000 test sets each whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from medvision.metrics.evaluate import evaluate
from medvision.metrics.intervals import delong, wilson
from medvision.metrics.predictions import Predictions

DRAWS = 10_000


def covered(intervals, truth):
    low, high = np.array(intervals).T
    return np.mean((low <= truth) & (truth <= high))


@pytest.mark.slow
@pytest.mark.parametrize("n", [200, 1000])
def test_accuracy_sensitivity_and_specificity_are_covered(n):
    """A patient is ill with a chance of 0.4; 0.85 of the ill and 0.75 of the well are recognised."""
    rng = np.random.default_rng(n)
    ill = rng.binomial(n, 0.4, DRAWS)
    found, spared = rng.binomial(ill, 0.85), rng.binomial(n - ill, 0.75)

    for successes, trials, truth in (
        (found + spared, np.full(DRAWS, n), 0.4 * 0.85 + 0.6 * 0.75),
        (found, ill, 0.85),
        (spared, n - ill, 0.75),
    ):
        pairs = zip(successes.tolist(), trials.tolist(), strict=True)
        assert 0.94 <= covered([wilson(*pair, 0.95) for pair in pairs], truth) <= 0.96


@pytest.mark.slow
@pytest.mark.parametrize(("ill", "well"), [(100, 100), (300, 700)])
@pytest.mark.parametrize("auroc", [0.7, 0.85, 0.95, 0.97])
def test_auroc_is_covered(ill, well, auroc):
    rng = np.random.default_rng(ill)
    positive = np.arange(ill + well) < ill
    shift = np.sqrt(2) * stats.norm.ppf(auroc) * positive

    intervals = [delong(rng.normal(size=ill + well) + shift, positive, 0.95) for _ in range(DRAWS)]

    assert 0.94 <= covered(intervals, auroc) <= 0.96


PRIORS, SPREAD = np.array([0.5, 0.3, 0.2]), 1.5


def draw(rng, patients, images):
    """A noisy classifier, too timid; half of what is seen belongs to the patient and is in each of their images."""
    targets = np.repeat(rng.choice(len(PRIORS), size=patients, p=PRIORS), images)
    logits = rng.normal(size=(len(targets), len(PRIORS)))
    if images > 1:
        logits = (logits + np.repeat(rng.normal(size=(patients, len(PRIORS))), images, axis=0)) / np.sqrt(2)
    logits[np.arange(len(targets)), targets] += SPREAD
    return Predictions.from_logits(
        ids=np.arange(len(targets)),
        groups=np.repeat(np.arange(patients), images),
        targets=targets,
        logits=logits,
        class_names=["a", "b", "c"],
    )


@pytest.mark.slow
@pytest.mark.parametrize(("patients", "images"), [(200, 1), (150, 4)])
def test_every_interval_holds_the_truth_about_as_often_as_it_says(patients, images):
    rng, draws = np.random.default_rng(0), 600
    truth = {name: estimate.value for name, estimate in evaluate(draw(rng, 400_000, 1), n_resamples=2).items()}
    hits = dict.fromkeys(truth, 0)

    for _ in range(draws):
        estimates = evaluate(draw(rng, patients, images), n_resamples=200)
        for name, value in truth.items():
            hits[name] += estimates[name].low <= value <= estimates[name].high

    for name, count in hits.items():
        # 95 % plus or minus what 600 draws can tell; that of the calibration error is wider on purpose.
        assert 0.915 <= count / draws <= (1 if name == "ece" else 0.985), (name, count / draws)

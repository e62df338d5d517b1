import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from medvision.metrics import bootstrap as resampling
from medvision.metrics.bootstrap import Resampling, bootstrap, of_cells
from medvision.metrics.confusion import LabelCounts
from medvision.metrics.definitions import METRICS
from medvision.metrics.probabilities import Probabilities
from medvision.metrics.ranks import Ranks
from medvision.randomness import generator


def label_counts(predictions, slots):
    return LabelCounts(predictions.preds, predictions.targets, slots, len(predictions.class_names))


def scores(*names, **statistics):
    """A function of counts to each named metric, from the statistics it is made of."""
    return lambda counts: {
        name: np.asarray(METRICS[name].function(statistics[METRICS[name].statistic](counts))) for name in names
    }


def test_independent_samples_are_drawn_alone(make_predictions):
    units = Resampling.of(make_predictions(60))

    counts = units.draw(np.random.default_rng(0), 4_000)

    assert not units.grouped
    assert (counts.sum(axis=1) == 60).all()
    # Counts are multinomial: mean 1, variance 1 - 1/60, covariance -1/60.
    np.testing.assert_allclose(np.cov(counts.T), np.eye(60) - 1 / 60, atol=0.12)


def test_groups_are_drawn_whole_and_samples_without_a_group_alone(make_predictions):
    groups = np.array(["p1", "p1", "", "p2", "p2", "p2", "", "p3"])
    predictions = make_predictions(groups=groups, targets=[0, 1, 0, 1, 0, 1, 0, 1], k=2)

    units = Resampling.of(predictions)
    counts = units.draw(np.random.default_rng(0), 4_000)

    assert units.grouped
    assert units.slots[0] == units.slots[1]
    assert len(set(units.slots[3:6])) == 1
    assert len(set(units.slots[[0, 2, 3, 6, 7]])) == units.units == 5
    assert (counts.sum(axis=1) == 5).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.06)


def test_groups_of_one_are_independent_samples(make_predictions):
    assert not Resampling.of(make_predictions(groups=np.arange(200))).grouped


@pytest.mark.parametrize("groups", [None, np.arange(120) // 4])
def test_the_bootstrap_is_scikit_learn_on_the_same_resampled_indices(make_predictions, groups):
    predictions = make_predictions(120, 3, decimals=1, groups=groups)
    units = Resampling.of(predictions)
    targets, preds, probs = predictions.targets, predictions.preds, predictions.probs
    found = bootstrap(
        scores(
            *("accuracy", "mcc", "kappa_quadratic", "macro_f1", "macro_auroc"),
            *("average_precision", "log_loss", "brier", "top_2"),
            labels=label_counts(predictions, units.slots),
            ranks=Ranks(probs, targets, units.slots),
            probabilities=Probabilities(probs, targets, units.slots),
        ),
        units.draw,
        units.units,
        30,
        generator("bootstrap", 5),
    )

    for row, counts in enumerate(units.draw(generator("bootstrap", 5), 30)):
        rows = np.repeat(np.arange(120), counts[units.slots])
        expected = {
            "accuracy": sk.accuracy_score(targets[rows], preds[rows]),
            "mcc": sk.matthews_corrcoef(targets[rows], preds[rows]),
            "kappa_quadratic": sk.cohen_kappa_score(targets[rows], preds[rows], weights="quadratic"),
            "macro_f1": sk.f1_score(targets[rows], preds[rows], average="macro"),
            "macro_auroc": np.mean([sk.roc_auc_score(targets[rows] == c, probs[rows, c]) for c in range(3)]),
            "average_precision": [sk.average_precision_score(targets[rows] == c, probs[rows, c]) for c in range(3)],
            "log_loss": sk.log_loss(targets[rows], probs[rows]),
            "brier": sk.brier_score_loss(targets[rows], probs[rows]),
            "top_2": sk.top_k_accuracy_score(targets[rows], probs[rows] + [0, -1e-13, -2e-13], k=2),
        }
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][row], value, rtol=0, atol=1e-12, err_msg=name)


def test_the_bootstrap_does_not_depend_on_how_much_fits_in_memory(make_predictions, monkeypatch):
    predictions = make_predictions(50)
    units = Resampling.of(predictions)
    some = scores("log_loss", "ece", probabilities=Probabilities(predictions.probs, predictions.targets))
    at_once = bootstrap(some, units.draw, 50, 40, generator("bootstrap", 0))

    monkeypatch.setattr(resampling, "_CHUNK", 150)

    for name, values in bootstrap(some, units.draw, 50, 40, generator("bootstrap", 0)).items():
        np.testing.assert_allclose(values, at_once[name], rtol=1e-12)


def test_units_beyond_one_block_are_drawn_alike(make_predictions, monkeypatch):
    monkeypatch.setattr(resampling, "_BLOCK", 16)

    counts = Resampling.of(make_predictions(60)).draw(np.random.default_rng(0), 4_000)

    assert (counts.sum(axis=1) == 60).all()
    np.testing.assert_allclose(np.cov(counts.T), np.eye(60) - 1 / 60, atol=0.12)


def test_drawing_cells_of_the_confusion_matrix_is_drawing_samples(make_predictions):
    predictions = make_predictions(90, 3)
    cells, sizes = np.unique(predictions.targets * 3 + predictions.preds, return_counts=True)
    names = ("accuracy", "macro_f1", "kappa_quadratic", "mcc", "macro_ppv")
    of_labels = scores(*names, labels=LabelCounts(cells % 3, cells // 3, np.arange(len(cells)), 3))

    drawn = bootstrap(of_labels, of_cells(sizes), len(cells), 4_000, np.random.default_rng(0))

    samples = scores(*names, labels=label_counts(predictions, np.arange(90)))
    expected = bootstrap(samples, Resampling.of(predictions).draw, 90, 4_000, np.random.default_rng(1))
    for name in names:
        assert stats.ks_2samp(drawn[name], expected[name]).statistic < 0.05, name
        assert drawn[name].std() == pytest.approx(expected[name].std(), rel=0.07)


def test_the_bootstraps_standard_error_is_scipys(make_predictions):
    predictions = make_predictions(120, 3)
    right = predictions.preds == predictions.targets

    accuracy = scores("accuracy", labels=label_counts(predictions, np.arange(120)))
    found = bootstrap(accuracy, Resampling.of(predictions).draw, 120, 4_000, generator("bootstrap", 0))["accuracy"]

    expected = stats.bootstrap((right,), np.mean, n_resamples=4_000, rng=np.random.default_rng(0)).standard_error
    assert found.std(ddof=1) == pytest.approx(expected, rel=0.05)


def test_the_spread_of_the_calibration_is_that_of_fits_to_the_resamples(make_predictions):
    predictions = make_predictions(500, 3, groups=np.arange(500) // 2)
    units = Resampling.of(predictions)
    names = ("calibration_slope", "calibration_intercept")
    calibration = scores(*names, probabilities=Probabilities(predictions.probs, predictions.targets, units.slots))

    found = bootstrap(calibration, units.draw, units.units, 2_000, generator("bootstrap", 0))

    fits = []
    for counts in units.draw(np.random.default_rng(0), 400):
        rows = np.repeat(np.arange(500), counts[units.slots])
        again = Probabilities(predictions.probs[rows], predictions.targets[rows]).recalibration
        fits.append((again.slope, again.intercept))
    spread = found["calibration_slope"].std(), found["calibration_intercept"].std()
    assert spread == pytest.approx(np.std(fits, axis=0), rel=0.15)

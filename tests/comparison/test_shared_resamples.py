import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, roc_auc_score

from medvision.comparison.shared_resamples import Scores, score_all
from medvision.metrics.bootstrap import Resampling
from medvision.metrics.definitions import METRICS, compared
from medvision.randomness import generator


@pytest.mark.parametrize(("k", "decimals"), [(2, None), (4, None), (4, 0)])
def test_values_are_those_of_scikit_learn(make_predictions, k, decimals):
    one = make_predictions(k=k, decimals=decimals)
    values = dict(zip(compared(), Scores(one, np.arange(200))(np.ones((1, 200), np.uint8))[0], strict=True))
    assert values == pytest.approx(
        {
            "accuracy": (one.preds == one.targets).mean(),
            "balanced_accuracy": balanced_accuracy_score(one.targets, one.preds),
            "macro_auroc": np.mean([roc_auc_score(one.targets == c, one.probs[:, c]) for c in range(k)]),
            "macro_f1": f1_score(one.targets, one.preds, average="macro"),
            "log_loss": log_loss(one.targets, one.probs),
        }
    )


@pytest.mark.parametrize("grouped", [False, True])
def test_all_models_see_the_same_resamples(make_predictions, grouped):
    groups = np.arange(90) // 4 if grouped else None
    models = [make_predictions(seed=3, targets=np.arange(90) % 3, spread=one, groups=groups) for one in (1.0, 2.0)]
    resampling = Resampling.of(models[0])
    values, resampled = score_all(models, resampling, 20, seed=4)
    assert values.shape == (2, 5)
    assert resampled.shape == (2, 20, 5)
    counts = resampling.draw(generator("bootstrap", 4), 20)
    for model, ours in zip(models, resampled, strict=True):
        for row, drawn in enumerate(counts):
            rows = np.repeat(np.arange(90), drawn[resampling.slots])
            probs, targets = model.probs[rows], model.targets[rows]
            expected = [float(METRICS[name](probs, targets)) for name in compared()]
            np.testing.assert_allclose(ours[row], expected)


def test_resamples_without_a_class_leave_it_out(make_predictions):
    one = make_predictions(targets=[0, 0, 1, 1, 2])
    counts = np.array([[1, 1, 1, 1, 0], [2, 3, 0, 0, 0]], np.uint8)
    values = dict(zip(compared(), Scores(one, np.arange(5))(counts).T, strict=True))
    kept = one.take(np.arange(4))
    assert values["macro_auroc"][0] == pytest.approx(
        np.mean([roc_auc_score(kept.targets == c, kept.probs[:, c]) for c in (0, 1)])
    )
    assert np.isnan(values["macro_auroc"][1])

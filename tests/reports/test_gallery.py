import numpy as np
import pytest

from medvision.metrics.predictions import Predictions
from medvision.reports.gallery import choose


def test_errors_are_the_wrong_ones_with_the_highest_probability(make_predictions):
    predictions = make_predictions(300, 3)
    confidence, right = predictions.probs.max(axis=1), predictions.preds == predictions.targets
    rows = choose(predictions, 5)["errors"]
    assert not right[rows].any()
    assert sorted(confidence[rows])[::-1] == sorted(confidence[~right])[::-1][:5]
    assert list(confidence[rows]) == sorted(confidence[rows], reverse=True)


def test_uncertain_ones_have_the_smallest_margin(make_predictions):
    predictions = make_predictions(300, 3)
    chosen = choose(predictions, 5)
    ordered = np.sort(predictions.probs, axis=1)
    margins = ordered[:, -1] - ordered[:, -2]
    others = np.delete(margins, chosen["errors"])
    assert sorted(margins[chosen["uncertain"]]) == sorted(others)[:5]


@pytest.mark.parametrize(("k", "per_section", "expected"), [(3, 6, 6), (5, 2, 5), (20, 4, 4), (3, 0, 0)])
def test_typical_ones_are_right_and_of_each_class_in_turn(make_predictions, k, per_section, expected):
    predictions = make_predictions(400, k, spread=3)
    rows = choose(predictions, per_section)["typical"]
    assert len(rows) == expected
    assert (predictions.preds[rows] == predictions.targets[rows]).all()
    counts = np.bincount(predictions.targets[rows], minlength=k)
    assert counts.max() - counts[: min(k, expected)].min(initial=counts.max()) <= 1


def test_no_case_is_shown_twice_and_the_choice_is_always_the_same(make_predictions):
    predictions = make_predictions(60, 3, decimals=0)  # many equal cases
    chosen, again = choose(predictions, 8), choose(predictions, 8)
    rows = np.concatenate(list(chosen.values()))
    assert len(rows) == len(set(rows.tolist()))
    assert all(np.array_equal(chosen[section], again[section]) for section in chosen)


def test_sections_may_be_empty():
    perfect = Predictions.from_logits(ids=["a", "b"], targets=[0, 1], logits=[[9, 0], [0, 9]], class_names=["x", "y"])
    chosen = choose(perfect, 1)
    assert len(chosen["errors"]) == 0
    assert chosen["uncertain"].tolist() == [0]
    assert chosen["typical"].tolist() == [1]

import numpy as np
import pytest

from medvision.comparison.compare import Comparison, Pair, Row
from medvision.comparison.differences import Difference
from medvision.metrics.estimates import Estimate
from medvision.reports.comparison_text import caveats, cost, headline, method, scaled, sentence, sentences, value_text


def row(name, value, seeds=1, folds=1):
    return Row(name, seeds, folds, False, {"accuracy": Estimate(value, 0.1, 0.9, 394)}, {}, {}, {}, ())


def comparison(pairs, rows=None, grouped=False, n=394, metric="accuracy"):
    return Comparison(
        ("x", "y"),
        n,
        100 if grouped else n,
        grouped,
        tuple(rows or [row("A", 0.8), row("B", 0.7)]),
        tuple(Pair(a, b, {metric: one}, False) for a, b, one in pairs),
        0.95,
        1000,
    )


def difference(value, low, high, p=0.5, distinguishable=False):
    return Difference(value, low, high, p, "McNemar", p, distinguishable)


def told(one, metric="accuracy", **more):
    found = comparison([("A", "B", one)], metric=metric, **more)
    return sentence(found, found.pairs[0], metric)


def test_a_clear_difference_names_the_better_first():
    assert told(difference(0.012, 0.004, 0.020, 0.003, True)) == "A is better than B by 1.2 points (0.4 to 2.0)."
    assert told(difference(-0.012, -0.020, -0.004, 0.003, True)) == "B is better than A by 1.2 points (0.4 to 2.0)."


def test_the_lower_loss_is_the_better():
    one = difference(0.12, 0.05, 0.19, 0.001, True)
    assert told(one, metric="log_loss") == "B is better than A by 0.12 (0.05 to 0.19)."


def test_no_difference_is_said_with_its_size():
    assert told(difference(-0.003, -0.015, 0.009)) == (
        "B and A are not distinguishable at n = 394 (difference 0.3 points, -0.9 to 1.5)."
    )


def test_an_interval_without_zero_that_holm_does_not_let_pass_says_why():
    found = comparison([("A", "B", difference(0.01, 0.001, 0.019, 0.04))] * 3)
    assert "not distinguishable, with all 3 pairs in mind, at n = 394" in sentence(found, found.pairs[0], "accuracy")


def test_identical_and_undefined():
    found = comparison([("A", "B", difference(0.0, -0.01, 0.01, 1.0))])
    same = Pair("A", "B", found.pairs[0].differences, True)
    assert sentence(found, same, "accuracy") == "A and B give the same predictions for all 394 cases."
    assert "cannot be compared: AUROC is undefined" in told(
        Difference(None, None, None, None, "undefined"), metric="macro_auroc"
    )


def test_what_can_be_told_apart_comes_first():
    found = comparison(
        [("A", "B", difference(0.0, -0.1, 0.1)), ("A", "C", difference(0.2, 0.1, 0.3, 0.001, distinguishable=True))]
    )
    assert [pair.second for pair, _ in sentences(found, "accuracy")] == ["C", "B"]


@pytest.mark.parametrize(
    ("clear", "said"),
    [
        ((True, True), "A is better than the other 2: 80.0 % accuracy"),
        ((False, True), "A leads with 80.0 % accuracy, but is not distinguishable from B"),
        ((False, False), "A leads with 80.0 % accuracy, but is not distinguishable from the others"),
    ],
)
def test_the_headline_tells_the_best_and_its_equals(clear, said):
    pairs = [
        (first, second, difference(value, value - 0.05, value + 0.05, 0.5, one))
        for (first, second, value), one in zip([("A", "B", 0.1), ("C", "A", -0.2)], clear, strict=True)
    ]
    rows = [row("A", 0.8), row("B", 0.7), row("C", 0.6)]
    found = comparison([*pairs, ("B", "C", difference(0.1, 0, 0.2))], rows)
    assert headline(found, "accuracy") == said
    two = comparison([("A", "B", difference(0.1, 0.05, 0.15, 0.01, True))])
    assert headline(two, "accuracy") == "A is better than B: 80.0 % accuracy"
    unclear = comparison([("A", "B", difference(0.1, -0.05, 0.25))])
    assert headline(unclear, "accuracy") == "A leads with 80.0 % accuracy, but is not distinguishable from B"
    assert headline(comparison([], [row("A", 0.8)]), "accuracy") == "A: 80.0 % accuracy"
    assert "undefined" in headline(comparison([], [row("A", None)]), "accuracy")


def test_caveats_name_what_weakens_the_answer():
    few = list(caveats(comparison([], [row("A", 0.8, seeds=3), row("B", 0.7, seeds=5)])))
    assert any("Fewer than 5 seeds (A 3)" in one for one in few)
    enough = list(caveats(comparison([], [row("A", 0.8, seeds=5)], n=500)))
    assert not any("Fewer" in one for one in enough)
    assert any("McNemar" in one for one in caveats(comparison([], grouped=True)))
    assert any("overlap" in one for one in caveats(comparison([], [row("A", 0.8, folds=5)])))
    assert any("30 cases are few" in one for one in caveats(comparison([], n=30)))
    assert "groups" in " ".join(method(comparison([], grouped=True)))


def test_costs_have_fitting_units():
    known = {
        ("seconds_fit", 0.98): "0.98 s",
        ("seconds_fit", 14.02): "14.0 s",
        ("seconds_fit", 90.0): "90.0 s",
        ("seconds_fit", 1290.0): "21.5 min",
        ("seconds_fit", 10_000.0): "2.8 h",
        ("seconds_predict_per_image", 0.0017): "1.70 ms",
        ("seconds_predict_per_image", 2e-6): "2.0 µs",
        ("size_bytes", 312.0): "312 B",
        ("peak_memory_bytes", 2.5e9): "2.5 GB",
        ("parameters", 504_122.0): "504,122",
        ("parameters", None): "unknown",
    }
    assert {key: cost(*key) for key in known} == known


def test_numbers_have_as_many_decimals_as_their_interval_deserves():
    assert scaled("accuracy", [0.0412, 0.01, 0.07]) == ["4.1", "1.0", "7.0"]
    assert scaled("accuracy", [0.0012, 0.0004, 0.0020]) == ["0.12", "0.04", "0.20"]
    assert scaled("accuracy", [-0.00001, -0.05, 0.05])[0] == "0.0"
    assert scaled("log_loss", np.array([0.5, 0.1, 0.9]).tolist()) == ["0.50", "0.10", "0.90"]


def test_not_quite_all_does_not_look_like_all():
    assert [value_text("macro_auroc", value) for value in (1.0, 0.9998, 0.968, None)] == [
        "100.0",
        "99.98",
        "96.8",
        "undefined",
    ]
    assert value_text("log_loss", 0.0371) == "0.037"

import pytest

from medvision.evaluation.caution import why_care


@pytest.mark.parametrize(
    ("name", "value", "units", "wrong", "groups", "found"),
    [
        ("accuracy", 0.9, 200, 20, None, None),
        ("accuracy", 0.9, 9, 1, None, "rests on fewer than 10 cases"),
        ("recall/a", 0.9, 9, 30, 60, "rests on fewer than 10 groups"),
        ("recall/auroc", 0.9, 10, 30, None, None),
        ("mcc", 0.9, 200, 20, 49, "fewer than 50 groups"),
        ("macro/auroc", 1.0, 500, 20, None, "a perfect ranking says little about how rare errors are"),
        ("auroc/a", 0.9, 19, 20, None, "fewer than 20 cases on the smaller side"),
        ("average_precision/a", 0.99, 150, 20, None, "close to 1 for only 150 cases on the smaller side"),
        ("auroc/a", 0.98, 150, 20, None, None),
        ("ece", 0.1, 500, 9, None, "fewer than 10 cases with a wrong prediction"),
        ("log_loss", 0.1, 500, 10, None, None),
    ],
)
def test_the_first_thing_that_speaks_for_care_is_said(name, value, units, wrong, groups, found):
    assert why_care(name, value, units, wrong, groups) == found

from dataclasses import replace

import numpy as np
import pytest

from medvision.errors import ModelError
from medvision.inference.decision import Decision
from medvision.inference.triage import decide, unreadable
from medvision.metrics.operating_point import OperatingPoint
from medvision.tasks import Task

TASK = Task.classes(("no tumour", "glioma", "ménière"))


def one(probs, min_confidence=0.8, out_of_range=None, **decision):
    (found,) = decide(TASK, np.array([probs]), Decision(**decision), min_confidence, out_of_range)
    return found


def test_a_sure_label_stands():
    found = one([0.05, 0.9, 0.05])
    assert (found.status, found.reason, found.label, found.confidence) == ("auto", "", "glioma", 0.9)
    assert found.probs == (0.05, 0.9, 0.05)
    assert found.classes is None


def test_low_confidence_is_for_review():
    found = one([0.2, 0.7, 0.1])
    assert (found.status, found.reason) == ("review", "low confidence 0.70, below 0.8")
    assert one([0.2, 0.7, 0.1], min_confidence=0.7).status == "auto"


@pytest.mark.parametrize(
    ("quantile", "classes", "reason"),
    [
        (0.2, ("glioma",), ""),
        (0.9, ("glioma", "no tumour"), "2 classes in the prediction set"),
        (0.01, (), "the prediction set is empty"),
    ],
)
def test_the_prediction_set_decides(quantile, classes, reason):
    found = one([0.12, 0.85, 0.03], conformal={"coverage": 0.9, "quantile": quantile})
    assert (found.classes, found.reason) == (classes, reason)
    assert found.status == ("review" if reason else "auto")


def test_a_label_that_the_operating_point_contradicts_is_for_a_human():
    point = OperatingPoint(("glioma", "ménière"), 0.2, "youden")
    found = one([0.75, 0.15, 0.1], operating_point=point, min_confidence=0)
    assert (found.label, found.status) == ("no tumour", "review")
    assert found.reason == "glioma or ménière 0.25 is above the threshold 0.20"
    found = one([0.45, 0.5, 0.05], operating_point=replace(point, threshold=0.6), min_confidence=0)
    assert (found.label, found.status) == ("glioma", "review")
    assert found.reason == "glioma or ménière 0.55 is below the threshold 0.60"
    assert one([0.85, 0.05, 0.1], operating_point=point, min_confidence=0).status == "auto"


def test_out_of_range_is_rejected_whatever_the_confidence():
    found = one([0, 1, 0], out_of_range=[("brightness 201 (training images: 12 to 95)", "border 9")])
    assert found.status == "rejected"
    assert found.reason == "out of range: brightness 201 (training images: 12 to 95), border 9"
    assert found.label == "glioma"


def test_an_unreadable_file_has_no_label():
    found = unreadable("file is empty")
    assert (found.status, found.reason, found.label, found.probs) == (
        "rejected",
        "unreadable: file is empty",
        None,
        None,
    )


def test_nothing_is_rounded_before_it_is_decided():
    """The report's threshold and quantile are those of triage, to the last bit."""
    just_below = np.nextafter(0.3, 0)
    point = OperatingPoint(("glioma",), 0.3, "youden")
    assert one([0.7, 0.3, 0.0], 0, operating_point=point).status == "review"
    assert one([1 - just_below, just_below, 0.0], 0, operating_point=point).status == "auto"
    quantile = 1 - 0.3
    conformal = {"coverage": 0.9, "quantile": quantile}
    assert one([0.7, 0.3, 0.0], 0, conformal=conformal).classes == ("no tumour", "glioma")
    assert one([0.7, np.nextafter(0.3, 0) - 1e-16, 0.0], 0, conformal=conformal).classes == ("no tumour",)


def test_probabilities_that_are_no_number_decide_nothing():
    with pytest.raises(ModelError, match="not a number"):
        one([np.nan, 0.5, 0.5])

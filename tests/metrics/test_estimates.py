import json

import numpy as np
import pytest

from medvision.errors import DataError
from medvision.metrics.estimates import Estimate, Key, from_json, placed, to_json
from medvision.metrics.evaluate import evaluate


def test_json_has_numbers_and_a_reason_only_where_there_is_one(make_predictions):
    estimates = evaluate(make_predictions(10, 2, targets=np.zeros(10, int)), n_resamples=3)

    content = json.loads(json.dumps(to_json(placed(estimates, split="test")), allow_nan=False))["test"]

    assert set(content["overall"]["log_loss"]) == {"value", "low", "high", "n", "caution"}
    assert set(content["overall"]["accuracy"]) == {"value", "low", "high", "n"}
    assert content["classes"]["class 0"]["auroc"] == {
        **{"value": None, "low": None, "high": None},
        **{"n": 10, "reason": "every sample is of this class"},
    }


def test_json_and_back(make_predictions):
    plain = placed(evaluate(make_predictions(60, 3), n_resamples=3), split="test")
    nested = {
        Key("accuracy", None, "subgroups", ("a/b", "c.d"), "test"): Estimate(0.5, 0.4, 0.6, 9),
        Key("accuracy", None, "negative_controls", ("border_only",), "test"): Estimate(0.5, 0.4, 0.6, 9),
        Key("sensitivity", "overall", "never_seen", (), "test"): Estimate(0.5, 0.4, 0.6, 9, "why", "care"),
        Key("sensitivity", "classes", None, (), "external"): Estimate(None, None, None, 0, "none"),
    }

    assert from_json(json.loads(json.dumps(to_json(plain | nested)))) == plain | nested


@pytest.mark.parametrize(
    "content", [[], {"test": 1}, {"test": {"overall": {"accuracy": 0.9}}}, {"test": {"classes": []}}]
)
def test_json_of_another_layout_is_refused(content):
    with pytest.raises(DataError, match="another layout"):
        from_json(content)

import json

import pytest

from medvision.config.compose import parsed
from medvision.errors import ConfigError
from medvision.search.space import Dimension, corners, override, read

LR = {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}


def test_nested_and_dotted_keys_are_the_same():
    assert read({"optimizer": {"lr": LR}}) == read({"optimizer.lr": LR})
    assert read({"optimizer": {"lr": LR}}) == (Dimension("optimizer.lr", "float", 1e-4, 1e-1, True),)


@pytest.mark.parametrize(
    ("node", "told"),
    [
        ({}, "empty"),
        ({"optimizer": {"lr": 0.1}}, "search.optimizer.lr=0.1: expected type"),
        ({"a": {"type": "real", "low": 0, "high": 1}}, "type=real: expected float, int, categorical"),
        ({"a": {"type": "float", "low": 0}}, "high is missing"),
        ({"a": {"type": "float", "low": 1.0, "high": 1.0}}, "expected low < high"),
        ({"a": {"type": "float", "low": 0.0, "high": 1.0, "log": True}}, "expected a number > 0"),
        ({"a": {"type": "int", "low": 0.5, "high": 3}}, "expected a whole number"),
        ({"a": {"type": "float", "low": "x", "high": 3}}, "expected a number"),
        ({"a": {**LR, "lg": True}}, "Did you mean search.a.log"),
        ({"a": {"type": "categorical", "choices": [1]}}, "two values or more"),
        ({"a": {"type": "categorical", "choices": "xy"}}, "two values or more"),
    ],
)
def test_a_space_that_cannot_be_searched(node, told):
    with pytest.raises(ConfigError, match=told) as caught:
        read(node)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("value", [[32, 64], 1e-05, 0.001, 7, True, None, "medical", "it's, [odd]", ["a b", "c"]])
def test_an_override_is_read_as_the_value_that_was_chosen(value):
    assert parsed(override("key", value)).value() == value


def test_corners_hold_every_choice_and_both_ends():
    space = read({"a": LR, "b": {"type": "categorical", "choices": [None, [1], "x"]}, "c": {**LR, "log": False}})
    rows = list(corners(space))
    assert len(rows) == 3
    assert {row[0] for row in rows} == {"a=0.0001", "a=0.1"}
    assert [row[1] for row in rows] == ["b=null", "b=[1]", "b='x'"]


def test_values_travel_through_a_storage():
    optuna = pytest.importorskip("optuna")
    (space,) = read({"model.channels": {"type": "categorical", "choices": [[32, 64], [64]]}})
    trial = optuna.trial.FixedTrial({"model.channels": json.dumps([64])})
    assert space.suggest(trial) == [64]
    (count,) = read({"n": {"type": "int", "low": 1, "high": 8, "log": True}})
    assert count.suggest(optuna.trial.FixedTrial({"n": 3})) == 3

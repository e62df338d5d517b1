import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvision.metrics.subgroups import MAX_VALUES, members


def test_values_are_sorted_and_missing_comes_last():
    column = np.array(["b", "a", " b ", "NaN", "", "N/A", "c"])

    found = members(column)

    assert {value: rows.tolist() for value, rows in found.items()} == {
        "a": [1],
        "b": [0, 2],
        "c": [6],
        "missing": [3, 4, 5],
    }
    assert list(found) == ["a", "b", "c", "missing"]


def test_none_is_a_finding_and_not_missing():
    assert list(members(np.array(["none", "pacemaker", "none"]))) == ["none", "pacemaker"]


def test_ages_are_cut_at_their_quartiles():
    ages = np.random.default_rng(0).integers(18, 95, 400)

    found = members(np.append(ages.astype(str), ["", "nan"]))

    quartiles = np.quantile(ages, [0.25, 0.5, 0.75], method="inverted_cdf")
    assert list(found)[-1] == "missing"
    assert found["missing"].tolist() == [400, 401]
    bands = list(found)[:-1]
    assert [int(band.split(" to ")[1]) for band in bands] == [*quartiles, ages.max()]
    for band in bands:
        low, high = map(int, band.split(" to "))
        np.testing.assert_array_equal(found[band], np.flatnonzero((ages >= low) & (ages <= high)))
        assert 80 < len(found[band]) < 120


def test_fractions_have_short_names_that_differ():
    values = np.linspace(0, 1, 101) / 3
    close = 1 + np.linspace(0, 1e-4, 101)

    assert list(members(values.astype(str)))[1] == "0.0867 to 0.167"
    assert len(members(close.astype(str))) == 4


def test_whole_numbers_with_a_decimal_point_are_shown_without():
    assert list(members((np.arange(100) // 5).astype(float).astype(str))) == [
        "0 to 4",
        "5 to 9",
        "10 to 14",
        "15 to 19",
    ]


@pytest.mark.parametrize("heap", [0, 99])
def test_many_cases_of_one_number_leave_at_least_two_bands(heap):
    values = np.concatenate([np.full(900, heap), np.arange(100)])

    found = members(values.astype(str))

    assert len(found) >= 2
    assert sum(map(len, found.values())) == 1000


def test_values_keep_their_signs():
    assert list(members(np.array(["80/2", "90/3"] * 2))) == ["80/2", "90/3"]


def test_few_different_numbers_are_grades():
    found = members(np.array(list("1223334444")))

    assert {value: len(rows) for value, rows in found.items()} == {"1": 1, "2": 2, "3": 3, "4": 4}


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (["a"] * 9, "the same value"),
        ([""] * 9, "the same value"),
        ([f"case {i}" for i in range(9)], "different value for every"),
        (list(range(100, 200)), "different whole number for every"),
        ([f"s{i % (MAX_VALUES + 1)}" for i in range(99)], f"{MAX_VALUES + 1} different values; at most {MAX_VALUES}"),
    ],
)
def test_columns_that_make_no_subgroups_say_why(column, reason):
    assert reason in members(np.array(column).astype(str))


def test_one_value_or_missing_are_two_subgroups():
    assert list(members(np.array(["yes", "", "yes"]))) == ["yes", "missing"]


@given(st.lists(st.one_of(st.sampled_from(["", "a", "b/c", "7"]), st.integers(-99, 99).map(str)), min_size=1))
def test_every_case_is_in_exactly_one_subgroup(column):
    found = members(np.array(column))

    if not isinstance(found, str):
        assert sorted(np.concatenate(list(found.values()))) == list(range(len(column)))

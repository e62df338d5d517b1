import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvision.data.splits import carve, complete, folds, set_calibration_apart
from medvision.data.table import ImageTable
from medvision.errors import DataError
from medvision.tasks import Task

FRACTIONS = {"val_fraction": 0.1, "test_fraction": 0.2, "split_seed": 0}


def table(labels, **columns):
    images = np.zeros((1, 1, 2, 2), np.uint8)
    frame = pd.DataFrame({"image": np.zeros(len(labels), int), "label": labels, **columns})
    return ImageTable(frame, Task.classes(tuple(f"class {label}" for label in range(max(labels) + 1))), images)


def choose(labels, groups, fraction, split_seed=0):
    names = [f"class {label}" for label in range(int(np.max(labels)) + 1)]
    groups = None if groups is None else np.asarray(groups, np.str_)
    return carve(np.asarray(labels), groups, fraction, split_seed=split_seed, part="val", class_names=names)


@given(
    counts=st.lists(st.integers(2, 60), min_size=1, max_size=5),
    fraction=st.floats(0.01, 0.99),
    split_seed=st.integers(0, 2**31),
)
def test_every_class_gives_its_share_within_one(counts, fraction, split_seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    chosen = choose(labels, None, fraction, split_seed)
    for label, count in enumerate(counts):
        taken = chosen[labels == label].sum()
        assert abs(taken - fraction * count) <= 1
        assert 1 <= taken < count


@settings(deadline=None)
@given(data=st.data(), fraction=st.floats(0.05, 0.6), split_seed=st.integers(0, 2**31))
def test_no_group_is_divided_and_every_class_is_on_both_sides(data, fraction, split_seed):
    patients = data.draw(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), min_size=12, max_size=60))
    patients += [(label, 1) for label in range(3) for _ in range(2)]
    labels = np.array([label for label, count in patients for _ in range(count)])
    groups = np.array([f"p{number}" for number, (_, count) in enumerate(patients) for _ in range(count)])
    chosen = choose(labels, groups, fraction, split_seed)
    assert not set(groups[chosen]) & set(groups[~chosen])
    assert set(labels[chosen]) == set(labels[~chosen]) == {0, 1, 2}


def test_groups_of_mixed_classes_keep_the_shares():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 300, 3000)
    labels = (rng.random(3000) < 0.1 + 0.2 * (groups % 2)).astype(int)
    chosen = choose(labels, groups, 0.2)
    for label in (0, 1):
        assert abs(chosen[labels == label].mean() - 0.2) < 0.01
    assert not set(groups[chosen]) & set(groups[~chosen])
    # The groups that are chosen are not the large ones.
    sizes = np.bincount(groups)
    assert abs(sizes[np.unique(groups[chosen])].mean() - sizes.mean()) < 1


def test_the_choice_is_a_function_of_the_split_seed():
    labels = np.arange(200) % 4
    first = choose(labels, None, 0.3, 1)
    np.testing.assert_array_equal(first, choose(labels, None, 0.3, 1))
    assert (first != choose(labels, None, 0.3, 2)).any()
    groups = np.arange(200) // 2
    first = choose(labels, groups, 0.3, 1)
    np.testing.assert_array_equal(first, choose(labels, groups, 0.3, 1))
    assert (first != choose(labels, groups, 0.3, 2)).any()


def test_groups_that_overlap_too_much():
    # Each pair of classes shares a group: whichever groups are chosen, some class is on one side only.
    labels = [0, 0, 1, 1, 2, 2]
    groups = ["x", "y", "y", "z", "z", "x"]
    with pytest.raises(DataError, match=r"overlap so that train and val cannot both have every class.\nAdd groups"):
        choose(labels, groups, 0.3)


def test_without_splits_test_and_validation_are_carved():
    labels = np.arange(1000) % 10
    result = complete(table(labels), **FRACTIONS)
    for label in range(10):
        counts = result.frame["split"][labels == label].value_counts()
        assert counts.to_dict() == {"train": 72, "test": 20, "val": 8}


def test_official_splits_are_kept():
    labels = np.arange(300) % 3
    official = np.repeat(["train", "test"], [200, 100])
    result = complete(table(labels, split=official), **FRACTIONS)
    assert (result.frame["split"][200:] == "test").all()
    assert result.frame["split"][:200].value_counts().to_dict() == {"train": 179, "val": 21}
    every = np.repeat(["train", "val", "test"], 100)
    np.testing.assert_array_equal(complete(table(labels, split=every), **FRACTIONS).frame["split"], every)
    no_test = np.repeat(["train", "val"], [200, 100])
    result = complete(table(labels, split=no_test), **FRACTIONS)
    assert (result.frame["split"][200:] == "val").all()
    assert (result.frame["split"] == "test").sum() == 39  # 13.4, 13.4 and 13.2 of the classes


def test_groups_stay_whole_through_both_cuts():
    rng = np.random.default_rng(1)
    groups = np.char.add("patient ", rng.integers(0, 80, 600).astype(str))
    result = complete(table(rng.integers(0, 3, 600), group=groups), **FRACTIONS)
    assert (result.frame.groupby("group")["split"].nunique() == 1).all()
    assert set(result.frame["split"]) == {"train", "val", "test"}


def test_metadata_survives():
    result = complete(table(np.arange(30) % 3, sex=["f", "m"] * 15), **FRACTIONS)
    assert result.metadata["sex"].tolist() == ["f", "m"] * 15


@pytest.mark.parametrize(
    ("labels", "columns", "message"),
    [
        ([0, 0, 0, 1, 1], {}, "Class 'class 1' has 1 image left to divide between train and val"),
        ([0, 0, 0, 1], {}, "Add images until it has three .* or take the class out of the data: its folder"),
        ([0, 0, 0, 1], {}, "Class 'class 1' has 1 image left to divide between train and test"),
        ([0] * 9 + [1] * 3, {"group": [*"aabbccdde", *"xxx"]}, "'class 1' has 1 group left to divide"),
        ([0, 1, 0, 1], {"split": ["val", "val", "test", "test"]}, "has no train split"),
        ([0, 1, 0, 1, 0], {"split": ["train", "train", "val", "val", "test"]}, "test images have none of .* class 1"),
        ([0, 0, 1, 1, 0], {"split": ["train", "train", "test", "val", "test"]}, "train images have none of .* class 1"),
    ],
)
def test_too_few(labels, columns, message):
    with pytest.raises(DataError, match=message) as caught:
        complete(table(labels, **columns), **FRACTIONS)
    assert len(str(caught.value).splitlines()) <= 2


def test_a_part_of_the_source_that_lacks_a_class_is_refused():
    split = ["train", "train", "test", "test", "val"]
    with pytest.raises(DataError, match=r"val images have none of class\(es\) class 1"):
        complete(table([0, 1, 0, 1, 0], split=split), **FRACTIONS)


def hashes_of(pictures):
    return np.array([np.int64(one).tobytes() * 2 for one in pictures], "V16")


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), grouped=st.booleans())
def test_what_is_linked_by_pixels_or_group_stays_together(seed, grouped):
    rng = np.random.default_rng(seed)
    labels, pictures = np.arange(240) % 3, rng.integers(0, 200, 240)
    columns = {"group": rng.integers(0, 120, 240).astype(str)} if grouped else {}
    whole = ImageTable(
        pd.DataFrame({"image": np.arange(240), "label": labels, **columns}),
        Task.classes(("a", "b", "c")),
        np.zeros((240, 1, 2, 2), np.uint8),
    )
    try:
        result = complete(whole, **FRACTIONS, hashes=hashes_of(pictures))
    except DataError:
        assert grouped  # links between groups can leave too few that are independent
        return
    assert (result.frame.groupby(pictures)["split"].nunique() == 1).all()
    if grouped:
        assert (result.frame.groupby("group")["split"].nunique() == 1).all()


def test_without_copies_the_hashes_change_nothing():
    labels = np.arange(100) % 4
    whole = table(labels)
    with_hashes = complete(whole, **FRACTIONS, hashes=hashes_of(range(100)))
    assert with_hashes.frame["split"].tolist() == complete(whole, **FRACTIONS).frame["split"].tolist()


def in_fold(fold, n_folds=4, **columns):
    return complete(table(np.arange(100) % 3, **columns), **FRACTIONS, n_folds=n_folds, fold=fold)


def test_every_image_tests_in_one_fold():
    tests = np.array([in_fold(fold).splits == "test" for fold in range(4)])
    assert (tests.sum(axis=0) == 1).all()
    for label, count in enumerate((34, 33, 33)):
        per_fold = tests[:, np.arange(100) % 3 == label].sum(axis=1)
        assert sorted(per_fold) == sorted([count // 4 + (one < count % 4) for one in range(4)])
    assert all(set(in_fold(fold).splits) == {"train", "val", "test"} for fold in range(4))


def test_folds_divide_the_train_part_and_leave_the_official_test_unused():
    official = np.repeat(["train", "val", "test"], [60, 20, 20])
    for fold in range(4):
        result = in_fold(fold, split=official).splits
        assert (result[60:80] == "val").all()
        assert (result[80:] == "unused").all()
        assert (result[:60] == "test").sum() == 15


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31))
def test_folds_never_divide_a_group_and_resemble_one_another(seed):
    rng = np.random.default_rng(seed)
    units = rng.integers(0, 200, 2000)
    units = np.unique(units, return_inverse=True)[1]
    labels = (units + rng.integers(0, 2, 2000)) % 3
    result = folds(labels, units, 5, split_seed=seed, class_names="abc")
    assert (pd.Series(result).groupby(units).nunique() == 1).all()
    shares = pd.crosstab(result, labels, normalize="columns")
    assert shares.shape == (5, 3)
    assert (abs(shares - 0.2) < 0.05).all().all()


def test_folds_depend_on_the_split_seed():
    of = [folds(np.zeros(50, int), np.arange(50), 5, split_seed=seed, class_names="a") for seed in (0, 0, 1)]
    assert (of[0] == of[1]).all()
    assert (of[0] != of[2]).any()


def test_more_folds_than_groups_of_a_class():
    with pytest.raises(DataError, match=r"data.n_folds=4 needs .* too few of class 1 \(3\)"):
        complete(table([0] * 9 + [1] * 3), **FRACTIONS, n_folds=4, fold=0)


def test_images_that_are_set_aside_stay_there():
    split = ["train"] * 60 + ["quarantined", "dropped"]
    result = complete(table([*(np.arange(60) % 3), 0, 1], split=split), **FRACTIONS)
    assert result.splits[60:].tolist() == ["quarantined", "dropped"]


def test_calibration_takes_its_share_of_val_by_class_and_leaves_the_rest_as_it_is():
    before = complete(table([0] * 200 + [1] * 100), **FRACTIONS)
    after = set_calibration_apart(before, 0.5, split_seed=0)
    taken = after.splits == "calibration"
    assert (before.splits[taken] == "val").all()
    assert (after.splits[~taken] == before.splits[~taken]).all()
    val = before.splits == "val"
    for label in (0, 1):
        assert abs(taken[before.labels == label].sum() - val[before.labels == label].sum() / 2) <= 1
    assert (set_calibration_apart(before, 0.5, split_seed=0).splits == after.splits).all()
    assert (set_calibration_apart(before, 0.5, split_seed=1).splits != after.splits).any()


def test_calibration_divides_neither_groups_nor_copies():
    groups = np.repeat(np.arange(60).astype(str), 5)
    split = np.repeat(["train", "val", "test"], 100)
    given = table((np.arange(300) // 5 % 2).tolist(), group=groups, split=split)
    after = set_calibration_apart(given, 0.5, split_seed=0)
    assert (pd.Series(after.splits).groupby(groups).nunique() == 1).all()
    assert 30 <= (after.splits == "calibration").sum() <= 70
    hashes = np.frombuffer(np.repeat(np.arange(150, dtype="<u8"), 2).astype("<u8").repeat(2).tobytes(), "V16")
    lone = table([0, 0, 1, 1] * 75, split=split)
    copies = set_calibration_apart(lone, 0.5, split_seed=0, hashes=hashes)
    assert (pd.Series(copies.splits).groupby([hash(bytes(one)) for one in hashes]).nunique() == 1).all()


def test_calibration_of_the_source_is_kept_and_none_can_be_asked_for():
    split = ["train"] * 20 + ["val"] * 4 + ["calibration"] * 2 + ["test"] * 4
    given = table([0, 1] * 15, split=split)
    assert set_calibration_apart(given, 0.5, split_seed=0) is given
    plain = complete(table([0, 1] * 50), **FRACTIONS)
    assert set_calibration_apart(plain, 0, split_seed=0) is plain


def test_too_few_validation_images_are_not_divided(caplog):
    split = ["train"] * 20 + ["val"] * 2 + ["test"] * 4
    given = table([0, 1] * 13, split=split)
    assert set_calibration_apart(given, 0.5, split_seed=0) is given
    assert "also chose the best epoch" in caplog.text

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvision.data.splits import limit_train
from medvision.data.table import ImageTable
from medvision.errors import DataError
from medvision.tasks import Task


def table(labels, **columns):
    images = np.zeros((len(labels), 1, 2, 2), np.uint8)
    frame = pd.DataFrame({"image": np.arange(len(labels)), "label": np.asarray(labels, np.int64), **columns})
    return ImageTable(frame, Task.classes(tuple(f"class {label}" for label in range(max(1, *labels) + 1))), images)


@given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=5), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_exactly_so_many_stay_and_every_class_keeps_its_share(counts, share, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    number = max(len(counts), int(share * len(labels)))

    kept = labels[limit_train(table(labels), number, seed).splits == "train"]

    assert len(kept) == number
    for label, count in enumerate(counts):
        taken = (kept == label).sum()
        assert taken >= 1
        assert taken - 1 <= np.ceil(number * count / len(labels)) + 1
        assert taken + len(counts) >= np.floor(number * count / len(labels))


def test_the_images_of_a_small_number_are_among_those_of_a_larger_one():
    labels = np.repeat([0, 1, 2], [50, 30, 7])
    before = np.zeros(len(labels), bool)
    for number in (3, 10, 40, 80):
        kept = limit_train(table(labels), number, 0).splits == "train"
        assert (kept | ~before).all()
        before = kept


def test_only_train_is_touched_and_what_is_left_out_is_unused():
    split = np.resize(["train", "train", "val", "test", "calibration"], 100)
    limited = limit_train(table(np.resize([0, 1, 1], 100), split=split), 9, 0).splits

    assert ((limited == split) | ((split == "train") & (limited == "unused"))).all()
    assert (limited == "train").sum() == 9


def test_the_choice_depends_on_the_seed_and_on_nothing_else():
    whole = table(np.resize([0, 1], 200))
    first, again, other = (limit_train(whole, 50, seed).splits for seed in (0, 0, 1))

    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("number", [None, 20, 1000])
def test_enough_is_left_alone(number):
    whole = table(np.resize([0, 1], 20))
    assert limit_train(whole, number, 0) is whole


@settings(deadline=None)
@given(
    groups=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 2)), min_size=6, max_size=60), seed=st.integers(0, 99)
)
def test_groups_stay_whole_and_within_the_number(groups, seed):
    groups = [*groups, (1, 0), (1, 1), (1, 2)]
    labels = np.concatenate([[label] * size for size, label in groups])
    names = np.repeat([f"patient {number}" for number in range(len(groups))], [size for size, _ in groups])
    number = max(18, len(labels) // 2)

    limited = limit_train(table(labels, group=names), number, seed)

    kept = limited.splits == "train"
    assert kept.sum() <= number
    assert not set(names[kept]) & set(names[~kept])
    assert set(labels[kept]) == {0, 1, 2}
    if len(labels) > 36:
        assert kept.sum() >= number - 18


@pytest.mark.parametrize("group", [None, ["a", "a", "b", "b", "c", "c"]])
def test_a_number_too_small_for_every_class_is_refused(group):
    labels = [0, 0, 1, 1, 2, 2]
    with pytest.raises(DataError, match=r"data.max_train_samples=2 leaves no training image of 'class"):
        limit_train(table(labels, **({"group": group} if group else {})), 2, 0)

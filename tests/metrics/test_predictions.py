import dataclasses
import pickle

import numpy as np
import pytest
from scipy.special import softmax as scipy_softmax

from medvision.errors import DataError
from medvision.metrics.predictions import Predictions, softmax
from medvision.tasks import Task


def test_probabilities_are_the_softmax_of_the_logits_over_the_temperature():
    logits = np.float32([[1, 2, 3], [800, -800, 0], [0, 0, 0]])

    predictions = Predictions.from_logits(
        ids=["a", "b", "c"], targets=[2, 0, 1], logits=logits, class_names="xyz", temperature=2.5
    )

    np.testing.assert_allclose(predictions.probs, scipy_softmax(logits.astype(np.float64) / 2.5, axis=1), rtol=1e-14)
    assert predictions.probs.dtype == np.float64
    assert predictions.preds.tolist() == [2, 0, 0]


def test_from_logits_turns_names_and_numbers_into_the_stored_types():
    predictions = Predictions.from_logits(
        ids=np.arange(2),
        targets=np.uint8([1, 0]),
        logits=[[0.0, 1.0]] * 2,
        class_names=["no", "yes"],
        meta={"age": [40, 7]},
    )

    assert predictions.ids.tolist() == ["0", "1"]
    assert predictions.targets.dtype == np.int64
    assert predictions.groups.tolist() == ["", ""]
    assert predictions.meta["age"].tolist() == ["40", "7"]
    assert predictions.class_names == ("no", "yes")


def test_some_of_the_samples():
    whole = Predictions.from_logits(
        ids=["a", "b", "c"],
        groups=["g", "g", "h"],
        targets=[2, 0, 1],
        logits=np.eye(3),
        class_names="xyz",
        meta={"age": [40, 7, 9]},
        temperature=2.0,
    )
    some = whole.take(np.array([2, 0]))
    assert (some.ids.tolist(), some.groups.tolist(), some.targets.tolist()) == (["c", "a"], ["h", "g"], [1, 2])
    assert some.meta["age"].tolist() == ["9", "40"]
    np.testing.assert_array_equal(some.probs, whole.probs[[2, 0]])
    np.testing.assert_array_equal(some.logits, whole.logits[[2, 0]])


def test_targets_are_not_rounded():
    with pytest.raises(TypeError, match="float64"):
        Predictions.from_logits(ids=["a"], targets=[0.7], logits=[[0.0, 1.0]], class_names="ab")


def test_a_file_holds_everything(tmp_path, make_predictions):
    predictions = dataclasses.replace(
        make_predictions(groups=np.arange(200) // 2),
        meta={"site": np.array(["Köln", "a/b"] * 100), "sex": np.array(["f"] * 200)},
    )

    predictions.save(tmp_path / "test.npz")
    loaded = Predictions.load(tmp_path / "test.npz")

    assert loaded.class_names == predictions.class_names
    assert loaded.meta.keys() == predictions.meta.keys()
    for name in ("ids", "groups", "targets", "logits", "probs"):
        stored, original = getattr(loaded, name), getattr(predictions, name)
        assert stored.dtype == original.dtype
        np.testing.assert_array_equal(stored, original)
    np.testing.assert_array_equal(loaded.meta["site"], predictions.meta["site"])


def test_equal_predictions_give_equal_bytes_whenever_and_in_whatever_order(tmp_path, make_predictions, monkeypatch):
    columns = {"sex": np.array(["f"] * 200), "site": np.array(["x"] * 200)}
    dataclasses.replace(make_predictions(), meta=columns).save(tmp_path / "one.npz")
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    monkeypatch.setattr("time.localtime", lambda *_: (2033, 5, 18, 3, 33, 20, 2, 138, 0))

    dataclasses.replace(make_predictions(), meta=dict(reversed(columns.items()))).save(tmp_path / "two.npz")

    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_a_save_that_fails_leaves_the_old_file(tmp_path, make_predictions, monkeypatch):
    path = tmp_path / "test.npz"
    make_predictions(seed=0).save(path)
    before = path.read_bytes()

    def half(file, **_):
        file.write(before[:100])
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(OSError, match="No space"):
        make_predictions(seed=1).save(path)

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": np.array(["a", "b", "a"])}, "row 2, id 'a'.*unique"),
        ({"targets": np.int64([0, 2, 1])}, r"row 1, id 'b'.*not in \[0, 2\)"),
        ({"targets": np.int64([0, 1, -1])}, "row 2, id 'c'"),
        ({"targets": np.int32([0, 1, 1])}, "targets should be int64.*found int32"),
        ({"logits": np.float32([[0, 1], [0, NAN], [np.inf, 0]])}, r"row 1, id 'b'.*not all finite \(and 1 more"),
        ({"logits": np.zeros((3, 3), np.float32)}, r"logits should be float32 of shape \(3, 2\)"),
        ({"probs": np.float64([[0.5, 0.5], [0.5, 0.6], [1, 0]])}, "row 1, id 'b'.*sum 1"),
        ({"probs": np.float64([[0.5, 0.5], [1.5, -0.5], [1, 0]])}, "row 1, id 'b'"),
        ({"probs": np.float64([[0.5, 0.5], [1, 0], [NAN, NAN]])}, "row 2, id 'c'"),
        ({"groups": np.array([1, 2, 3])}, "groups should be <U"),
        ({"groups": np.array(["p"] * 4)}, "groups should be <U"),
        ({"task": Task.classes(("x", "y", "z"))}, "for 3 ids and 3 class names"),
        ({"meta": {"site": np.array([None, "b", "c"], dtype=object)}}, "meta/site should be <U"),
    ],
)
def test_what_cannot_be_is_refused_by_name(change, message):
    predictions = Predictions.from_logits(
        ids=["a", "b", "c"], targets=[0, 1, 1], logits=np.zeros((3, 2)), class_names=["x", "y"]
    )

    with pytest.raises(DataError, match=message):
        dataclasses.replace(predictions, **change)


def test_no_samples_are_no_predictions():
    with pytest.raises(DataError, match="no samples"):
        Predictions.from_logits(ids=[], targets=np.int64([]), logits=np.zeros((0, 2)), class_names="ab")


@pytest.mark.parametrize("logits", [[[np.inf, np.inf]], [[NAN, 0]], [[1e300, 0]]])
def test_logits_that_are_not_finite_in_float32_are_refused_by_row(logits):
    with pytest.raises(DataError, match="row 0, id 'a': its logits are not all finite"):
        Predictions.from_logits(ids=["a"], targets=[0], logits=np.array(logits), class_names="xy")


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def test_files_that_are_not_predictions_are_refused(tmp_path, make_predictions):
    good = tmp_path / "good.npz"
    make_predictions().save(good)
    (tmp_path / "cut.npz").write_bytes(good.read_bytes()[:-200])
    flipped = bytearray(good.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    (tmp_path / "flipped.npz").write_bytes(flipped)
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Bomb()))
    np.savez(tmp_path / "object.npz", ids=np.array([Bomb()], dtype=object))
    np.savez(tmp_path / "other.npz", ids=np.array(["a"]))
    np.save(tmp_path / "array.npy", np.zeros(3))

    for name in ("cut.npz", "flipped.npz", "empty.npz", "pickle.npz", "object.npz", "array.npy", "absent.npz"):
        with pytest.raises(DataError, match=rf"cannot read predictions .*{name}"):
            Predictions.load(tmp_path / name)
    with pytest.raises(DataError, match="lack the array 'groups'"):
        Predictions.load(tmp_path / "other.npz")


def test_a_file_with_impossible_values_is_named(tmp_path, make_predictions):
    predictions = make_predictions()
    predictions.targets[3] = 99
    predictions.save(tmp_path / "test.npz")

    with pytest.raises(DataError, match=r"in .*test\.npz: predictions: row 3"):
        Predictions.load(tmp_path / "test.npz")


def test_softmax_of_large_logits_does_not_overflow():
    assert softmax(np.array([[1e4, 0.0], [-1e4, 0.0]])).tolist() == [[1.0, 0.0], [0.0, 1.0]]

import numpy as np
import pandas as pd
import pytest

from medvision.errors import DataError
from medvision.metrics.predictions import Predictions

GOOD = """id,target,prob_no,prob_yes,group,sex,age
a.png,no,0.75,0.25,p1,f,40
b.png,yes,0,1,p1,,7
"c,1.png",yes,0.5,0.5,,m,NA
"""


@pytest.fixture
def written(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "foreign.csv"
        path.write_text(text, encoding=encoding)
        return path

    return write


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_columns_become_fields_and_subgroups(written, encoding):
    found = Predictions.from_csv(written(GOOD, encoding))

    assert found.ids.tolist() == ["a.png", "b.png", "c,1.png"]
    assert found.groups.tolist() == ["p1", "p1", ""]
    assert found.class_names == ("no", "yes")
    assert found.targets.tolist() == [0, 1, 1]
    assert found.probs.tolist() == [[0.75, 0.25], [0, 1], [0.5, 0.5]]
    assert {name: column.tolist() for name, column in found.meta.items()} == {
        "sex": ["f", "", "m"],
        "age": ["40", "7", "NA"],
    }


def test_logits_are_finite_and_give_the_probabilities_back(written):
    found = Predictions.from_csv(written(GOOD))

    assert np.isfinite(found.logits).all()
    np.testing.assert_allclose(np.exp(found.logits.astype(float)), found.probs, atol=1e-7)


def test_class_names_decide_the_order(written):
    found = Predictions.from_csv(written(GOOD), class_names=["yes", "no"])

    assert found.targets.tolist() == [1, 0, 0]
    assert found.probs[:, 0].tolist() == [0.25, 1, 0.5]


def test_what_pandas_writes_of_our_own_is_read_back(tmp_path, make_predictions):
    ours = make_predictions(50, 3)
    table = pd.DataFrame(ours.probs, columns=[f"prob_{name}" for name in ours.class_names])
    table = table.assign(id=ours.ids, target=[ours.class_names[target] for target in ours.targets])
    table.to_csv(tmp_path / "ours.csv", index=False)

    found = Predictions.from_csv(tmp_path / "ours.csv")

    np.testing.assert_allclose(found.probs, ours.probs, rtol=1e-15)
    np.testing.assert_array_equal(found.targets, ours.targets)
    assert found.class_names == ours.class_names


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("id,target", "name,target", r"missing \['id'\], found \['name', 'target', 'prob_no'"),
        ("prob_no,prob_yes", "no,yes", "prob_<class> for two or more classes; missing probabilities"),
        ("sex,age", "sex,sex", r"\['sex'\] occur more than once"),
        ("0.75,0.25", "0.75,high", r"row 0, id 'a.png': prob_yes should be a number in \[0, 1\], found 'high'"),
        ("0.75,0.25", "0.75,", "row 0, id 'a.png': prob_yes should be a number"),
        ("0.75,0.25", "nan,0.25", "row 0, id 'a.png': prob_no should be a number"),
        ("0.75,0.25", "0.75,0.35", "row 0, id 'a.png': its probabilities are not in .* with sum 1"),
        ("0.75,0.25", "inf,0.25", "row 0, id 'a.png': its"),
        ("b.png,yes", "b.png,maybe", r"row 1, id 'b.png': its target 'maybe' is none of the classes \['no', 'yes'\]"),
        ("b.png", "a.png", "row 1, id 'a.png': its id was there before"),
        (GOOD[GOOD.index("a.png") :], "", "no samples"),
    ],
)
def test_what_cannot_be_is_refused_with_file_and_row(written, old, new, message):
    with pytest.raises(DataError, match=rf"(?s)in .*foreign\.csv: .*{message}"):
        Predictions.from_csv(written(GOOD.replace(old, new, 1)))


def test_rows_beyond_the_first_are_counted(written):
    with pytest.raises(DataError, match=r"row 1.*'true'.*\(and 1 more rows\)"):
        Predictions.from_csv(written(GOOD.replace(",yes,", ",true,")))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["no", "yes", "perhaps"], r"missing \['prob_perhaps'\], too many \[\]"),
        (["no", "maybe"], r"missing \['prob_maybe'\], too many \['prob_yes'\]"),
    ],
)
def test_columns_must_be_those_of_the_named_classes(written, names, message):
    with pytest.raises(DataError, match=message):
        Predictions.from_csv(written(GOOD), class_names=names)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'id,target\n"open', b"a,b\n1,2,3\n"])
def test_files_that_are_not_csv_are_refused(tmp_path, content):
    (tmp_path / "foreign.csv").write_bytes(content)

    with pytest.raises(DataError, match=r"foreign\.csv"):
        Predictions.from_csv(tmp_path / "foreign.csv")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read predictions .*absent\.csv"):
        Predictions.from_csv(tmp_path / "absent.csv")

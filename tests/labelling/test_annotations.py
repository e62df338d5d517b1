import csv
import json

import numpy as np
import pytest

from medvision.labelling.annotations import (
    index_annotations,
    read_rows,
    truths_and_predictions,
    write_csv,
    write_selection,
)

NAMES = ("cat", "=HYPERLINK()")


def record(image, status="auto", confidence=0.9, label="cat", **more):
    probs = None if label is None else {"cat": confidence, "=HYPERLINK()": 1 - confidence}
    return {
        "image": image,
        "label": label,
        "confidence": None if label is None else confidence,
        "status": status,
        "reason": "" if status == "auto" else 'why, "so"\n',
        "set": ["cat", "=HYPERLINK()"] if label else None,
        "probs": probs,
    } | more


@pytest.fixture
def write(tmp_path):
    def write(*records):
        (tmp_path / "annotations.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
        return tmp_path

    return write


def test_those_who_need_a_human_most_come_first(write):
    out = write(
        record("sure", confidence=0.99),
        record("less sure", confidence=0.85),
        record("broken", "rejected", label=None),
        record("strange", "rejected", confidence=0.3),
        record("odd", "review", confidence=0.6),
        record("odder", "review", confidence=0.4),
    )
    index = index_annotations(out)
    assert index.counts == {"review": 2, "rejected": 1, "auto": 2, "unreadable": 1}
    names = [one["image"] for one in read_rows(out, index, index.by_need())]
    assert names == ["odder", "odd", "strange", "less sure", "sure", "broken"]


def test_the_csv_keeps_every_path_and_no_formula(write):
    odd = '/a/we"ird, na\nme.png'
    out = write(record(odd), record("/b", "review", label="=HYPERLINK()"), record("/c", "rejected", label=None))
    text = write_csv(out, NAMES).read_text()
    rows = list(csv.DictReader(text.splitlines(keepends=True)))
    assert list(rows[0]) == ["image", "label", "confidence", "status", "reason", "set", "p_cat", "p_=HYPERLINK()"]
    assert [row["image"] for row in rows] == [odd, "/b", "/c"]
    assert [row["label"] for row in rows] == ["cat", "'=HYPERLINK()", ""]
    assert [row["confidence"] for row in rows] == ["0.900000", "0.900000", ""]
    assert rows[1]["reason"] == 'why, "so"\n'
    assert rows[2]["p_cat"] == ""
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())


def test_truths_are_scored_where_they_are_known(write):
    out = write(
        record("/a", truth="cat", confidence=1.0),
        record("/b", truth="=HYPERLINK()"),
        record("/c", truth=None),
        record("/d", "rejected", label=None, truth="cat"),
    )
    predictions = truths_and_predictions(out, NAMES)
    assert predictions.ids.tolist() == ["/a", "/b"]
    assert predictions.targets.tolist() == [0, 1]
    np.testing.assert_allclose(predictions.probs, [[1, 0], [0.9, 0.1]], atol=1e-6)
    assert "truth" in write_csv(out, NAMES).read_text().splitlines()[0]
    assert truths_and_predictions(write(record("/a")), NAMES) is None


def test_what_to_label_next_is_a_manifest_to_fill_in(write):
    out = write()
    text = write_selection(out, [record("/a\n.png")]).read_text()
    rows = list(csv.reader(text.splitlines(keepends=True)))
    assert rows == [["image", "label", "predicted", "confidence"], ["/a\n.png", "", "cat", "0.900000"]]

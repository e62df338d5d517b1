import sys

import pytest

from medvision.runs.provenance import environment, without_passwords


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("postgresql+psycopg://me:secret@host:5432/study", "postgresql+psycopg://me:***@host:5432/study"),
        ("logger.tracking_uri=https://me:s/e@cret@host", "logger.tracking_uri=https://me:***@host"),
        ("postgresql+psycopg://host/study?user=me&password=secret&x=1", None),
        ("a: http://me:one@x\nb: http://me:two@y", "a: http://me:***@x\nb: http://me:***@y"),
        ("sqlite:////path/study.db", "sqlite:////path/study.db"),
        ("postgresql+psycopg://me@host:5432/study", "postgresql+psycopg://me@host:5432/study"),
        ("nonsense", "nonsense"),
    ],
)
def test_addresses_are_told_without_their_passwords(text, told):
    told = told or "postgresql+psycopg://host/study?user=me&password=***&x=1"
    assert without_passwords(text) == told


def test_the_command_that_is_kept_has_none(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["medvision.tune", "storage=postgresql://me:secret@host/study", "seed=1"])
    assert environment()["command"] == ["medvision.tune", "storage=postgresql://me:***@host/study", "seed=1"]

"""The benchmarks of experiments/speed: their figures, the tables made of them, and each script in its tiny mode."""

import importlib
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SPEED = REPOSITORY / "experiments" / "speed"
DATA = Path(os.environ.get("MEDVISION_DATA", "data")).absolute()
NEEDS = {
    "brain_mri_rate": "brain_mri",
    "decode_cold": "brain_mri",
    "decode_warm": "brain_mri",
    "fit_overhead": "MNIST",
    "keras_mnist": "MNIST",
    "recipes": "MNIST",
    "tutorials": "MNIST",
}
NO_BENCHMARK = {"measuring", "epochs", "summary", "keras_article"}
LONG = {"recipes"}  # make bench leaves it to make bench-recipes
SCRIPTS = sorted({file.stem for file in SPEED.glob("*.py")} - NO_BENCHMARK)
RESULTS = sorted((SPEED / "results").glob("*.json"))
SIDE = {"name", "median", "low", "high"}


@pytest.fixture
def scripts(monkeypatch):
    """The modules measuring and summary, as the scripts import them."""
    monkeypatch.syspath_prepend(str(SPEED))
    names = ("measuring", "summary")
    yield tuple(importlib.import_module(name) for name in names)
    logging.disable(logging.NOTSET)
    for name in (*names, "recipes"):
        sys.modules.pop(name, None)


def check(result: dict, name: str) -> None:
    """Whether a JSON has the common shape, and figures that fit together."""
    assert set(result) == {"command", "measured", "tiny", "machine", "rows"}
    assert result["command"].split()[:2] == ["python", f"experiments/speed/{name}.py"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", result["measured"])
    assert {"processor", "cores", "threads", "load_before", "python", "versions"} <= set(result["machine"])
    assert {"torch", "lightning", "numpy"} <= set(result["machine"]["versions"])
    assert result["rows"]
    for row in result["rows"]:
        assert set(row) == {"claim", "unit", "ours", "peer", "kind", "ratio", "goal", "rounds"}
        assert set(row["ours"]) == set(row["peer"]) == SIDE
        assert set(row["ratio"]) == SIDE - {"name"}
        assert row["rounds"] >= 1
        assert row["goal"] is None or len(row["goal"]) == 1
        for spread in (row["ours"], row["peer"], row["ratio"]):
            assert 0 < spread["low"] <= spread["median"] <= spread["high"]
        over, under = ("peer", "ours") if row["kind"] == "speedup" else ("ours", "peer")
        # Whatever the pairs were, no ratio of a pair can leave these bounds.
        assert row["ratio"]["low"] >= row[over]["low"] / row[under]["high"] * 0.999
        assert row["ratio"]["high"] <= row[over]["high"] / row[under]["low"] * 1.001


def test_the_make_file_runs_every_benchmark(scripts):
    makefile = (REPOSITORY / "Makefile").read_text()
    (left_out,) = re.findall(r"^BENCHMARKS := \$\(filter-out (.*?),", makefile, re.MULTILINE)
    assert set(re.findall(r"%/(\w+)\.py", left_out)) == NO_BENCHMARK | LONG
    (recipes,) = re.findall(r"^RECIPES := (.*)$", makefile, re.MULTILINE)
    assert recipes.split() == list(importlib.import_module("recipes").RECIPES)
    named = re.findall(r"`(\w+)\.py`", (SPEED / "README.md").read_text())
    assert set(SCRIPTS) <= set(named)


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_what_was_measured_has_the_common_shape(file):
    result = json.loads(file.read_text())
    script = file.stem.partition("-")[0]
    check(result, script)
    assert not result["tiny"]
    assert script in SCRIPTS


def test_the_tables_are_made_of_what_was_measured(scripts, tmp_path):
    _, summary = scripts
    copies = [tmp_path / "speed.md", tmp_path / "readme.md"]
    originals = [SPEED / "README.md", REPOSITORY / "docs" / "benchmarks.md"]
    for copy, original in zip(copies, originals, strict=True):
        copy.write_text(original.read_text())
    summary.main(["--out", str(tmp_path), "--readmes", *map(str, copies)])
    for copy, original in zip(copies, originals, strict=True):
        assert copy.read_text() == original.read_text()
    if (SPEED / "table.md").exists():
        assert (tmp_path / "table.md").read_text() == (SPEED / "table.md").read_text()


def result(measuring, command: str, rows: list, tmp_path: Path, *, tiny: bool = False) -> None:
    """A JSON of some rows, as its script would write it."""
    script = measuring.parser(command, "", rounds=3)
    measuring.publish(rows, measuring.read(script, ["--out", str(tmp_path), *(["--tiny"] if tiny else [])]))


def test_ratios_are_taken_pair_by_pair(scripts):
    measuring, _ = scripts
    found = {"ours": [1.0, 2.0, 4.0], "peer": [10.0, 40.0, 30.0]}
    fast = measuring.speedup("claim", found, "ours", "peer", at_least=20)
    assert (fast.ratio.low, fast.ratio.median, fast.ratio.high) == (7.5, 10.0, 20.0)  # not 30 / 2
    assert (fast.ours.median, fast.peer.median, fast.rounds, fast.goal) == (2.0, 30.0, 3, {"at_least": 20})
    part = measuring.share("claim", found, "ours", "peer", at_most=0.5)
    assert (part.ratio.low, part.ratio.median, part.ratio.high) == pytest.approx((0.05, 0.1, 4 / 30))
    limit = measuring.allowed("claim", [1.0, 3.0], 4.0)
    assert (limit.ratio.median, limit.peer.high, limit.goal) == (0.5, 4.0, {"at_most": 1.0})


def test_sides_take_turns_and_leave_no_trace(scripts, monkeypatch):
    import torch

    measuring, _ = scripts
    monkeypatch.setenv("KNOWN", "before")
    calls = []

    def side(name):
        def run():
            assert os.environ["KNOWN"] == "before"
            assert torch.tensor([1e-40]).mul(1).item() > 0  # denormal numbers are those of a fresh process
            os.environ["KNOWN"] = name
            torch.set_flush_denormal(True)
            calls.append(name)
            return float(len(calls))

        return run

    assert measuring.in_turns({"a": side("a"), "b": side("b")}, 2) == {"a": [3.0, 6.0], "b": [4.0, 5.0]}
    assert calls == ["b", "a", "a", "b", "b", "a"]
    calls.clear()
    assert measuring.in_turns({"a": side("a")}, 1, warm_up=0) == {"a": [1.0]}


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.714, "s", "1.71 s"),
        (0.0341, "s", "34.1 ms"),
        (2.5e-5, "s", "25.0 µs"),
        (12345.6, "images/s", "12,346 images/s"),
        (99.546, "%", "99.55 %"),
    ],
)
def test_figures_read_well(scripts, value, unit, text):
    assert scripts[0].figure(value, unit) == text


def test_a_table_names_figures_goals_and_commands(scripts, tmp_path):
    measuring, summary = scripts
    found = {"medvision": [1.0, 1.0, 2.0], "loop": [30.0, 50.0, 40.0]}
    rows = [
        measuring.speedup("no goal", found, "medvision", "loop"),
        measuring.speedup("reached", found, "medvision", "loop", at_least=20),
        measuring.share("missed", found, "loop", "medvision", at_most=1.05),
    ]
    result(measuring, "guard.py", rows, tmp_path)
    result(measuring, "loading.py", rows, tmp_path, tiny=True)
    results = summary.read(tmp_path)
    assert len(results) == 1  # what a tiny run writes is no measurement
    check(results[0], "guard")
    lines = summary.table(results).splitlines()
    first = "reached | 1.00 s | loop: 40.0 s | 30.0 x (20.0 to 50.0) | at least 20: met"
    assert lines[2] == f"| {first} | `python experiments/speed/guard.py` |"
    assert "| 30.0 (20.0 to 50.0) | at most 1.05: **not met** |" in lines[3]
    assert lines[4].startswith("| no goal |")
    assert results[0]["measured"] in lines[-1]
    assert "no goal" not in summary.table(results, goals_alone=True)
    assert summary.table([]) == summary.NOTHING


def test_the_summary_changes_what_stands_between_the_markers_alone(scripts, tmp_path):
    measuring, summary = scripts
    rows = [measuring.allowed("a limit", [0.2], 1.0)]
    result(measuring, "guard.py", rows, tmp_path)
    readmes = [tmp_path / "one.md", tmp_path / "other.md"]
    for readme in readmes:
        readme.write_text(f"before\n{summary.BEGIN}\nold\n{summary.END}\nafter\n")
    given = ["--results", str(tmp_path), "--out", str(tmp_path), "--readmes", *map(str, readmes)]
    summary.main(given)
    text = readmes[1].read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "| a limit |" in text
    assert "old" not in text
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    summary.main(given)
    assert readmes[1].read_text() == text
    with pytest.raises(ValueError, match="expected"):
        summary.between("no markers", "table")


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_runs_in_its_tiny_mode(name, tmp_path):
    if name in NEEDS and not (DATA / NEEDS[name]).exists():
        pytest.skip(f"needs {NEEDS[name]} below MEDVISION_DATA")
    if name == "keras_mnist" and not (REPOSITORY / ".venv-keras" / "bin" / "python").exists():
        pytest.skip("needs the environment that make bench-keras creates")
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(SPEED / f"{name}.py"),
        "--tiny",
        "--rounds",
        "1",
        "--out",
        str(tmp_path),
    ]
    environment = os.environ | {"MEDVISION_DATA": str(DATA), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob(f"{name}*.json")
    found = json.loads(file.read_text())
    check(found, name)
    assert found["tiny"]


def test_without_its_environment_the_keras_row_stays(scripts, tmp_path, monkeypatch, capsys):
    keras_mnist = importlib.import_module("keras_mnist")
    monkeypatch.setattr(keras_mnist, "PYTHON", tmp_path / "missing")
    keras_mnist.main(["--out", str(tmp_path)])
    sys.modules.pop("keras_mnist")
    assert "was not measured again" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())

import io
import json

import pytest
from rich.console import Console

from medvision.sweeps import jobs
from medvision.sweeps.jobs import Board, Command, Job


def of(*statuses):
    return [Job(f"run{number}", [f"seed={number}", "model=svm"], status) for number, status in enumerate(statuses)]


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (("finished", "skipped"), 0),
        (("finished", "findings"), 3),
        (("findings", "failed"), 1),
        (("finished", "interrupted"), 1),
        (("finished", "waiting"), 1),
    ],
)
def test_exit_code(statuses, code):
    assert jobs.exit_code(of(*statuses)) == code


def test_what_is_saved_is_loaded(tmp_path):
    written = of("finished", "failed")
    jobs.save(written, tmp_path)
    assert jobs.load(tmp_path) == written
    assert json.loads((tmp_path / "jobs.json").read_text())[1]["status"] == "failed"


@pytest.mark.parametrize(
    ("status", "checkpoint", "place"),
    [
        (None, False, "out"),
        ("running", False, "resume"),  # killed
        ("interrupted", True, "resume"),
        ("failed", True, "resume"),
        ("failed", False, "out"),
    ],
)
def test_a_run_that_was_begun_goes_on(tmp_path, status, checkpoint, place):
    folder = tmp_path / "it's"
    (folder / "checkpoints").mkdir(parents=True)
    if status:
        (folder / "run.json").write_text(json.dumps({"status": status}))
    if checkpoint:
        (folder / "checkpoints" / "last.ckpt").touch()
    command = Command("medvision.train", ("seed=1",), str(folder), ("--config-dir", "more"))
    escaped = str(folder).replace("'", "\\'")
    assert command.arguments() == ["seed=1", f"{place}='{escaped}'", "--config-dir", "more"]
    assert command.run.status == status


def test_what_all_jobs_share_is_not_shown():
    assert jobs.varying(of("waiting", "waiting")) == [["seed=0"], ["seed=1"]]
    assert jobs.varying(of("waiting")) == [[]]


def drawn(board):
    (console := Console(file=io.StringIO(), width=100)).print(board._table())
    return console.file.getvalue()


def test_the_table_shows_what_a_running_job_said_last(tmp_path):
    some = of("running", "finished", "waiting")
    some[0].folder = str(tmp_path / "run")
    (tmp_path / "run.log").write_text("x" * 9000 + "\nepoch 3/20  val/loss 0.1\n\n")
    board = Board(some, Console(file=io.StringIO(), force_terminal=True, width=100, height=30))
    assert board.is_live
    text = drawn(board)
    assert "epoch 3/20  val/loss 0.1" in text
    assert "xxx" not in text
    assert "1 running, 1 waiting, 1 finished" in text


def test_a_short_terminal_shows_what_runs():
    some = of(*["finished"] * 40, "running", "failed", *["waiting"] * 40)
    board = Board(some, Console(file=io.StringIO(), force_terminal=True, width=100, height=8))
    lines = [line.strip() for line in drawn(board).splitlines()]
    assert len(lines) <= 8
    assert any(line.startswith("40 ") and "running" in line for line in lines)
    assert any(line.startswith("41 ") and "failed" in line for line in lines)


def test_elsewhere_there_are_plain_lines_and_no_table():
    console = Console(file=io.StringIO(), width=100)
    with Board(of("running"), console) as board:
        assert not board.is_live
        board.say("[1/1] name=[x]")
        board.refresh()
    assert console.file.getvalue() == "[1/1] name=[x]\n"


def test_a_terminal_has_the_table_and_no_lines():
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=30)
    with Board(of("running"), console) as board:
        board.say("[1/1]")
        board.refresh()
    assert "running" in console.file.getvalue()
    assert "[1/1]" not in console.file.getvalue()

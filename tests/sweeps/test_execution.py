import json
import signal
import time
from pathlib import Path

import pytest

from medvision.errors import Interrupted, RunError
from medvision.sweeps.execution import Started, run
from medvision.sweeps.jobs import Command, Job


class Fake:
    """A way to start jobs whose endings a test decides: `ends[seed]` is an exit code."""

    def __init__(self, at_once=1):
        self.at_once, self.quiet = at_once, True
        self.batches, self.ends, self.stopped, self.queued = [], {}, [], set()

    def start(self, commands, quiet):
        names = [command.overrides[0] for command in commands]
        self.batches.append(names)
        return [self.one(name) for name in names]

    def one(self, name):
        def stop():
            self.stopped.append(name)
            self.ends[name] = 143

        return Started(lambda: self.ends.get(name), stop, lambda: name not in self.queued, f"id of {name}")


@pytest.fixture
def jobs(tmp_path):
    some = [Job(str(tmp_path / name), [name]) for name in "abcd"]
    return some, [Command("medvision.train", (job.overrides[0],), job.folder) for job in some]


def test_no_more_are_started_than_may_run(jobs, tmp_path):
    way = Fake(at_once=3)
    way.ends = dict.fromkeys("abcd", 0)
    run(*jobs, way, tmp_path)
    assert way.batches == [["a", "b", "c"], ["d"]]
    assert [job.status for job in jobs[0]] == ["finished"] * 4


def test_what_is_finished_is_not_started(jobs, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run.json").write_text('{"status": "finished"}')
    way = Fake(at_once=4)
    way.ends = {"a": 0, "c": 3, "d": -9}
    run(*jobs, way, tmp_path)
    assert way.batches == [["a", "c", "d"]]
    saved = json.loads((tmp_path / "jobs.json").read_text())
    assert [job["status"] for job in saved] == ["finished", "skipped", "findings", "failed"]
    assert [job["reason"] for job in saved] == [None, None, None, "killed by SIGKILL"]
    assert [job["submission"] for job in saved] == ["id of a", None, "id of c", "id of d"]


def test_a_signal_asks_all_that_run_to_stop_and_starts_no_more(jobs, tmp_path):
    way = Fake(at_once=2)
    way.queued = {"b"}
    whole = way.start

    def start(commands, quiet):
        started = whole(commands, quiet)
        signal.raise_signal(signal.SIGTERM)
        return started

    way.start = start
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stop:
        run(*jobs, way, tmp_path)
    assert stop.value.signum == signal.SIGTERM
    assert way.stopped == ["a", "b"]
    assert [job.status for job in jobs[0]] == ["interrupted", "interrupted", "waiting", "waiting"]
    assert jobs[0][1].seconds is None  # it never ran
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_bug_leaves_no_job_running(jobs, tmp_path):
    way = Fake(at_once=2)
    way.ends = {"a": 0}
    whole = way.start

    def start(commands, quiet):
        if way.batches:
            raise ZeroDivisionError
        return whole(commands, quiet)

    way.start = start
    with pytest.raises(ZeroDivisionError):
        run(*jobs, way, tmp_path)
    assert way.stopped == ["b"]


def test_the_time_in_a_queue_is_not_that_of_the_job(jobs, tmp_path):
    way = Fake(at_once=4)
    way.queued = {"a"}
    begin = time.monotonic()

    def poll():
        seen.append(json.loads((tmp_path / "jobs.json").read_text())[0]["status"])
        if time.monotonic() - begin > 0.6:
            way.queued.clear()
        return 0 if time.monotonic() - begin > 1 else None

    seen = []

    way.one = lambda name: Started(poll, print, lambda: name not in way.queued)
    run(*jobs, way, tmp_path)
    assert jobs[0][0].seconds < 0.6 < jobs[0][1].seconds
    assert list(dict.fromkeys(seen)) == ["waiting", "running"]


def test_a_folder_that_cannot_be_made(jobs, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"hydra\.sweep\.dir"):
        run(*jobs, Fake(), Path(tmp_path / "file" / "below"))

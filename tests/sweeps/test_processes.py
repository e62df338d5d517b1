import json
import multiprocessing
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medvision.errors import ConfigError
from medvision.sweeps import processes
from medvision.sweeps.jobs import Command
from medvision.sweeps.processes import Processes

needs_forkserver = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="this system has no fork server"
)

# Tells what a process can see of how it was started.
JOB = """
import atexit, json, os, signal, sys, threading, time
atexit.register(print, "left in order")
main = sys.modules["__main__"]
print(json.dumps({
    "arguments": sys.argv[1:], "program": sys.argv[0], "name": __name__, "spec": main.__spec__.name,
    "session": os.getsid(0) == os.getpid(), "folder": os.getcwd(),
    "environment": dict(os.environ),
    "int": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    "term": signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
    "blocked": [int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
}))
sys.stderr.write("complaint\\n")
code = sys.argv[1].removeprefix("seed=")
if code == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=lambda: (time.sleep(0.2), print("thread ended"))).start()  # outlives the main thread
if code == "words":
    sys.exit("words")
sys.exit(int(code))
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    (tmp_path / "what_it_sees.py").write_text(JOB)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return lambda seed: Command("what_it_sees", (f"seed={seed}",), str(tmp_path / f"run{seed}"))


def ended(started) -> int:
    deadline = time.monotonic() + 30
    while (code := started.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return code


@pytest.fixture
def interruptible():
    """Shells have what they start in the background ignore SIGINT, and new interpreters go on ignoring it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def start_by(monkeypatch, forked):
    methods = ["spawn", "forkserver"] if forked else ["spawn"]
    monkeypatch.setattr(processes.multiprocessing, "get_all_start_methods", lambda: methods)


@needs_forkserver
@pytest.mark.usefixtures("interruptible")
def test_a_fork_sees_what_a_new_interpreter_sees(command, monkeypatch):
    seen = {}
    for forked in (True, False):
        monkeypatch.setenv("MEDVISION_LATE", "set after the server was started")
        start_by(monkeypatch, forked)
        (started,) = Processes(n_jobs=2).start([command(0)], quiet=True)
        assert ended(started) == 0
        said = command(0).log.read_text().splitlines()
        command(0).log.unlink()
        # What went to a buffer, and what threads and atexit had to say, in this order, is not lost.
        assert "complaint" in said
        assert [line for line in said if line in ("thread ended", "left in order")] == ["thread ended", "left in order"]
        seen[forked] = json.loads(next(line for line in said if line.startswith("{")))
    environments = [one.pop("environment") for one in seen.values()]
    # Readline tells new programs the size of the terminal.
    assert {name for name, _ in set(environments[0].items()) ^ set(environments[1].items())} <= {"COLUMNS", "LINES"}
    assert seen[True] == seen[False]
    assert seen[True]["arguments"] == ["seed=0", f"out='{Path('run0').absolute()}'"]
    assert seen[True]["spec"] == "what_it_sees"
    assert seen[True]["session"]


@pytest.mark.parametrize("forked", [pytest.param(True, marks=needs_forkserver), False])
@pytest.mark.parametrize(("seed", "code"), [("0", 0), ("3", 3), ("143", 143), ("words", 1), ("kill", -9)])
def test_exit_codes(command, monkeypatch, forked, seed, code):
    start_by(monkeypatch, forked)
    (started,) = Processes(n_jobs=1).start([command(seed)], quiet=True)
    assert ended(started) == code


ALONE = """
from medvision.sweeps.jobs import Command
from medvision.sweeps.processes import Processes
import time
if __name__ == "__main__":
    (started,) = Processes(n_jobs=1).start([Command("what_it_sees", ("seed=0",), "run0")], quiet=False)
    while started.poll() is None:
        time.sleep(0.02)
"""


def test_stdout_of_a_job_alone_is_that_of_the_parent(command, tmp_path):
    (tmp_path / "alone.py").write_text(ALONE)
    done = subprocess.run([sys.executable, "alone.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert command(0).log.read_text() == "complaint\n"
    assert "thread ended" in done.stdout


def test_no_jobs_at_all():
    with pytest.raises(ConfigError, match="n_jobs=0"):
        Processes(n_jobs=0)

import json
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

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")

# Tells what a process can see of how it was started.
JOB = """
import atexit, json, os, signal, sys, threading, time
atexit.register(print, "left in order")
main = sys.modules["__main__"]
print(json.dumps({
    "arguments": sys.argv[1:], "program": sys.argv[0], "name": __name__, "spec": main.__spec__.name,
    "session": os.getsid(0) == os.getpid(), "parent": os.getppid(),
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


@pytest.mark.usefixtures("interruptible")
def test_a_fork_sees_what_a_new_interpreter_sees(command, monkeypatch):
    seen = {}
    for forked in (True, False):
        monkeypatch.setattr(processes, "may_fork", lambda forked=forked: forked)
        (started,) = Processes(n_jobs=2).start([command(0)], quiet=True)
        assert ended(started) == 0
        said = command(0).log.read_text().splitlines()
        command(0).log.unlink()
        # What went to a buffer, and what threads and atexit had to say, in this order, is not lost.
        assert "complaint" in said
        assert [line for line in said if line in ("thread ended", "left in order")] == ["thread ended", "left in order"]
        seen[forked] = json.loads(next(line for line in said if line.startswith("{")))
    assert seen[True] == seen[False]
    assert seen[True]["arguments"] == ["seed=0", f"out='{Path('run0').absolute()}'"]
    assert seen[True]["spec"] == "what_it_sees"
    assert seen[True]["session"]


@pytest.mark.parametrize("forked", [True, False])
@pytest.mark.parametrize(("seed", "code"), [("0", 0), ("3", 3), ("143", 143), ("words", 1), ("kill", -9)])
def test_exit_codes(command, monkeypatch, forked, seed, code):
    monkeypatch.setattr(processes, "may_fork", lambda: forked)
    (started,) = Processes(n_jobs=1).start([command(seed)], quiet=True)
    assert ended(started) == code


def test_stdout_of_a_job_alone_is_that_of_the_parent(command, monkeypatch, capfd):
    monkeypatch.setattr(processes, "may_fork", lambda: True)
    (started,) = Processes(n_jobs=1).start([command(0)], quiet=False)
    assert ended(started) == 0
    assert command(0).log.read_text() == "complaint\n"
    assert "thread ended" in capfd.readouterr().out


def test_no_jobs_at_all():
    with pytest.raises(ConfigError, match="n_jobs=0"):
        Processes(n_jobs=0)


def after(*lines: str) -> str:
    """What `may_fork` says in a new process that did something first."""
    script = "\n".join([*lines, "from medvision.sweeps.processes import may_fork", "print(may_fork())"])
    return subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def test_a_driver_that_a_fork_could_not_use(tmp_path):
    (tmp_path / "libcuda.so.1").write_bytes(b"x" * 4096)
    load = f"file = open({str(tmp_path / 'libcuda.so.1')!r}, 'rb')"
    assert after("import mmap", load, "loaded = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)") == "False"


def test_threads_that_a_fork_would_lose():
    assert after() == "True"
    assert after("import threading, time", "threading.Thread(target=time.sleep, args=(2,)).start()") == "False"


@pytest.mark.slow
def test_checking_a_config_starts_no_pool_of_threads_and_touches_no_gpu():
    check = [
        "import torch",
        "def refuse(): raise AssertionError('looks for a GPU')",
        "torch._C._cuda_getDeviceCount = torch._C._cuda_init = refuse",
        "from medvision.config import compose, options",
        "for name in options('experiment'): compose(f'experiment={name}')",
    ]
    assert after(*check) == "True"
    assert after(*check, "torch.set_num_threads(2)", "torch.ones(2**20).add_(1)") == "False"

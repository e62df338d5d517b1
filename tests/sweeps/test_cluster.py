import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import medvision
from medvision.config.compose import CONF_DIR
from medvision.errors import ConfigError
from medvision.sweeps import multirun as launcher
from medvision.sweeps.cluster import SubmititSlurm
from medvision.sweeps.multirun import multirun

submitit = pytest.importorskip("submitit", reason="needs submitit, the extra `cluster`")

# Stands for `python -m medvision.train`, and ends as its seed says.
JOB = """
import json, os, pathlib, signal, sys, time
values = dict(line.split("=", 1) for line in sys.argv[1:] if "=" in line)
with open("calls.txt", "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
folder = pathlib.Path((values.get("out") or values["resume"]).strip("'"))
folder.mkdir(parents=True, exist_ok=True)
def end(status, code):
    (folder / "run.json").write_text(json.dumps({"status": status}))
    sys.exit(code)
(folder / "run.json").write_text(json.dumps({"status": "running"}))
seed = values.get("seed", "0")
print(f"job {seed} speaks", [name for name in os.environ if name.startswith("SLURM_")], flush=True)
if seed == "1":
    sys.stderr.write("error: the folder is empty\\nput images into it\\n")
    end("failed", 2)
if seed == "9" and not pathlib.Path("go").exists():  # wait to be stopped
    def stop(signum, frame):
        with open("signals.txt", "a") as file:
            file.write(f"{signum}\\n")
        time.sleep(0.5)  # for a checkpoint
        end("interrupted", 143)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with open("ready", "a") as file:
        file.write("job\\n")
    time.sleep(60)
end("finished", 0)
"""

PARENT = """
from medvision.sweeps import multirun
from medvision.cli.entry import run_command
multirun.module = lambda name: "job"
multirun.compose = lambda *overrides, **_: None
if __name__ == "__main__":
    run_command("train", print)
"""

# A Slurm that runs every task of an array at once and knows of each whether it is pending, running, or over.
SBATCH = """
import os, pathlib, re, subprocess, sys
state = pathlib.Path(os.environ["FAKE_SLURM"])
text = pathlib.Path(sys.argv[1]).read_text()
(state / f"script{len(list(state.glob('script*')))}").write_text(text)
number = str(100 + len(list(state.glob("script*"))))
array = re.search(r"--array=0-(\\d+)", text)
for index in range(int(array[1]) + 1) if array else [None]:
    name = number if index is None else f"{number}_{index}"
    ids = {"SLURM_JOB_ID": number, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_PROCID": "0"}
    ids |= {"SLURM_NODEID": "0", "SLURM_LOCALID": "0", "FAKE_NAME": name}
    if index is not None:
        ids |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(index)}
    pending = (state / "full").exists()
    (state / f"{name}.state").write_text("PENDING" if pending else "RUNNING")
    if not pending:
        subprocess.Popen(["bash", sys.argv[1]], env=os.environ | ids, start_new_session=True,
                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("Submitted batch job", number)
"""
SRUN = """
import os, pathlib, subprocess, sys
state, name = pathlib.Path(os.environ["FAKE_SLURM"]), os.environ["FAKE_NAME"]
number, _, index = name.partition("_")
def path(text):
    for mark, value in (("%A", number), ("%a", index), ("%j", name), ("%t", "0")):
        text = text.replace(mark, value)
    return open(text, "a")
given = sys.argv[1:]
files = {}
while given[0].startswith("--"):
    flag = given.pop(0)
    if flag in ("--output", "--error"):
        files[flag] = path(given.pop(0))
process = subprocess.Popen(given, stdout=files["--output"], stderr=files["--error"])
(state / f"{name}.pid").write_text(str(process.pid))
code = process.wait()
last = (state / f"{name}.state").read_text()
(state / f"{name}.state").write_text("COMPLETED" if code == 0 else last if last != "RUNNING" else "FAILED")
"""
SACCT = """
import os, pathlib
print("JobID|State|NodeList")
for file in pathlib.Path(os.environ["FAKE_SLURM"]).glob("*.state"):
    print(f"{file.stem}|{file.read_text()}|node")
"""
# Like Slurm, it signals every process of the job.
SCANCEL = """
import os, pathlib, signal, sys
state, name = pathlib.Path(os.environ["FAKE_SLURM"]), sys.argv[1]
signum = signal.SIGUSR2 if "USR2" in sys.argv else signal.SIGTERM
if signum == signal.SIGTERM:
    (state / f"{name}.state").write_text("CANCELLED by 0")
file = state / f"{name}.pid"
def children(pid):
    for task in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(task.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid:
            yield from children(int(task.parent.name))
    yield pid
if file.exists():
    for pid in list(children(int(file.read_text()))):
        os.kill(pid, signum)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder in which jobs are those above."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "job.py").write_text(JOB)
    (tmp_path / "files" / "parent.py").write_text(PARENT)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(launcher, "module", lambda name: "job")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'files'}:{Path(medvision.__file__).parents[1]}")
    return tmp_path / "work"


@pytest.fixture
def slurm(folder, tmp_path, monkeypatch):
    """The programs of Slurm that submitit calls, and the folder of what they were told."""
    (tmp_path / "bin").mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT), ("scancel", SCANCEL)):
        program = tmp_path / "bin" / name
        program.write_text(f"#!{sys.executable}\n{text}")
        program.chmod(0o755)
    (tmp_path / "slurm").mkdir()
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path / "slurm"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path / "slurm"


def jobs(folder: Path) -> list[dict]:
    (file,) = folder.glob("multirun/*/*/jobs.json")
    return json.loads(file.read_text())


def calls() -> list[list[str]]:
    return [json.loads(line) for line in Path("calls.txt").read_text().splitlines()]


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def start(folder):
    """Start the command in a process of its own, and a group, as a shell does: `start("seed=9")` is a Popen."""
    running = []

    def run(*overrides):
        command = [sys.executable, str(folder.parent / "files" / "parent.py"), "-m", *overrides]
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, process_group=0))
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["local", "slurm"])
def test_jobs_run_fail_and_are_found_again(folder, slurm, way):
    command = [f"hydra/launcher=submitit_{way}", "seed=0,1,3", "hydra.launcher.n_jobs=2"]
    assert multirun("train", command, None) == 1
    found = jobs(folder)
    assert [job["status"] for job in found] == ["finished", "failed", "finished"]
    assert [job["exit_code"] for job in found] == [0, 2, 0]
    assert found[1]["reason"] == "the folder is empty put images into it"
    assert Path(found[2]["folder"] + ".log").read_text() == "job 3 speaks []\n"
    expected = [["seed=0", f"out='{found[0]['folder']}'"], ["seed=1", f"out='{found[1]['folder']}'"]]
    assert sorted(calls())[:2] == expected
    assert list(folder.glob("multirun/*/*/leaderboard.html"))
    Path("calls.txt").unlink()
    assert multirun("train", command, None) == 1
    assert calls() == expected[1:]
    assert [job["status"] for job in jobs(folder)] == ["skipped", "failed", "skipped"]
    # How jobs are started is no part of what they are: another way goes on with them.
    assert multirun("train", ["seed=0,1,3"], None) == 1
    assert [job["status"] for job in jobs(folder)] == ["skipped", "failed", "skipped"]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["local", "slurm"])
def test_a_signal_stops_all(start, folder, slurm, way):
    command = (f"hydra/launcher=submitit_{way}", "seed=9", "monitor=val/loss,val/auroc")
    process = start(*command)
    # Slurm runs both jobs at once, the local launcher one after the other.
    at_once = 1 if way == "local" else 2
    wait_for(lambda: Path("ready").exists() and len(Path("ready").read_text().split()) == at_once)
    time.sleep(0.2)
    os.killpg(process.pid, 2)  # as the terminal does: the processes of submitit are in the group too
    assert process.wait(60) == 130
    expected = ["interrupted", "waiting"] if way == "local" else ["interrupted"] * 2
    assert [job["status"] for job in jobs(folder)] == expected
    signals = Path("signals.txt").read_text().split()
    assert signals == ["15"] * expected.count("interrupted")  # one each: a second would have cut the checkpoint short
    Path("go").touch()
    assert multirun("train", list(command), None) == 0
    assert [job["status"] for job in jobs(folder)] == ["finished"] * 2
    assert [call[-1].partition("=")[0] for call in calls()][-2:].count("resume") == expected.count("interrupted")


def test_the_time_limit_ends_a_job_in_order(start, folder, slurm):
    """Slurm warns of it by SIGUSR2 to every process of the job."""
    process = start("hydra/launcher=submitit_slurm", "seed=9")
    wait_for(Path("ready").exists)
    time.sleep(0.2)
    subprocess.run(["scancel", jobs(folder)[0]["submission"], "--signal", "USR2"], check=True)
    assert process.wait(60) == 1
    assert Path("signals.txt").read_text().split() == ["15"]
    (job,) = jobs(folder)
    assert (job["status"], job["exit_code"]) == ("interrupted", 143)


def test_what_is_in_the_queue_is_not_submitted_again(start, folder, slurm):
    command = ("hydra/launcher=submitit_slurm", "seed=9", "monitor=val/loss,val/auroc")
    process = start(*command)
    wait_for(lambda: len(list(slurm.glob("*.pid"))) == 2 and Path("ready").exists())
    process.kill()
    process.wait()
    (file,) = folder.glob("multirun/*/*/jobs.json")
    written = file.stat().st_mtime_ns
    second = start(*command)
    wait_for(lambda: file.stat().st_mtime_ns > written)
    wait_for(lambda: [job["status"] for job in jobs(folder)] == ["running"] * 2)
    assert [job["submission"] for job in jobs(folder)] == ["101_0", "101_1"]
    time.sleep(0.5)
    second.terminate()
    assert second.wait(60) == 143
    assert len(list(slurm.glob("script*"))) == 1
    assert len(calls()) == 2
    assert [job["status"] for job in jobs(folder)] == ["interrupted"] * 2


def test_a_job_that_slurm_kills_is_reported(start, folder, slurm):
    process = start("hydra/launcher=submitit_slurm", "seed=9")
    wait_for(Path("ready").exists)
    (pid,) = slurm.glob("*.pid")
    pid.with_suffix(".state").write_text("OUT_OF_MEMORY")
    os.kill(int(pid.read_text()), 9)
    assert process.wait(60) == 1
    (job,) = jobs(folder)
    assert job["status"] == "failed"
    assert "OUT_OF_MEMORY" in job["reason"]


def test_a_job_cancelled_while_it_waits(start, folder, slurm):
    (slurm / "full").touch()
    process = start("hydra/launcher=submitit_slurm", "seed=9")
    wait_for(lambda: list(slurm.glob("*.state")))
    wait_for(lambda: jobs(folder)[0]["submission"])
    assert jobs(folder)[0]["status"] == "waiting"
    process.terminate()
    assert process.wait(60) == 143
    assert [job["status"] for job in jobs(folder)] == ["interrupted"]


def test_what_slurm_is_asked_for(folder, slurm):
    options = ["timeout_min=30", "cpus_per_task=3", "gpus_per_node=2", "mem_gb=7.5", "partition=gpu", "account=us"]
    options += ["qos=high", "constraint=a100", "setup=[module load cuda]"]
    settings = [*(f"hydra.launcher.{one}" for one in options), "+hydra.launcher.additional_parameters.reservation=x"]
    multirun("train", ["hydra/launcher=submitit_slurm", "seed=0,3,4", "hydra.launcher.n_jobs=2", *settings], None)
    text = (slurm / "script0").read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", text, re.MULTILINE))
    expected = {
        "array": "0-2%2",
        "time": "30",
        "cpus-per-task": "3",
        "gpus-per-node": "2",
        "mem": "7680MB",
        "partition": "gpu",
        "account": "us",
        "qos": "high",
        "constraint": "a100",
        "reservation": "x",
        "signal": "USR2@90",
        "job-name": "digits_small_cnn",
        "nodes": "1",
    }
    assert {name: asked.get(name) for name in expected} == expected
    assert text.index("\nmodule load cuda\n") < text.index("\nsrun ")


def test_slurm_is_asked_for_nothing_that_was_not_said(folder, slurm):
    multirun("train", ["hydra/launcher=submitit_slurm", "seed=0"], None)
    asked = set(re.findall(r"^#SBATCH --([\w-]+)", (slurm / "script0").read_text(), re.MULTILINE))
    assert asked.isdisjoint({"array", "gpus-per-node", "mem", "partition", "account", "qos", "constraint"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["n_jobs=0"], "n_jobs=0: expected a whole number >= 1"),
        (["timeout_min=0"], "timeout_min=0"),
        (["timeout_min=soon"], "hydra.launcher.timeout_min=soon does not fit: expected a whole number"),
        (["gpus_per_node=-1"], "gpus_per_node=-1: expected a whole number >= 0"),
        (["mem_gb=0"], "mem_gb=0"),
        (["setup=module"], "hydra.launcher.setup=module does not fit"),
        (["additional_parameters=3"], "does not fit"),
        (["partitoin=gpu"], "partitoin"),
    ],
)
def test_mistakes(folder, slurm, options, message):
    settings = [f"hydra.launcher.{one}" for one in options]
    with pytest.raises(ConfigError, match=re.escape(message)):
        multirun("train", ["hydra/launcher=submitit_slurm", "seed=0,1", *settings], None)
    assert list(folder.iterdir()) == []


def test_without_slurm_or_submitit(folder, monkeypatch):
    for way in ("slurm", "local"):
        with pytest.raises(ConfigError, match="srun was not found" if way == "slurm" else r"medvision\[cluster\]"):
            multirun("train", [f"hydra/launcher=submitit_{way}", "seed=0,1"], None)
        assert list(folder.iterdir()) == []
        monkeypatch.setitem(sys.modules, "submitit", None)


def test_every_option_of_slurm_is_in_its_file():
    file = CONF_DIR / "hydra" / "launcher" / "submitit_slurm.yaml"
    text = file.read_text()
    assert set(re.findall(r"^  (\w+): .* # ", text, re.MULTILINE)) | {"folder"} == {
        *SubmititSlurm.__init__.__annotations__,
        "dir",
    } - {"return"}


@pytest.mark.slow
def test_real_jobs_do_what_runs_alone_do(tmp_path):
    small = ("experiment=digits_cnn", "trainer.max_epochs=2", "evaluation.report=false", "evaluation.n_resamples=20")
    command = [sys.executable, "-m", "medvision.train", *small]
    local = [*command, "-m", "hydra/launcher=submitit_local", "hydra.launcher.n_jobs=2", "seed=0,1"]
    subprocess.run(local, stdout=subprocess.PIPE, check=True)
    subprocess.run([*command, "seed=1", "out=alone"], stdout=subprocess.PIPE, check=True)
    found = jobs(Path())
    assert [job["status"] for job in found] == ["finished"] * 2
    for name in ("metrics.json", "metrics.csv", "predictions/test.npz"):
        assert Path(found[1]["folder"], name).read_bytes() == Path("alone", name).read_bytes()
    result = subprocess.run(local, stdout=subprocess.PIPE, check=True)
    assert [job["status"] for job in jobs(Path())] == ["skipped"] * 2
    assert b"leaderboard" in result.stdout

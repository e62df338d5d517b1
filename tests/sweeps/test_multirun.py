import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

import medvision
from medvision.cli.entry import run_command
from medvision.errors import ConfigError
from medvision.sweeps import multirun as launcher
from medvision.sweeps import processes
from medvision.sweeps.multirun import multirun

# Stands for `python -m medvision.train`: notes what it was given, and ends as its seed says.
JOB = """
import json, pathlib, signal, sys, time
values = dict(line.split("=", 1) for line in sys.argv[1:] if "=" in line)
with open("calls.txt", "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
folder = pathlib.Path((values.get("out") or values["resume"]).strip("'"))
folder.mkdir(parents=True, exist_ok=True)
def end(status, code):
    (folder / "run.json").write_text(json.dumps({"status": status}))
    sys.exit(code)
seed = values.get("seed", "0")
print(f"job {seed} speaks", flush=True)
if seed == "1":
    sys.stderr.write("a warning\\nerror: the folder is empty\\nput images into it\\n")
    end("failed", 2)
if seed == "2":
    raise ValueError("a bug")
if seed == "7":  # wait for a job of the other seed to run at the same time
    pathlib.Path(values["monitor"].replace("/", "_")).touch()
    while len(list(pathlib.Path().glob("val_*"))) < 2:
        time.sleep(0.02)
if seed == "5" or "data.split_seed" in values:  # an audit with findings
    end("finished", 3)
if seed == "9":
    signal.signal(signal.SIGTERM, lambda *_: end("interrupted", 143))
    pathlib.Path("ready").touch()
    time.sleep(60)
    end("finished", 0)
end("finished", 0)
"""

# The command with the job above, and without the checks, which load torch.
PARENT = """
import multiprocessing
from medvision.sweeps import multirun
from medvision.cli.entry import run_command
multirun.module = lambda name: "job"
multirun.compose = lambda *overrides, **_: None
multiprocessing.get_all_start_methods = lambda: ["spawn"] + ["forkserver"] * {forked}
if __name__ == "__main__":
    run_command("train", print)
"""


@pytest.fixture(params=[True, False], ids=["forked", "spawned"])
def forked(request, monkeypatch):
    """Both ways to start a job."""
    known = multiprocessing.get_all_start_methods()
    if request.param and "forkserver" not in known:
        pytest.skip("this system has no fork server")
    monkeypatch.setattr(
        processes.multiprocessing, "get_all_start_methods", lambda: known if request.param else ["spawn"]
    )
    return request.param


@pytest.fixture
def folder(tmp_path, monkeypatch, forked):
    """An empty working folder in which jobs are those above."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "job.py").write_text(JOB)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(launcher, "module", lambda name: "job")
    monkeypatch.syspath_prepend(tmp_path / "files")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'files'}:{Path(medvision.__file__).parents[1]}")
    return tmp_path / "work"


def calls() -> list[list[str]]:
    file = Path("calls.txt")
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def jobs(folder: Path) -> list[dict]:
    (file,) = folder.glob("multirun/*/*/jobs.json")
    return json.loads(file.read_text())


def test_one_job_for_each_combination(folder, capfd):
    assert multirun("train", ["experiment=digits_cnn", "model=small_cnn,small_resnet", "seed=0,3"], None) == 0
    found = jobs(folder)
    assert [Path(job["folder"]).name for job in found] == [
        "0_model-small_cnn_seed-0",
        "1_model-small_cnn_seed-3",
        "2_model-small_resnet_seed-0",
        "3_model-small_resnet_seed-3",
    ]
    assert [job["status"] for job in found] == ["finished"] * 4
    assert calls() == [
        ["experiment=digits_cnn", f"model={model}", f"seed={seed}", f"out='{job['folder']}'"]
        for job, (model, seed) in zip(
            found, [("small_cnn", 0), ("small_cnn", 3), ("small_resnet", 0), ("small_resnet", 3)], strict=True
        )
    ]
    assert all(Path(job["folder"]).parts[:2] == ("multirun", "digits_cnn") for job in found)
    assert capfd.readouterr().err == ""
    # Hydra's own notes, and empty logs, are nowhere.
    kept = {file.name for file in folder.rglob("*") if file.is_file()}
    assert kept == {"calls.txt", "jobs.json", "run.json", "leaderboard.csv", "leaderboard.html"}


def test_a_failed_job_does_not_stop_the_others(folder, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["train", "-m", "seed=0,1,2,3"])
    with pytest.raises(SystemExit) as ending:
        run_command("train", print)
    assert ending.value.code == 1
    found = jobs(folder)
    assert [job["status"] for job in found] == ["finished", "failed", "failed", "finished"]
    assert [job["exit_code"] for job in found] == [0, 2, 1, 0]
    assert found[1]["reason"] == "the folder is empty put images into it"
    assert found[2]["reason"] == "ValueError: a bug"
    said = capfd.readouterr()
    assert "put images into it" in said.err  # as the job said it
    assert any(line.split()[:2] == ["1", "failed"] for line in said.out.splitlines())
    assert Path(found[1]["folder"] + ".log").read_text().startswith("a warning")


def test_findings_are_no_failure(folder):
    assert multirun("audit", ["data.split_seed=0,1"], None) == 3
    assert [job["status"] for job in jobs(folder)] == ["findings"] * 2
    assert not list(folder.rglob("leaderboard.*"))


def test_a_failure_outweighs_findings(folder):
    assert multirun("train", ["seed=5,1"], None) == 1
    assert [job["status"] for job in jobs(folder)] == ["findings", "failed"]


def test_the_same_command_finds_its_jobs_again(folder):
    command = ["seed=0,1,2,3"]
    assert multirun("train", command, None) == 1
    zero, one, two, three = (Path(job["folder"]) for job in jobs(folder))
    (zero / "run.json").write_text('{"status": "running"}')  # killed by SIGKILL
    (two / "checkpoints").mkdir(parents=True)
    (two / "checkpoints" / "last.ckpt").touch()
    (two / "run.json").write_text('{"status": "failed"}')
    Path("calls.txt").unlink()
    assert multirun("train", command, None) == 1
    assert [call[-1] for call in calls()] == [f"resume='{zero}'", f"out='{one}'", f"resume='{two}'"]
    assert jobs(folder)[3] | {"status": "skipped", "folder": str(three)} == jobs(folder)[3]


def test_the_folder_follows_from_what_is_asked(folder):
    multirun("train", ["seed=0", "model=small_cnn"], None)
    multirun("train", ["model=small_cnn", "seed=0", "hydra.launcher.n_jobs=2"], None)
    assert len(list(folder.glob("multirun/*/*"))) == 1
    multirun("train", ["seed=4", "hydra.sweep.dir=elsewhere"], None)
    assert len(list(folder.glob("elsewhere/digits_small_cnn/*/jobs.json"))) == 1


def test_jobs_at_the_same_time_have_a_log_each(folder, capfd):
    assert multirun("train", ["seed=7", "monitor=val/loss,val/auroc", "hydra.launcher.n_jobs=2"], None) == 0
    for job in jobs(folder):
        assert Path(job["folder"] + ".log").read_text() == "job 7 speaks\n"
    assert "speaks" not in capfd.readouterr().out


def test_jobs_know_the_folder_of_further_files(folder, tmp_path):
    (tmp_path / "more" / "experiment").mkdir(parents=True)
    (tmp_path / "more" / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 5\n")
    assert multirun("train", ["experiment=mine"], str(tmp_path / "more")) == 0
    assert calls()[0][-2:] == ["--config-dir", str(tmp_path / "more")]
    with pytest.raises(ConfigError, match="experiment=mine"):
        multirun("train", ["experiment=mine"], None)


@pytest.mark.parametrize("forked", [True], indirect=True)
@pytest.mark.parametrize(
    "overrides",
    [
        ["model=small_cnn,smal_resnet"],
        ["trainer.max_epochs=1,0"],
        ["trainer.max_epoch=1,2"],
        ["experiment=digits_cnn,nothing"],
        ["data=digits,image_folder"],
        ["seed=0,1", "out=here"],
        ["seed=0,1", "resume=auto"],
        ["seed=0,1", "hydra.launcher.n_jobs=0"],
        ["seed=0,1", "hydra.launcher.njobs=2"],
        ["seed=0,1", "++hydra.launcher.njobs=2"],
        ["seed=0,1", "hydra.launcher.n_jobs=two"],
        ["seed=0,1", "++hydra.launcher.folder=here"],
        ["seed=0,1", "hydra.sweeper.max_batch_size=1"],
        ["seed=0,1", "hydra/launcher=basic"],
        ["seed=0,1", "hydra.searchpath=[pkg://evil]"],
    ],
)
def test_one_mistake_and_nothing_is_started(folder, overrides):
    with pytest.raises(ConfigError) as caught:
        multirun("train", overrides, None)
    assert len(str(caught.value).splitlines()) <= 3
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("forked", [True], indirect=True)
@pytest.mark.parametrize(
    "override",
    [
        "hydra.launcher._target_=os.system",
        "hydra.sweeper._target_=subprocess.Popen",
        "++hydra.callbacks.x._target_=medvision.config.compose.os.system",
        "++hydra.callbacks.x._target_=medvision.data.decode.os.system",
        "++hydra.callbacks.x={a: {_target_: builtins.eval}}",
        "++model.x._target_=torch.load",
    ],
)
def test_evil_targets_do_not_run(folder, monkeypatch, override):
    with pytest.raises(ConfigError, match=r"not allowed|no _target_ belongs here"):
        multirun("train", ["seed=0,1", override], None)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("forked", [True], indirect=True)
def test_an_evil_experiment_does_not_run(folder, tmp_path):
    (tmp_path / "more" / "experiment").mkdir(parents=True)
    marker = tmp_path / "marker"
    (tmp_path / "more" / "experiment" / "evil.yaml").write_text(
        f"# @package _global_\nhydra:\n  callbacks:\n    x: {{_target_: os.system, command: touch {marker}}}\n"
    )
    for overrides in (["experiment=evil", "seed=0,1"], ["experiment=digits_cnn,evil"]):
        with pytest.raises(ConfigError, match="not allowed"):
            multirun("train", overrides, str(tmp_path / "more"))
    assert not marker.exists()
    assert list(folder.iterdir()) == []


@pytest.fixture
def script(folder, tmp_path, forked):
    """The command in a file of its own."""
    (tmp_path / "files" / "parent.py").write_text(PARENT.format(forked=forked))
    return [sys.executable, str(tmp_path / "files" / "parent.py"), "-m"]


@pytest.fixture
def parent(script):
    """The command in a process of its own, whose first job waits to be stopped."""
    process = subprocess.Popen([*script, "seed=9", "monitor=val/loss,val/auroc"], stdout=subprocess.DEVNULL)
    wait_for(Path("ready").exists)
    yield process
    process.kill()
    process.wait()


def wait_for(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def status_of_first(folder: Path) -> str | None:
    found = list(folder.glob("multirun/*/*/0_*/run.json"))
    return json.loads(found[0].read_text())["status"] if found and found[0].read_text() else None


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_all(folder, parent, signum, code):
    parent.send_signal(signum)
    assert parent.wait(30) == code
    assert status_of_first(folder) == "interrupted"  # the job could end in order
    assert [job["status"] for job in jobs(folder)] == ["interrupted", "waiting"]
    assert len(calls()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_jobs_do_not_outlive_a_killed_parent(folder, parent):
    parent.kill()
    wait_for(lambda: status_of_first(folder) == "interrupted")
    assert len(calls()) == 1


def test_a_terminal_shows_the_table_and_a_log_what_its_job_says(folder, script):
    reader, terminal = os.openpty()
    process = subprocess.Popen([*script, "seed=0,3"], stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # how Linux tells that nobody writes to a terminal any more
        while part := os.read(reader, 4096):
            shown += part
    os.close(reader)
    assert process.wait(30) == 0
    assert [Path(job["folder"] + ".log").read_text() for job in jobs(folder)] == ["job 0 speaks\n", "job 3 speaks\n"]
    assert b"last line" in shown
    assert b"speaks\r\n" not in shown


SMALL = ("trainer.max_epochs=3", "evaluation.robustness=false", "evaluation.n_resamples=100")


@pytest.mark.slow
def test_a_job_does_what_a_run_alone_does(tmp_path):
    """Bit for bit, for the second job too, whatever the first one may have left."""
    arguments = [sys.executable, "-m", "medvision.train", "experiment=digits_cnn", *SMALL]
    subprocess.run([*arguments, "-m", "seed=0,1"], stdout=subprocess.PIPE, check=True)
    for job, seed in zip(jobs(Path()), (0, 1), strict=True):
        subprocess.run([*arguments, f"seed={seed}", f"out=alone{seed}"], stdout=subprocess.PIPE, check=True)
        together, alone = Path(job["folder"]), Path(f"alone{seed}")
        assert {file.name for file in together.iterdir()} == {file.name for file in alone.iterdir()}
        for name in ("metrics.json", "metrics.csv", "splits.csv", "predictions/test.npz", "model/weights.safetensors"):
            assert (together / name).read_bytes() == (alone / name).read_bytes(), name
        run = json.loads((together / "run.json").read_text())
        assert Path(run["command"][0]).name == "train.py"
        assert run["command"][-1] == f"out='{job['folder']}'"


@pytest.mark.slow
def test_a_job_can_start_processes_of_its_own(tmp_path):
    options = ("trainer.strategy=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "evaluation.report=false")
    arguments = [sys.executable, "-m", "medvision.train", "-m", "experiment=digits_cnn", "seed=0,1", *SMALL, *options]
    subprocess.run(arguments, stdout=subprocess.PIPE, check=True)
    assert [job["status"] for job in jobs(Path())] == ["finished"] * 2
    for job in jobs(Path()):
        assert len(Path(job["folder"], "metrics.csv").read_text().splitlines()) == 4


@pytest.mark.slow
def test_a_killed_multirun_goes_on_where_it_was(tmp_path, monkeypatch):
    """With real jobs: what was finished is skipped, what was interrupted resumes, and all end alike."""
    monkeypatch.chdir(tmp_path)
    small = ("trainer.max_epochs=20", "trainer.limit_train_batches=5", "evaluation.report=false")
    small += ("evaluation.robustness=false", "evaluation.n_resamples=100")
    arguments = [sys.executable, "-m", "medvision.train", "-m", "experiment=digits_cnn", "seed=0,1", *small]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 180
    while not list(tmp_path.glob("multirun/*/*/1_*/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    (second,) = tmp_path.glob("multirun/*/*/1_*/run.json")
    wait_for(lambda: json.loads(second.read_text())["status"] == "interrupted")
    result = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 0
    assert [job["status"] for job in jobs(tmp_path)] == ["skipped", "finished"]
    assert "Restored" in (second.parent / "train.log").read_text()
    rows = (second.parent / "metrics.csv").read_text().splitlines()
    assert len(rows) == 21
    assert (second.parents[1] / "leaderboard.csv").read_text().count(",finished,") == 1

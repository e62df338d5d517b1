import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import medvision
from medvision.cli.entry import run_command
from medvision.config.compose import options
from medvision.errors import DataError, Interrupted

ROOT = Path(medvision.__file__).parents[1]


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run a command in an empty folder, in this process, and return its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str, task=lambda cfg: None) -> int:
        monkeypatch.setattr(sys, "argv", ["medvision.train", *argv])
        with pytest.raises(SystemExit) as ending:
            run_command("train", task)
        return ending.value.code

    return run


def python(*arguments: str, cwd: Path, **kwargs) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, **kwargs
    )


def test_the_task_gets_the_checked_config(command, tmp_path):
    seen = []
    assert command("seed=3", "experiment=digits_cnn", task=seen.append) == 0
    assert (seen[0].seed, seen[0].choices.experiment) == (3, "digits_cnn")
    assert list(tmp_path.iterdir()) == []


def failing(error):
    def task(cfg):
        raise error

    return task


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("the folder is empty: x\nput images into it"), 2),
        (Interrupted(signal.SIGTERM), 143),
        (Interrupted(signal.SIGINT), 130),
        (KeyboardInterrupt(), 130),
    ],
)
def test_endings_become_exit_codes(command, capsys, error, code):
    assert command(task=failing(error)) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == ("error: the folder is empty: x\nput images into it\n" if code == 2 else "")


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["medvision.train"])
    with pytest.raises(ZeroDivisionError):
        run_command("train", failing(ZeroDivisionError()))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trainer.max_epoch=3"], "Did you mean trainer.max_epochs?"),
        (["experiment=nothing"], "Choose from"),
        (["model._target_=os.system"], "not allowed"),
        (["seed=0,1"], "add -m"),
        (["--nothing"], "--nothing is not an option."),
        (["--cfg", "hydra"], "invalid choice"),
        (["--config-dir", "nowhere"], "no such folder"),
        (["--config-dir"], "expected one argument"),
    ],
)
def test_mistakes_end_with_two(command, capsys, tmp_path, argv, words):
    assert command(*argv, task=failing(AssertionError("the task was called"))) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert words in said.err
    assert len(said.err.splitlines()) <= 3
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_cfg_prints_the_config_and_runs_nothing(command, capsys):
    assert command("--cfg", "job", "seed=7", task=failing(AssertionError())) == 0
    assert OmegaConf.create(capsys.readouterr().out).seed == 7


def test_options_may_stand_between_overrides(command, capsys):
    assert command("seed=7", "--cfg", "job", "out=x") == 0
    cfg = OmegaConf.create(capsys.readouterr().out)
    assert (cfg.seed, cfg.out) == (7, "x")


def test_version(command, capsys):
    assert command("--version") == 0
    assert capsys.readouterr().out.split() == ["medvision", medvision.__version__]


def test_help_lists_what_there_is(command, capsys):
    assert command("--help") == 0
    text = capsys.readouterr().out
    for group in ("data", "model", "augmentation", "optimizer", "scheduler", "trainer", "logger", "experiment"):
        for option in options(group):
            assert option in text
    for words in ("medvision train experiment=digits_cnn", "--multirun", "trainer.max_epochs"):
        assert words in text
    described = [line for line in text.splitlines() if line.startswith("  digits_cnn ")]
    assert len(described[0].split()) > 3
    assert len(text.splitlines()) < 50


def test_help_and_import_are_light(tmp_path):
    script = (
        "import sys, medvision, medvision.train\n"
        "sys.argv = ['train', '--help']\n"
        "try:\n    medvision.train.main()\n"
        "except SystemExit as ending:\n    assert ending.code == 0\n"
        "heavy = {'torch', 'lightning', 'sklearn', 'pandas', 'cv2'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = python("-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_plain_mistake_is_found_before_torch_is_loaded(tmp_path):
    script = (
        "import sys, medvision.train\n"
        "sys.argv = ['train', 'sed=1']\n"
        "try:\n    medvision.train.main()\n"
        "except SystemExit as ending:\n    assert ending.code == 2\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert python("-c", script, cwd=tmp_path).returncode == 0


def test_the_module_runs_from_a_foreign_folder(tmp_path):
    done = python("-m", "medvision.train", "model=smal_cnn", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Did you mean small_cnn" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_is_no_bug(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "medvision.train", "--help"],
        cwd=tmp_path,
        env=environment,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_names_of_the_package_load_on_first_use():
    assert medvision.compose is sys.modules["medvision.config.compose"].compose
    assert callable(medvision.load)
    with pytest.raises(AttributeError, match="nothing"):
        medvision.nothing  # noqa: B018

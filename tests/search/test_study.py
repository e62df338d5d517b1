"""A search over a real PostgreSQL, of its own: it is made for these tests in a folder of its own, and stopped after."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pytest

from medvision.cli.entry import run_command
from medvision.tune import tune

optuna = pytest.importorskip("optuna")
PASSWORD = "s3cret/@:"
SMALL = (
    *("experiment=digits_cnn", "~search.model", "~search.augmentation", "trainer.limit_train_batches=3"),
    *("trainer.max_epochs=2", "pruner.min_epochs=1", "trainer.accelerator=cpu"),
)
FOLDER = Path("outputs/tune/digits_cnn")


class Server:
    """A PostgreSQL server on a port of this machine that was free."""

    def __init__(self, binaries: Path, folder: Path, owner: dict[str, str]) -> None:
        self._binaries, self._folder, self._owner = binaries, folder, owner
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "password").write_text(PASSWORD)
        for path in (folder, folder / "password"):
            if owner:
                shutil.chown(path, **owner)
        self._run(
            "initdb", "--username=me", "--auth=scram-sha-256", "--pwfile=password", "--no-sync", "--encoding=UTF8"
        )

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://me:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run("pg_ctl", "--wait", "--log=log", f"--options={options}", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "--wait", "--mode=immediate", "stop")

    def _run(self, name: str, *arguments: str) -> None:
        command = [self._binaries / name, "-D", "data", *arguments]
        user = {"user": self._owner["user"], "group": self._owner["group"], "extra_groups": []} if self._owner else {}
        # Not through pipes: the server would inherit them, and keep them open.
        with tempfile.TemporaryFile() as said:
            code = subprocess.run(command, cwd=self._folder, stdout=said, stderr=said, check=False, **user).returncode
            said.seek(0)
            assert code == 0, said.read().decode()


@pytest.fixture(scope="module")
def server():
    """Running; PostgreSQL refuses to run as root, and then it runs as the user that Debian makes for it."""
    pytest.importorskip("psycopg", reason="needs the extra postgres")
    found = [Path(one) for one in [shutil.which("initdb")] if one] + sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb")
    )
    if not found:
        pytest.skip("needs the programs of PostgreSQL")
    owner = {}
    if os.geteuid() == 0:
        names = {one.pw_name for one in pwd.getpwall()} & {"postgres"}
        if not names:
            pytest.skip("needs the user postgres: the server does not run as root")
        owner = {"user": "postgres", "group": "postgres"}
    # Not below pytest's own folder, which other users cannot enter; and short, for the socket.
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        running = Server(found[-1].parent, Path(folder), owner)
        running.start()
        yield running
        running.stop()


def process(*overrides, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "medvision.tune", *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment | {"COLUMNS": "200"},
    )


def trials_of(server, name):
    storage = optuna.storages.RDBStorage(server.url)
    found = optuna.load_study(study_name=name, storage=storage).trials
    storage.engine.dispose()
    return found


def states(server, name):
    return [(trial.number, trial.state.name) for trial in trials_of(server, name)]


@pytest.mark.slow
def test_two_workers_share_a_study_in_a_database(server):
    command = (*SMALL, f"storage={server.url}")
    workers = [process(*command, "n_trials=5") for _ in range(2)]
    said = [worker.communicate(timeout=400)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    trials = trials_of(server, "digits_cnn")
    assert [trial.number for trial in trials] == list(range(5))
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    # Each trained by one of the two, and neither idle.
    lines = [[line for line in text.splitlines() if line.startswith("trial ")] for text in said]
    assert sorted(int(line.split()[1]) for line in [*lines[0], *lines[1]]) == list(range(5))
    assert all(lines)
    assert pd.read_csv(FOLDER / "trials.csv")["trial"].sort_values().tolist() == list(range(5))
    # Nothing is in the folder but the trials' own; the password is neither said nor written.
    assert not (FOLDER / "study.db").exists()
    written = [
        file.read_text() for file in FOLDER.rglob("*") if file.suffix in (".yaml", ".html", ".csv", ".json", ".log")
    ]
    assert len(written) > 15
    for password in (PASSWORD, quote(PASSWORD, safe="")):
        assert not [text for text in [*said, *written] if password in text]
    assert "me:***@127.0.0.1" in (FOLDER / "experiment" / "best.yaml").read_text()

    # The same command has nothing left to do, with more trials it goes on; the password may be in the environment.
    again = process(
        *SMALL, f"storage=postgresql+psycopg://me@127.0.0.1:{server.port}/postgres", "n_trials=6", PGPASSWORD=PASSWORD
    )
    said = again.communicate(timeout=400)[0]
    assert again.returncode == 0, said
    assert [line.split()[1] for line in said.splitlines() if line.startswith("trial ")] == ["5"]
    assert [(trial.params, trial.value) for trial in trials_of(server, "digits_cnn")[:5]] == [
        (trial.params, trial.value) for trial in trials
    ]


@pytest.mark.slow
def test_a_database_that_is_lost_ends_the_command_and_costs_no_trial(server):
    command = (
        *SMALL,
        f"storage={server.url}",
        "study=lost",
        "n_trials=2",
        "trainer.max_epochs=30",
        "pruner.min_epochs=40",
    )
    running = process(*command)
    table, deadline = Path("outputs/tune/lost/trials/1/metrics.csv"), time.monotonic() + 300
    try:
        while not table.exists() or len(table.read_text().splitlines()) < 3:
            assert time.monotonic() < deadline
            assert running.poll() is None, running.communicate()
            time.sleep(0.01)
        server.stop()
        said = running.communicate(timeout=120)[0]
    finally:
        running.kill()
        server.start()
    assert running.returncode == 2, said
    assert "The same command continues" in said
    assert "Traceback" not in said
    assert quote(PASSWORD, safe="") not in said
    assert states(server, "lost") == [(0, "COMPLETE"), (1, "RUNNING")]
    again = process(*command)
    said = again.communicate(timeout=400)[0]
    assert again.returncode == 0, said
    assert states(server, "lost") == [(0, "COMPLETE"), (1, "COMPLETE")]
    assert "Restored" in Path("outputs/tune/lost/trials/1/train.log").read_text()


@pytest.fixture
def ending(monkeypatch, capfd):
    def run(*overrides):
        monkeypatch.setattr(sys, "argv", ["medvision.tune", "experiment=digits_cnn", *overrides])
        with pytest.raises(SystemExit) as end:
            run_command("tune", tune)
        return end.value.code, capfd.readouterr().err

    return run


@pytest.mark.slow
def test_a_server_that_is_down_or_refuses_is_told(server, ending):
    """Nobody listens at the first; the second does not know the password."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        for url in (server.url.replace(str(server.port), str(port)), server.url.replace("s3cret", "wr0ng")):
            code, said = ending(f"storage={url}")
            assert code == 2
            assert "cannot be used" in said
            assert "of a server that runs" in said
            assert "me:***@" in said
            assert not [password for password in ("s3cret", "wr0ng") if password in said]
            assert len(said.splitlines()) <= 4


def test_a_missing_driver_is_told(ending, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    code, said = ending("storage=postgresql+psycopg://me:secret@127.0.0.1/study")
    assert code == 2
    assert "pip install 'medvision[postgres]'" in said
    assert "secret" not in said

import json
import re
import signal
import time

import numpy as np
import pandas as pd
import pytest

from medvision.metrics.predictions import Predictions

CONFIG = (
    "experiment=digits_cnn",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=2",
    "evaluation.n_resamples=20",
    "checkpoint.every_n_steps=5",
)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(start, tmp_path):
    """The same global batches, so the same steps up to rounding; 143 validation images do not halve evenly."""
    for devices in (1, 2):
        strategy = "trainer.strategy=ddp" if devices == 2 else "trainer.strategy=auto"
        process = start(*CONFIG, f"trainer.devices={devices}", strategy, f"out={tmp_path / str(devices)}")
        output, _ = process.communicate(timeout=150)
        assert process.returncode == 0, output
    one, two = (pd.read_csv(tmp_path / str(devices) / "metrics.csv") for devices in (1, 2))
    pd.testing.assert_frame_equal(one, two, rtol=2e-2, atol=1e-2)
    a, b = (Predictions.load(tmp_path / str(devices) / "predictions" / "test.npz") for devices in (1, 2))
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_allclose(a.probs, b.probs, atol=0.05)
    assert {path.name for path in (tmp_path / "2").iterdir()} == {path.name for path in (tmp_path / "1").iterdir()}


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_refused_by_every_process(start, tmp_path):
    options = ("trainer.strategy=ddp", "trainer.devices=2", "data.batch_size=33", f"out={tmp_path / 'run'}")
    process = start(*CONFIG, *options)
    output, _ = process.communicate(timeout=150)
    assert process.returncode == 2, output
    assert re.search("does not divide among 2 processes", output)


@pytest.mark.slow
def test_a_signal_stops_both_processes_and_the_run_goes_on(start, tmp_path):
    options = ("trainer.strategy=ddp", "trainer.devices=2", "trainer.max_epochs=40", f"out={tmp_path / 'run'}")
    process = start(*CONFIG, *options)
    deadline = time.monotonic() + 120
    table = tmp_path / "run" / "metrics.csv"
    while not (table.exists() and len(table.read_text().splitlines()) > 2):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert "medvision train resume=" in output
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"

import shutil

import numpy as np
import pytest

from medvision.errors import ConfigError
from medvision.metrics.predictions import Predictions
from medvision.training import trainer as compilation
from medvision.training.trainer import check_compiler


def test_compilation_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler; found none"):
        check_compiler("cpu")


def test_a_compiler_that_is_named_and_not_there_is_said_by_name(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="no-such-compiler"):
        check_compiler("cpu")


def test_a_gpu_needs_triton(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(compilation, "find_spec", lambda name: None)
    check_compiler("cpu")
    with pytest.raises(ConfigError, match="needs the package triton"):
        check_compiler("cuda")


def test_nothing_is_left_behind_when_there_is_no_compiler(train, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    ending = train("experiment=digits_cnn", "compile=true", f"out={tmp_path / 'run'}")
    assert ending.code == 2
    assert "needs a C++ compiler" in ending.err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # of torch's compiler about itself
def test_a_compiled_run_learns_what_an_eager_one_learns(train, tmp_path):
    settings = ["experiment=digits_cnn", "trainer.max_epochs=2", "evaluation.robustness=false", "ema.decay=0.5"]
    logits = []
    for compiled in ("false", "true"):
        ending = train(*settings, f"compile={compiled}", f"out={tmp_path / compiled}")
        assert ending.code == 0, ending.err
        logits.append(Predictions.load(tmp_path / compiled / "predictions" / "test.npz").logits)
    np.testing.assert_allclose(*logits, rtol=0.05, atol=0.05)

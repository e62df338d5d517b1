import subprocess
import sys

import pytest

import medvision
from medvision.errors import BundleError, ConfigError
from medvision.inference.onnx import OnnxPredictor
from medvision.inference.predictor import Predictor


def test_a_bundle_and_a_run_directory_are_opened(bundle, tmp_path):
    assert isinstance(medvision.load(bundle), Predictor)
    assert medvision.load(str(tmp_path)).class_names[1] == "glioma"


@pytest.mark.parametrize("name", ["model.onnx", "MODEL.ONNX"])
@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_an_onnx_file_is_opened(onnx_path, name, device):
    path = onnx_path.rename(onnx_path.with_name(name))

    assert isinstance(medvision.load(path, device), OnnxPredictor)


def test_an_onnx_file_stays_on_the_cpu(onnx_path):
    with pytest.raises(ConfigError, match="an ONNX file runs on the CPU"):
        medvision.load(onnx_path, "cuda")


def test_what_is_neither_is_refused(tmp_path):
    with pytest.raises(BundleError, match="no bundle in"):
        medvision.load(tmp_path / "nowhere")


def test_loading_is_ready_without_torch():
    script = "import sys, medvision; medvision.load; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

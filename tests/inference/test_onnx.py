import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from scipy.special import softmax

from medvision.errors import BundleError, ConfigError, DataError
from medvision.inference import onnx as onnx_predictor
from medvision.inference.onnx import OnnxPredictor
from medvision.inference.seal import seal

pytest.importorskip("onnxruntime")


@pytest.fixture
def predictor(onnx_path):
    return OnnxPredictor(onnx_path)


def test_it_knows_all_that_the_bundle_knew(predictor):
    assert predictor.class_names == ("no tumour", "glioma", "ménière")
    assert predictor.decode == {"size": (12, 16), "channels": 1, "resize": "letterbox"}
    assert predictor.decision.temperature == 1.7
    assert predictor.decision.operating_point.threshold == 0.3
    assert predictor.decision.conformal == {"coverage": 0.9, "quantile": 0.8}
    assert predictor.decision.ood is None
    assert predictor.facts["medvision"] == "0.0.0"


@pytest.mark.parametrize("n", [1, 2, 15, 70])
def test_it_predicts_as_the_network_does_in_evaluation_mode(predictor, onnx_content, images, n):
    network = onnx_content[1].eval()
    with torch.no_grad():
        logits, embeddings = network(torch.from_numpy(images)).numpy(), network.embed(torch.from_numpy(images)).numpy()

    probs = predictor.predict_probs(images[:n])

    assert probs.dtype == np.float64
    np.testing.assert_allclose(probs, softmax(logits.astype(np.float64) / 1.7, axis=1)[:n], atol=1e-6)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-15)
    np.testing.assert_allclose(predictor.embed(images[:n]), embeddings[:n], atol=1e-5)
    assert predictor.embed(images[:n]).dtype == np.float32


@pytest.mark.parametrize("batch_size", [None, 16, 20, 69, 70, 1000])
def test_the_same_images_give_the_same_bits_however_many_are_passed(predictor, images, batch_size):
    whole = predictor.predict_probs(images)

    np.testing.assert_array_equal(predictor.predict_probs(images, batch_size), whole)
    np.testing.assert_array_equal(predictor.predict_probs(images[:37], batch_size), whole[:37])
    np.testing.assert_array_equal(predictor.predict_probs(images[::-1], batch_size), whole[::-1])


def test_no_images_give_no_rows(predictor):
    nothing = np.zeros((0, 1, 12, 16), np.uint8)

    assert predictor.predict_probs(nothing).shape == (0, 3)
    assert predictor.embed(nothing).shape == (0, 16)


def test_memory_mapped_read_only_images_are_read_in_place(predictor, images, tmp_path):
    np.save(tmp_path / "images.npy", images)

    found = predictor.predict_probs(np.load(tmp_path / "images.npy", mmap_mode="r"), batch_size=32)

    np.testing.assert_array_equal(found, predictor.predict_probs(images))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 1, 12, 16), np.float32),
        np.zeros((2, 3, 12, 16), np.uint8),
        np.zeros((2, 1, 16, 12), np.uint8),
        np.zeros((1, 12, 16), np.uint8),
    ],
)
def test_images_of_another_kind_are_refused(predictor, wrong):
    with pytest.raises(DataError, match=r"expected images as uint8 \(N, 1, 12, 16\); found"):
        predictor.predict_probs(wrong)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BundleError, match=r"nowhere\.onnx cannot be read: No such file"):
        OnnxPredictor(tmp_path / "nowhere.onnx")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(BundleError, match="Is a directory"):
        OnnxPredictor(tmp_path)


def test_a_damaged_file_is_refused(onnx_path):
    content = bytearray(onnx_path.read_bytes())
    content[len(content) // 2] ^= 1
    onnx_path.write_bytes(content)

    with pytest.raises(BundleError, match=r"model\.onnx was changed after it was written"):
        OnnxPredictor(onnx_path)


def test_an_onnx_file_of_another_program_is_refused_with_the_remedy(onnx_content, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(onnx_content[0])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")

    with pytest.raises(BundleError, match=r"(?s)other\.onnx was not exported by medvision.*medvision export"):
        OnnxPredictor(tmp_path / "other.onnx")


def test_a_model_for_a_newer_runtime_is_refused_with_the_remedy(onnx_content):
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(onnx_content[0])
    del model.metadata_props[:]
    model.ir_version = 9999

    with pytest.raises(BundleError, match=r"(?s)cannot be run by onnxruntime .*pip install -U 'medvision\[export\]'"):
        OnnxPredictor(seal(model.SerializeToString(), {}))


def test_a_missing_onnxruntime_names_the_extra(onnx_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(ConfigError, match=r"onnxruntime. Install it: pip install 'medvision\[export\]'"):
        OnnxPredictor(onnx_path)


@pytest.mark.parametrize(("asked", "expected"), [("3", 3), ("4,2", 4), ("", 2), ("0", 2), ("many", 2)])
def test_threads_are_those_that_the_process_may_have(monkeypatch, asked, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5}, raising=False)

    assert onnx_predictor._threads() == expected


SCRIPT = """
import sys, time
begin = time.perf_counter()
from pathlib import Path
import medvision
model = medvision.load(sys.argv[1])
from medvision.data.decode import decode_all
pixels, bad = decode_all(sorted(Path(sys.argv[2]).glob("*.jpg")), **model.decode)
probs = model.predict_probs(pixels)
seconds = time.perf_counter() - begin
print([model.class_names[one] for one in probs.argmax(axis=1)], len(bad), seconds < 3)
print({"torch", "torchvision", "lightning", "hydra", "onnx"} & set(sys.modules))
"""


def test_a_folder_of_jpegs_is_predicted_without_torch(onnx_path, predictor, tmp_path):
    from medvision.data.decode import decode

    rng = np.random.default_rng(0)
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.jpg"), rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    pixels = np.stack([decode(tmp_path / f"{number}.jpg", **predictor.decode) for number in range(4)])
    labels = [predictor.class_names[one] for one in predictor.predict_probs(pixels).argmax(axis=1)]

    arguments = [sys.executable, "-c", SCRIPT, str(onnx_path), str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)

    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"{labels} 0 True", "set()"]

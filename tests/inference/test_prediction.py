import subprocess
import sys

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from pydicom.data import get_testdata_file

import medvision
from medvision.config.conf import CONF_DIR
from medvision.data.decode import decode
from medvision.errors import BadImage, DataError, ModelError
from medvision.inference.decision import Decision
from medvision.inference.prediction import MIN_CONFIDENCE, Prediction
from medvision.inference.triage import decide


@pytest.fixture(params=["bundle", "onnx"])
def model(request, save, tmp_path):
    if request.param == "onnx":
        return medvision.load(request.getfixturevalue("onnx_path"))
    return medvision.load(save(tmp_path / "model", decision=Decision(conformal={"coverage": 0.9, "quantile": 0.7})))


def test_one_image_whatever_it_comes_as(model, images, tmp_path):
    pixels = images[0, 0]
    cv2.imwrite(str(tmp_path / "scan.png"), pixels)
    expected = dict(zip(model.class_names, model.predict_probs(images[:1])[0], strict=True))
    for image in (tmp_path / "scan.png", str(tmp_path / "scan.png"), Image.fromarray(pixels), pixels, images[0]):
        found = model.predict(image)
        assert isinstance(found, Prediction)
        assert dict(found.probs) == pytest.approx(expected, abs=1e-6)
        assert list(found.probs.values()) == sorted(found.probs.values(), reverse=True)
    assert found.set == tuple(
        name for name in found.probs if 1 - found.probs[name] <= model.decision.conformal["quantile"]
    )
    assert found.status in ("auto", "review")


def test_a_dicom_file(model):
    ct = get_testdata_file("CT_small.dcm", download=False)
    expected = model.predict_probs(decode(ct, **model.decode)[np.newaxis])[0]
    assert max(model.predict(ct).probs.values()) == pytest.approx(expected.max(), abs=1e-6)


def test_lists_and_arrays_say_what_the_command_says(model, images):
    found = model.predict(images)
    expected = decide(model.task, model.predict_probs(images), model.decision, MIN_CONFIDENCE)
    assert [(one.label, one.set, one.status, one.reason) for one in found] == [
        (one.label, one.classes, one.status, one.reason) for one in expected
    ]
    assert model.predict(list(images)) == model.predict(image for image in images) == found
    assert model.predict([]) == []


def test_how_sure_it_must_be_can_be_said(model, images):
    strict, lax = model.predict(images[0], min_confidence=1.0), model.predict(images[0], min_confidence=0.0)
    assert "low confidence" in strict.reason
    assert "low confidence" not in lax.reason


def test_a_broken_file_costs_the_others_nothing(model, images, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(BadImage):
        model.predict(tmp_path / "broken.jpg")
    first, broken, last = model.predict([images[0], tmp_path / "broken.jpg", images[1]])
    assert (broken.label, broken.set, broken.status, dict(broken.probs)) == (None, None, "rejected", {})
    assert broken.reason.startswith("unreadable: ")
    assert [first, last] == model.predict(images[:2])


@pytest.mark.parametrize("wrong", [np.zeros((1, 12, 16)), np.zeros((12, 16, 2), np.uint8), np.zeros(5, np.uint8)])
def test_arrays_that_are_no_image_are_refused(model, wrong):
    with pytest.raises(DataError, match="expected uint8 pixels"):
        model.predict(wrong)


def test_the_default_is_that_of_the_command():
    assert yaml.safe_load((CONF_DIR / "predict.yaml").read_text())["min_confidence"] == MIN_CONFIDENCE


def test_an_onnx_file_predicts_without_torch(onnx_path, images, tmp_path):
    cv2.imwrite(str(tmp_path / "scan.png"), images[0, 0])
    script = (
        "import sys, medvision\n"
        "found = medvision.load(sys.argv[1]).predict(sys.argv[2])\n"
        "print(found.label in found.probs, 'torch' in sys.modules)"
    )
    arguments = [sys.executable, "-c", script, onnx_path, tmp_path / "scan.png"]
    assert subprocess.run(arguments, capture_output=True, text=True, check=True).stdout == "True False\n"


def test_explain_stands_beside_load(images, tmp_path, save):
    found = medvision.explain(medvision.load(save(tmp_path / "model")), images[0])
    assert found.activation.shape == images.shape[2:]


def test_a_network_that_answers_with_no_number_decides_nothing(save, tmp_path, images):
    model = medvision.load(save(tmp_path / "model"))
    model.network.head.bias.data[0] = float("nan")
    with pytest.raises(ModelError, match="not a number"):
        model.predict(images)

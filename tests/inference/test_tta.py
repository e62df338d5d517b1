import json

import numpy as np
import pytest
import torch

import medvision
from medvision.config.targets import build
from medvision.errors import ConfigError
from medvision.inference.decision import Decision
from medvision.inference.evidence import Evidence
from medvision.inference.export import export
from medvision.inference.predictor import Predictor
from medvision.inference.tta import embed_views
from medvision.metrics.predictions import softmax
from medvision.tasks import Task

TASK = Task.classes("abc")
DECODE = {"size": (12, 16), "channels": 1, "resize": "letterbox"}


def logits_of_views(network, images):
    """Each view by numpy, its logits by the network: plain, mirrored, and both of them moved either way."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    views = [images, padded[..., :-2, :-2], padded[..., 2:, 2:]]
    with torch.no_grad():
        return np.array(
            [
                [network.eval()(torch.from_numpy(np.ascontiguousarray(one))).numpy() for one in (view, view[..., ::-1])]
                for view in views
            ]
        )


def test_views_are_averaged_by_their_weights(make_network, images):
    each = logits_of_views(make_network(), images)
    expected = {
        "none": each[0, 0],
        "mirror": each[0].mean(axis=0),
        "mirror_shift": each[0].mean(axis=0) / 2 + each[1:].mean(axis=(0, 1)) / 2,
    }
    for tta, logits in expected.items():
        predictor = Predictor(make_network(), TASK, decode=DECODE, decision=Decision(tta=tta))
        np.testing.assert_allclose(predictor.predict_logits(images), logits, atol=1e-5)
        probs, _ = predictor.probs_and_embeddings(images)
        np.testing.assert_allclose(probs, softmax(logits), atol=1e-5)
    assert np.abs(expected["mirror"] - expected["mirror_shift"]).max() > 1e-3


def test_the_embedding_of_views_is_a_mean(network, images):
    batch = torch.from_numpy(images)
    network.eval()
    with torch.no_grad():
        found = embed_views(network, batch, "mirror")
        torch.testing.assert_close(found, (network.embed(batch) + network.embed(batch.flip(3))) / 2)


def test_a_bundle_keeps_its_views_and_can_be_loaded_with_others(save, tmp_path, images):
    bundle = save(tmp_path / "model", decision=Decision(tta="mirror_shift"))
    assert json.loads((bundle / "bundle.json").read_text())["tta"] == "mirror_shift"
    probs = {tta: medvision.load(bundle, tta=tta).predict_probs(images) for tta in (None, "mirror_shift", "none")}
    np.testing.assert_array_equal(probs[None], probs["mirror_shift"])
    assert np.abs(probs[None] - probs["none"]).max() > 1e-4


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_an_exported_file_has_the_views_inside(save, tmp_path, images, form):
    pytest.importorskip("onnxscript")
    bundle = save(tmp_path / "model", decision=Decision(temperature=1.5, tta="mirror_shift"))
    evidence = Evidence("made", images, images[:32], images[32:], np.arange(38) % 3)
    found = export(bundle, tmp_path / ("model.onnx" if form == "onnx" else "model.pt2"), evidence, format=form)
    assert found.path is not None
    assert found.runtimes[1].difference < 1e-5
    if form == "onnx":
        assert medvision.load(found.path).decision.tta == "mirror_shift"
        assert medvision.load(found.path, tta="mirror_shift").facts["tta"] == "mirror_shift"


def test_views_that_a_file_was_exported_without_are_refused(onnx_path):
    with pytest.raises(ConfigError, match="was exported with tta=none, which is inside the file"):
        medvision.load(onnx_path, tta="mirror")


def test_unknown_views_are_refused(bundle):
    with pytest.raises(ConfigError, match=r"tta=all: expected one of none, mirror, mirror_shift\."):
        medvision.load(bundle, tta="all")


def test_a_classical_model_has_no_views(classical_node):
    model = build(classical_node("majority"), "model", num_classes=3, in_channels=1, image_size=(12, 16))
    with pytest.raises(ConfigError, match="set tta=none"):
        Predictor(model, TASK, decode=DECODE, decision=Decision(tta="mirror"))

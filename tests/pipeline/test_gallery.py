from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from medvision.inference.predictor import Predictor
from medvision.metrics.predictions import Predictions
from medvision.pipeline import report as module
from medvision.tasks import Task


@pytest.fixture
def predictor(network):
    decode = {"size": (12, 16), "channels": 1, "resize": "letterbox"}
    return Predictor(network, Task.classes([f"class {k}" for k in range(3)]), decode=decode)


@pytest.fixture
def predictions(predictor, images):
    return Predictions.from_logits(
        ids=[f"scan {i}.png" for i in range(len(images))],
        targets=np.arange(len(images)) % 3,
        logits=predictor.predict_logits(images),
        class_names=predictor.class_names,
    )


def test_pictures_show_the_chosen_cases_in_their_order(predictor, images, predictions, monkeypatch):
    monkeypatch.setattr(module, "choose", lambda *_: {"errors": np.array([7, 2]), "uncertain": [], "typical": [69]})

    found = module.gallery(2, predictor, predictions, images)

    assert [(one.section, one.id) for one in found] == [
        ("errors", "scan 7.png"),
        ("errors", "scan 2.png"),
        ("typical", "scan 69.png"),
    ]
    for one, row in zip(found, [7, 2, 69], strict=True):
        assert one.target == f"class {row % 3}"
        assert one.pred == predictor.class_names[predictions.probs[row].argmax()]
        assert one.prob == predictions.probs[row].max()
        assert one.prob_target == predictions.probs[row, row % 3]
        shown = cv2.imdecode(np.frombuffer(one.original, np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(shown[::7, ::7], images[row, 0])
        assert cv2.imdecode(np.frombuffer(one.overlay, np.uint8), cv2.IMREAD_COLOR).shape[:2] == shown.shape


def test_pictures_without_maps_still_show_the_image(predictor, images, predictions):
    other = SimpleNamespace(class_names=predictor.class_names, decode=predictor.decode)

    found = module.gallery(1, other, predictions, images)

    assert [one.overlay for one in found] == [None] * len(found)
    assert [one.original for one in found] == [
        one.original for one in module.gallery(1, predictor, predictions, images)
    ]
    assert module.gallery(0, predictor, predictions, images) == []

"""Every file of conf/model that names a classical model builds one that keeps its promises."""

import numpy as np
import pytest

from medvision.config.conf import CONF_DIR
from medvision.config.targets import build
from medvision.models import classical

FILES = [file for file in sorted((CONF_DIR / "model").glob("*.yaml")) if "models.classical." in file.read_text()]
NAMES = [file.stem for file in FILES]


@pytest.fixture
def make(classical_node):
    def make(name, num_classes=3, **changes):
        node = classical_node(name, **changes)
        return build(node, "model", num_classes=num_classes, in_channels=1, image_size=(4, 4))

    return make


def test_there_is_a_file_for_each():
    assert NAMES == ["decision_tree", "gradient_boosting", "knn", "linear_svm", "majority", "random_forest", "svm"]


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_the_logarithms_of_probabilities(make, name, num_classes):
    rng = np.random.default_rng(0)
    targets = np.arange(60) % num_classes
    images = rng.integers(0, 60, (60, 1, 4, 4), dtype=np.uint8)
    images[np.arange(60), 0, :, targets] += 150
    few = {"estimator": {"max_iter": 3}} if name == "gradient_boosting" else {}
    few |= {"pca": 5} if name in ("svm", "knn") else {}
    model = make(name, num_classes, **few)
    model.estimator.fit(model.features(images), targets)

    logits = model.logits(images)

    assert logits.dtype == np.float32
    assert logits.min() >= np.log(np.float32(classical.SMALLEST))
    np.testing.assert_allclose(np.exp(logits).sum(axis=1), 1, atol=1e-6)
    assert name == "majority" or (logits.argmax(axis=1) == targets).mean() > 0.9
    assert model.logits(images[:0]).shape == (0, num_classes)


@pytest.mark.parametrize(("name", "steps"), [("svm", "PCA, SVC"), ("linear_svm", "LinearSVC"), ("knn", "PCA, KNeigh")])
def test_a_model_names_its_steps(make, name, steps):
    assert str(make(name)).startswith(steps)


def test_options_reach_the_estimator(make):
    forest = make("random_forest", 2, estimator={"class_weight": "balanced"}).estimator.named_steps["model"]
    assert forest.class_weight == "balanced"
    calibrated = make("svm", calibration_folds=4).estimator
    assert calibrated.cv == 4
    assert type(calibrated.estimator.named_steps["model"]).__name__ == "OneVsRestClassifier"

"""Every file of conf/model that names a classical model builds one that lists its options and keeps its promises."""

import inspect

import numpy as np
import pytest
import yaml

from medvision.config import CONF_DIR
from medvision.models import classical
from medvision.models.features import Pixels

FILES = [file for file in sorted((CONF_DIR / "model").glob("*.yaml")) if "models.classical." in file.read_text()]
NAMES = [file.stem for file in FILES]


def test_there_is_a_file_for_each():
    assert NAMES == ["decision_tree", "gradient_boosting", "knn", "linear_svm", "majority", "random_forest", "svm"]


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_every_option_is_listed_with_its_default(file):
    options = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert options.pop("defaults") == [{"features": "pixels"}, "_self_"]
    assert options.pop("_target_") == f"medvision.models.classical.{file.stem}"
    parameters = inspect.signature(getattr(classical, file.stem)).parameters
    assert {name: one.default for name, one in list(parameters.items())[4:]} == options


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_the_logarithms_of_probabilities(name, num_classes):
    rng = np.random.default_rng(0)
    targets = np.arange(60) % num_classes
    images = rng.integers(0, 60, (60, 1, 4, 4), dtype=np.uint8)
    images[np.arange(60), 0, :, targets] += 150
    few = {"max_iter": 3} if name == "gradient_boosting" else {}
    few |= {"pca": 5} if name in ("svm", "knn") else {}
    model = getattr(classical, name)(num_classes, 1, (4, 4), features=Pixels(), **few)
    model.estimator.fit(model.features(images), targets)

    logits = model.logits(images)

    assert logits.dtype == np.float32
    assert logits.min() >= np.log(np.float32(classical.SMALLEST))
    np.testing.assert_allclose(np.exp(logits).sum(axis=1), 1, atol=1e-6)
    assert name == "majority" or (logits.argmax(axis=1) == targets).mean() > 0.9
    assert model.logits(images[:0]).shape == (0, num_classes)


@pytest.mark.parametrize(("name", "steps"), [("svm", "PCA, SVC"), ("linear_svm", "LinearSVC"), ("knn", "PCA, KNeigh")])
def test_a_model_names_its_steps(name, steps):
    assert str(getattr(classical, name)(3, 1, (4, 4), features=Pixels())).startswith(steps)


def test_a_forest_of_balanced_weights_weighs_rare_classes():
    model = classical.random_forest(2, 1, (4, 4), features=Pixels(), class_weights="balanced")
    assert model.estimator.named_steps["model"].class_weight == "balanced"
    assert classical.random_forest(2, 1, (4, 4), features=Pixels()).estimator.named_steps["model"].class_weight is None

import logging

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from medvision.config.targets import build
from medvision.data.datamodule import ImageDataModule
from medvision.data.layouts.arrays import digits as layout_digits
from medvision.data.options import DataOptions
from medvision.data.table import SplitArrays
from medvision.errors import ConfigError, ModelError
from medvision.models.features import Embedding
from medvision.models.small_cnn import small_cnn
from medvision.randomness import key
from medvision.training.classifier import Classifier
from medvision.training.fit import Fitting, fit_classical, fit_network
from medvision.training.trainer import build_trainer


@pytest.fixture(scope="module")
def digits():
    images, targets = load_digits(return_X_y=True)
    return (images.reshape(-1, 1, 8, 8) * 15).astype(np.uint8), targets.astype(np.int64)


def arrays(images, targets, groups=None):
    ids = np.arange(len(targets)).astype(str)
    return SplitArrays(images=images, targets=targets, ids=ids, groups=ids if groups is None else groups, meta={})


@pytest.fixture
def make(classical_node):
    """make("svm", num_classes=3, pca=5) -> the model of conf/model/svm.yaml for images of 8 x 8 pixels."""

    def make(name, num_classes=10, **changes):
        node = classical_node(name, **changes)
        return build(node, "model", num_classes=num_classes, in_channels=1, image_size=(8, 8))

    return make


@pytest.fixture
def fitted(make):
    def fitted(name, train, seed=0, **changes):
        model = make(name, int(train.targets.max()) + 1, **changes)
        fit_classical(model, train, seed, Console())
        return model

    return fitted


def test_a_tree_and_a_forest_are_those_of_scikit_learn_on_the_same_arrays(digits, fitted):
    images, targets = digits
    rows, state = images.reshape(len(images), -1) / np.float32(255), key(3, "weights") % 2**32
    for name, own in (
        ("decision_tree", DecisionTreeClassifier(random_state=state)),
        ("random_forest", RandomForestClassifier(10, random_state=state)),
    ):
        few = {"estimator": {"n_estimators": 10}} if name == "random_forest" else {}
        model = fitted(name, arrays(images[:1000], targets[:1000]), seed=3, **few)
        own.fit(rows[:1000], targets[:1000])
        np.testing.assert_array_equal(model.logits(images[1000:]).argmax(1), own.predict(rows[1000:]))


def test_a_support_vector_machine_is_that_of_scikit_learn_and_calibration_keeps_its_decisions(digits, fitted):
    images, targets = digits
    rows, state = images.reshape(len(images), -1) / np.float32(255), key(0, "weights") % 2**32
    model = fitted("svm", arrays(images[:600], targets[:600]), pca=20)

    plain = make_pipeline(PCA(20, random_state=state), OneVsRestClassifier(SVC(C=10))).fit(rows[:600], targets[:600])
    np.testing.assert_array_equal(model.logits(images[600:]).argmax(1), plain.predict(rows[600:]))
    whole = CalibratedClassifierCV(plain, method="temperature", cv=StratifiedKFold(3), ensemble=False)
    probs = whole.fit(rows[:600], targets[:600]).predict_proba(rows[600:])
    np.testing.assert_allclose(np.exp(model.logits(images[600:])), probs, atol=1e-5)


def test_the_majority_is_the_share_of_each_class(digits, fitted):
    images, _ = digits
    targets = np.repeat([0, 1, 2], [10, 30, 60])
    model = fitted("majority", arrays(images[:100], targets))

    np.testing.assert_allclose(np.exp(model.logits(images[100:103])), [[0.1, 0.3, 0.6]] * 3, rtol=1e-6)


def test_the_seed_decides_what_is_drawn(digits, fitted):
    train = arrays(digits[0][:300], digits[1][:300])
    first, again, other = (
        fitted("random_forest", train, seed, estimator={"n_estimators": 5}).logits(digits[0][300:])
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("name", ["svm", "linear_svm"])
def test_groups_are_never_divided_between_the_folds_of_calibration(digits, monkeypatch, name, fitted):
    images, targets = digits[0][:400], digits[1][:400] % 3
    groups = np.array([f"patient {n // 4}" for n in range(400)])
    seen = []
    inner = CalibratedClassifierCV.fit

    def spy(self, rows, y):
        seen.extend(self.cv)
        return inner(self, rows, y)

    monkeypatch.setattr(CalibratedClassifierCV, "fit", spy)
    model = fitted(name, arrays(images, targets, groups), calibration_folds=4)

    assert len(seen) == 4
    assert sorted(np.concatenate([held_out for _, held_out in seen])) == list(range(400))
    for rest, held_out in seen:
        assert not set(groups[rest]) & set(groups[held_out])
    assert model.estimator.cv == 4  # who was where does not stay in the model


def test_calibration_on_groups_is_as_unsure_as_new_groups_are(digits, fitted):
    """Every image thrice: folds that divide the copies would find the machine perfect."""
    images, targets = np.repeat(digits[0][:250], 3, axis=0), np.repeat(digits[1][:250], 3)
    together = fitted("svm", arrays(images, targets, np.repeat(np.arange(250).astype(str), 3)))
    divided = fitted("svm", arrays(images, targets))

    confidence = [np.exp(one.logits(digits[0][1000:])).max(axis=1).mean() for one in (together, divided)]
    assert confidence[0] < confidence[1]


def test_too_few_images_or_groups_for_the_folds_are_refused(digits, fitted):
    images, targets = digits[0][:40], np.repeat([0, 1], [38, 2])
    with pytest.raises(ModelError, match=r"needs as many images of each class in train, the rarest has 2\."):
        fitted("svm", arrays(images, targets))
    groups = np.where(targets == 1, "one", np.arange(40).astype(str))
    with pytest.raises(ModelError, match=r"as many groups of each class in train, the rarest has 1\."):
        fitted("linear_svm", arrays(images, targets, groups), calibration_folds=2)


def test_what_scikit_learn_refuses_is_said_in_a_line(digits, fitted):
    train = arrays(digits[0][:40], digits[1][:40])
    with pytest.raises(ModelError, match="KNeighborsClassifier cannot be fitted: Expected n_neighbors"):
        fitted("knn", train, estimator={"n_neighbors": 41})


def test_components_are_no_more_than_there_are(digits, caplog, fitted):
    with caplog.at_level(logging.WARNING):
        model = fitted("knn", arrays(digits[0][:30], digits[1][:30]), pca=50)

    assert "there are only 30 principal components" in caplog.text
    assert model.estimator.named_steps["pca"].n_components_ == 30


def fitting(data, **changes):
    settings = {"monitor": "val/recall", "seed": 0, "optimizer": torch.optim.SGD, "scheduler": None}
    settings |= {"loss": torch.nn.CrossEntropyLoss(), "trainer": pytest.fail, "directory": None, "stop": None}
    return Fitting(data=data, console=Console(), **settings | changes)


def test_a_model_says_how_it_is_fitted(make):
    data = ImageDataModule(layout_digits, DataOptions(image_size=8))
    data.setup()
    tree = make("decision_tree")

    found = tree.fit(fitting(data))

    val = data.split("val")
    assert (tree.logits(data.split("train").images).argmax(1) == data.split("train").targets).all()
    expected = balanced_accuracy_score(val.targets, tree.logits(val.images).argmax(1))
    assert found.score == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("features", [None, {"_target_": "medvision.models.features.Embedding", "name": "resnet18"}])
def test_a_bundle_to_begin_with_needs_features_that_use_it(make, features):
    with pytest.raises(ConfigError, match="model/features=embedding"):
        make("decision_tree", features=features).fit(fitting(None, embedding=Embedding))


class Denormals(Callback):
    """Notes whether they count within a step."""

    def __init__(self):
        self.counted = []

    def on_train_batch_end(self, *_):
        self.counted.append(denormals_count())


def denormals_count():
    return torch.tensor([1e-40]).mul(1).item() > 0


@pytest.mark.parametrize("flushed", [False, True])
def test_denormal_numbers_are_zero_in_training_and_what_they_were_after_it(tmp_path, flushed):
    data = ImageDataModule(layout_digits, DataOptions(image_size=16, batch_size=500))
    data.setup()
    noting = Denormals()
    trainer = build_trainer(accelerator="cpu", max_epochs=1, callbacks=[noting], directory=tmp_path)
    torch.set_flush_denormal(flushed)
    try:
        network = small_cnn(data.num_classes, data.in_channels, data.image_size)
        fit_network(Classifier(network, torch.optim.SGD), data, trainer)
        assert denormals_count() is not flushed
    finally:
        torch.set_flush_denormal(False)
    assert noting.counted
    assert not any(noting.counted)

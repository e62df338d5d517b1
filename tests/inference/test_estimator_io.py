import io
import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import skops.io
import torch
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer

from medvision.config.targets import build
from medvision.data.table import SplitArrays
from medvision.errors import BundleError, ModelError
from medvision.inference.bundle import load_bundle, load_embedding, save_bundle, write_card
from medvision.inference.decision import Decision
from medvision.inference.estimator_io import estimator_from_bytes, estimator_to_bytes
from medvision.models.features import HOG, Embedding
from medvision.tasks import Task
from medvision.training.fit import fit_classical

NAMES = ("decision_tree", "gradient_boosting", "knn", "linear_svm", "majority", "random_forest", "svm")
FEW = {"gradient_boosting": {"max_iter": 3}, "random_forest": {"n_estimators": 3, "n_jobs": 1}}
PIXELS = {"_target_": "medvision.models.features.Pixels"}


@pytest.fixture(scope="module")
def train():
    rng = np.random.default_rng(0)
    targets = np.arange(90) % 3
    images = rng.integers(0, 100, (90, 1, 12, 16), dtype=np.uint8)
    images[np.arange(90), 0, :, targets] += 100
    ids = np.arange(90).astype(str)
    return SplitArrays(images=images, targets=targets, ids=ids, groups=ids, meta={})


@pytest.fixture
def save_classical(train, tmp_path, classical_node):
    """Fit a classical model and write its bundle."""

    def save(name, features=None, node=PIXELS, num_classes=3, **changes):
        shape = {"num_classes": num_classes, "in_channels": 1, "image_size": [12, 16]}
        architecture = classical_node(name, node, estimator=FEW.get(name, {})) | shape
        model = build(architecture, "model")
        model.features = features or model.features
        some = SplitArrays(train.images, train.targets % num_classes, train.ids, train.groups, {})
        fit_classical(model, some, 0, Console())
        return model, save_bundle(
            tmp_path / name,
            model,
            architecture=architecture,
            task=Task.classes(["no tumour", "glioma", "ménière"][:num_classes]),
            decode={"size": [12, 16], "channels": 1, "resize": "letterbox"},
            fingerprint="f" * 64,
            **changes,
        )

    return save


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_loaded_predicts_what_was_saved(save_classical, images, name, num_classes):
    model, directory = save_classical(name, num_classes=num_classes)

    predictor = load_bundle(directory)

    np.testing.assert_array_equal(predictor.predict_logits(images), model.logits(images))
    np.testing.assert_allclose(predictor.predict_probs(images).sum(axis=1), 1)
    assert sorted(path.name for path in directory.iterdir()) == ["bundle.json", "estimator.skops"]
    assert predictor.predict_probs(images[:0]).shape == (0, num_classes)


@pytest.mark.slow
def test_a_fresh_process_predicts_the_same_from_the_bundle_alone(save_classical, images, tmp_path):
    model, directory = save_classical("svm")
    np.save(tmp_path / "images.npy", images)
    script = (
        "import sys, numpy as np\n"
        "from medvision import load\n"
        "np.save('found.npy', load(sys.argv[1]).predict_logits(np.load('images.npy')))"
    )
    environment = os.environ | {"MEDVISION_DATA": str(tmp_path / "nowhere")}
    subprocess.run([sys.executable, "-c", script, directory], cwd=tmp_path, env=environment, check=True)

    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), model.logits(images))


def test_the_manifest_says_what_wrote_it(save_classical):
    _, directory = save_classical("decision_tree", decision=Decision(temperature=2.5))

    write_card(directory, "# Tree")

    manifest = json.loads((directory / "bundle.json").read_text())
    assert manifest["scikit_learn"].startswith("1.")
    assert "normalisation" not in manifest
    assert load_bundle(directory).decision.temperature == 2.5


@pytest.mark.parametrize("name", ["estimator.skops", "bundle.json"])
def test_a_flipped_bit_anywhere_in_a_file_is_noticed(save_classical, name):
    _, directory = save_classical("decision_tree")
    original = (directory / name).read_bytes()
    for position in range(0, len(original), len(original) // 40):
        damaged = bytearray(original)
        damaged[position] ^= 1
        (directory / name).write_bytes(damaged)
        with pytest.raises(BundleError, match=name):
            load_bundle(directory)


def test_features_travel_with_the_model(save_classical, images):
    node = {"_target_": "medvision.models.features.HOG", "cell": 3}
    model, directory = save_classical("knn", HOG(cell=3), node)

    np.testing.assert_array_equal(load_bundle(directory).predict_logits(images), model.logits(images))


def test_the_embedding_of_a_bundle_travels_with_the_model(bundle, save_classical, images):
    node = {"_target_": "medvision.models.features.Embedding", "name": None, "weights": None}
    model, directory = save_classical("linear_svm", load_embedding(bundle), node)

    assert (directory / "weights.safetensors").read_bytes() == (bundle / "weights.safetensors").read_bytes()
    np.testing.assert_allclose(load_bundle(directory).predict_logits(images), model.logits(images), atol=1e-4)
    with torch.inference_mode():
        expected = load_bundle(bundle).network.embed(torch.from_numpy(images))
    np.testing.assert_allclose(model.features(images), expected, atol=1e-5)


def test_the_embedding_of_torchvision_is_not_fetched_again(save_classical, images):
    node = {"_target_": "medvision.models.features.Embedding", "name": "resnet18", "weights": "default"}
    model, directory = save_classical("majority", Embedding("resnet18"), node)

    manifest = json.loads((directory / "bundle.json").read_text())
    assert manifest["architecture"]["features"]["weights"] is None
    np.testing.assert_array_equal(load_bundle(directory).predict_logits(images), model.logits(images))


def test_a_classical_model_has_no_network_to_look_into(save_classical):
    _, directory = save_classical("svm")
    with pytest.raises(ModelError, match=r"PCA, SVC\) is a classical one"):
        _ = load_bundle(directory).network
    with pytest.raises(ModelError, match="is a classical one"):
        load_embedding(directory)


@pytest.mark.parametrize(
    "estimator", [LogisticRegression(), FunctionTransformer(np.exp), FunctionTransformer(os.system), io.StringIO]
)
def test_a_type_that_is_not_listed_is_refused_and_not_built(estimator):
    with pytest.raises(BundleError, match=r"model/x\.skops holds .*, which is no part of a classical model here"):
        estimator_from_bytes(skops.io.dumps(estimator), 3, "model/x.skops")


def test_bytes_that_are_no_estimator_are_refused():
    for content in (b"", b"PK nonsense", estimator_to_bytes(["no", "estimator"])):
        with pytest.raises(BundleError, match=r"x\.skops cannot be loaded"):
            estimator_from_bytes(content, 3, "x.skops")


def forged(content, change):
    """The same skops file with every array of nodes changed."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(result, "w") as after:
        for name in before.namelist():
            data = before.read(name)
            if name.endswith(".npy"):
                array = np.load(io.BytesIO(data))
                if array.dtype.names:
                    change(array)
                    buffer = io.BytesIO()
                    np.save(buffer, array)
                    data = buffer.getvalue()
            after.writestr(name, data)
    return result.getvalue()


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        *(("decision_tree", field, 10**9) for field in ("left_child", "right_child", "feature")),
        *(("decision_tree", field, value) for field in ("left_child", "feature") for value in (0, -7) if value),
        ("decision_tree", "right_child", 0),
        ("random_forest", "left_child", 10**9),
        *(("gradient_boosting", field, 10**6) for field in ("left", "right", "feature_idx")),
        ("gradient_boosting", "left", 0),
        ("gradient_boosting", "is_categorical", 1),
    ],
)
def test_a_forged_tree_is_refused_before_it_is_followed(save_classical, name, field, value):
    model, _ = save_classical(name)
    content = estimator_to_bytes(model.estimator)
    assert estimator_from_bytes(content, 3, "x") is not None

    def change(nodes):
        nodes[field][0] = value

    with pytest.raises(BundleError, match="a tree whose nodes are not a tree's"):
        estimator_from_bytes(forged(content, change), 3, "x")


def test_an_estimator_of_other_classes_or_another_model_is_refused(save_classical, bundle, rewrite):
    _, directory = save_classical("decision_tree")
    architecture = json.loads((directory / "bundle.json").read_text())["architecture"]
    rewrite(directory, architecture=architecture | {"num_classes": 2})
    with pytest.raises(BundleError, match="has 3 classes"):
        load_bundle(directory)
    rewrite(directory, architecture=json.loads((bundle / "bundle.json").read_text())["architecture"])
    with pytest.raises(BundleError, match="does not build a classical model"):
        load_bundle(directory)

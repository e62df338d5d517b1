import copy
import hashlib
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax

import medvision
from medvision import files
from medvision.config.targets import build
from medvision.errors import BundleError, ConfigError, RunError
from medvision.inference import export as export_module
from medvision.inference import export as exported
from medvision.inference.bundle import read_manifest, save_bundle
from medvision.inference.decision import Decision
from medvision.inference.evidence import Evidence
from medvision.inference.export import check_choices, export
from medvision.inference.onnx import OnnxPredictor
from medvision.metrics.operating_point import OperatingPoint
from medvision.tasks import Task

pytest.importorskip("onnxscript")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(export_module, "_ROUNDS", 1)


@pytest.fixture
def warm(save, tmp_path):
    """A bundle whose probabilities show whether temperature and statistics are inside the file."""
    return save(tmp_path / "model", decision=Decision(temperature=2.5))


@pytest.fixture
def evidence(images):
    return Evidence("made", images, images[:32], images[32:], np.arange(38) % 3)


def everything(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_file_predicts_what_the_network_says(warm, network, evidence, images, tmp_path):
    state = torch.get_rng_state()
    found = export(warm, tmp_path / "model.onnx", evidence)

    assert torch.equal(torch.get_rng_state(), state)
    model = OnnxPredictor(found.path)
    with torch.no_grad():
        logits = network.eval()(torch.from_numpy(images)).numpy().astype(np.float64)
    np.testing.assert_allclose(model.predict_probs(images), softmax(logits / 2.5, axis=1), atol=1e-6)
    np.testing.assert_allclose(model.embed(images), network.embed(torch.from_numpy(images)).detach(), atol=1e-5)


def test_the_file_says_all_that_the_bundle_said_and_how_it_was_tested(save, evidence, tmp_path):
    decision = Decision(
        temperature=2.5,
        operating_point=OperatingPoint(("glioma",), 0.2, "youden"),
        conformal={"coverage": 0.9, "quantile": 0.7},
        ood={"brightness": [1.0, 2.0]},
    )
    warm = save(tmp_path / "model", decision=decision)
    manifest = json.loads((warm / "bundle.json").read_text(encoding="utf-8"))

    found = export(tmp_path, tmp_path / "model.onnx", evidence)

    model = OnnxPredictor(found.path)
    assert model.decision == decision
    for name in ("task", "decode", "fingerprint", "licence", *decision.to_json()):
        assert model.facts[name] == manifest[name]
    assert model.facts["licence"].startswith("Research use only")
    weights = (warm / "weights.safetensors").read_bytes()
    assert model.facts["bundle"]["files"] == {"weights.safetensors": hashlib.sha256(weights).hexdigest()}
    assert model.facts["bundle"]["sha256"] == manifest["sha256"]
    assert (model.facts["tested"]["images"], model.facts["tested"]["n"]) == ("made", 70)
    assert model.facts["tested"]["max_difference"] == found.runtimes[1].difference < 1e-6
    assert model.facts["quantisation"] is None


@pytest.mark.parametrize(
    ("target", "arguments", "channels", "size", "n"),
    [
        ("small_cnn.small_cnn", {}, 1, 28, 20),
        pytest.param(
            "small_resnet.small_resnet", {"widths": [8, 16], "depths": [1, 1]}, 3, 28, 20, marks=pytest.mark.slow
        ),
        pytest.param("small_resnet.small_resnet", {}, 1, 32, 20, marks=pytest.mark.slow),
        pytest.param("pretrained.pretrained", {"name": "resnet18"}, 3, 224, 3, marks=pytest.mark.slow),
        pytest.param("pretrained.pretrained", {"name": "convnext_tiny"}, 1, 64, 3, marks=pytest.mark.slow),
        pytest.param(
            "pretrained.pretrained", {"library": "timm", "name": "resnet10t"}, 1, 64, 3, marks=pytest.mark.slow
        ),
        pytest.param(
            "pretrained.pretrained",
            {"library": "timm", "name": "vit_tiny_patch16_224"},
            3,
            224,
            3,
            marks=pytest.mark.slow,
        ),
    ],
)
@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_every_family_of_networks(target, arguments, channels, size, n, format, tmp_path):
    if "library" in arguments:
        pytest.importorskip("timm")
    architecture = {"_target_": f"medvision.models.{target}", **arguments, "num_classes": 4, "in_channels": channels}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build(architecture, "model", image_size=(size, size))
        network.set_statistics([90.0 + one for one in range(channels)], [40.0 + one for one in range(channels)])
        # A few steps of training mode, so that batch statistics are not those a network begins with.
        with torch.no_grad():
            network.train()(torch.randint(0, 256, (8, channels, size, size), dtype=torch.uint8))
    save_bundle(
        tmp_path / "model",
        network,
        architecture=architecture | {"image_size": [size, size]},
        task=Task.classes("abcd"),
        decode={"size": [size, size], "channels": channels, "resize": "stretch"},
        fingerprint="f" * 64,
        decision=Decision(temperature=0.5),
    )
    images = np.random.default_rng(0).integers(0, 256, (n, channels, size, size), dtype=np.uint8)

    found = export(tmp_path / "model", tmp_path / "file", Evidence("made", images, images, images, None), format=format)

    assert found.path is not None, found
    assert found.runtimes[1].difference < 1e-5
    with torch.no_grad():
        logits = network.eval()(torch.from_numpy(images)).numpy().astype(np.float64)
    run = OnnxPredictor(found.path).predict_probs if format == "onnx" else opened(found.path)
    np.testing.assert_allclose(run(images), softmax(logits / 0.5, axis=1), atol=1e-5)
    np.testing.assert_allclose(run(images[:1]), softmax(logits / 0.5, axis=1)[:1], atol=1e-5)


def opened(path):
    module = torch.export.load(path).module()
    return lambda images: module(torch.from_numpy(images))[0].detach().numpy()


def test_the_second_format_opens_in_torch_and_carries_the_facts(warm, evidence, images, tmp_path):
    found = export(warm, tmp_path / "model.pt2", evidence, format="torch")

    extra = {"medvision.json": ""}
    module = torch.export.load(found.path, extra_files=extra).module()
    facts = json.loads(extra["medvision.json"])
    assert facts["task"]["class_names"] == ["no tumour", "glioma", "ménière"]
    assert facts["tested"]["n"] == 70
    probs, embeddings = module(torch.from_numpy(images[:5]))
    assert (probs.shape, embeddings.shape) == ((5, 3), (5, 16))


@pytest.mark.parametrize(("format", "quantize"), [("onnx", "static"), ("torch", "none")])
def test_the_file_names_no_folder_of_this_machine(warm, evidence, tmp_path, format, quantize):
    path = export(warm, tmp_path / "file", evidence, format=format, quantize=quantize).path

    parts = [path.read_bytes()]
    if format == "torch":
        with zipfile.ZipFile(path) as archive:
            parts = [archive.read(name) for name in archive.namelist()]
    for folder in (Path(medvision.__file__).parent, Path(torch.__file__).parent, tmp_path, Path.home() / ""):
        assert not any(os.fsencode(f"{folder}{os.sep}") in part for part in parts)


def another(network):
    other = copy.deepcopy(network)
    other.head.bias.data += torch.tensor([0.0, 0.01, 0.0])
    return other


@pytest.mark.parametrize("format", [pytest.param("onnx", marks=pytest.mark.slow), "torch"])
def test_a_file_that_predicts_otherwise_is_not_kept(warm, evidence, tmp_path, monkeypatch, format):
    (tmp_path / "file").write_bytes(b"an earlier export")
    before = everything(tmp_path)
    deployed = exported._deployed

    def wrong(predictor):
        module = deployed(predictor)
        module.network = another(module.network)
        return module

    monkeypatch.setattr(exported, "_deployed", wrong)
    found = export(warm, tmp_path / "file", evidence, format=format)

    assert found.path is None
    assert found.runtimes[1].difference > 1e-4
    assert everything(tmp_path) == before


def test_another_label_is_enough_however_close_the_probabilities(save, make_network, evidence, tmp_path, monkeypatch):
    network = make_network()
    network.head.weight.data.zero_()
    network.head.bias.data = torch.tensor([0.0, 1e-6, 0.0])
    save_bundle(
        tmp_path / "model",
        network,
        architecture=read_manifest(save(tmp_path / "other"))["architecture"],
        task=Task.classes("abc"),
        decode={"size": [12, 16], "channels": 1, "resize": "letterbox"},
        fingerprint="",
    )
    deployed = exported._deployed

    def wrong(predictor):
        module = deployed(predictor)
        module.network.head.bias.data = torch.tensor([1e-6, 0.0, 0.0])
        return module

    monkeypatch.setattr(exported, "_deployed", wrong)
    found = export(tmp_path / "model", tmp_path / "model.onnx", evidence)

    assert found.runtimes[1].difference < 1e-4
    assert (found.path, found.runtimes[1].agreement) == (None, 0)
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("step", ["write_bytes", "sync", "replace"])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("earlier", [True, False])
def test_a_write_that_is_stopped_leaves_what_was_there(warm, evidence, tmp_path, monkeypatch, step, failure, earlier):
    if earlier:
        (tmp_path / "model.onnx").write_bytes(b"an earlier export")
    before = everything(tmp_path)
    monkeypatch.setattr(export_module, "OnnxFile", Quick)

    def fail(*_):
        raise failure

    if step == "sync":
        monkeypatch.setattr(files, "sync", fail)
    else:
        monkeypatch.setattr(Path, step, fail)
    expected = RunError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as error:
        export(warm, tmp_path / "model.onnx", evidence)
    monkeypatch.undo()

    if expected is RunError:
        assert "cannot be written (No space left on device)" in str(error.value)
    assert everything(tmp_path) == before


class Quick:
    """A file that needs no exporter."""

    def __init__(self, predictor):
        self.predictor = predictor

    def content(self, facts):
        return json.dumps(facts).encode()

    def opened(self, content):
        return self.predictor.predict_probs


def test_quantisation_is_measured_and_written_down(warm, evidence, tmp_path):
    found = export(warm, tmp_path / "small.onnx", evidence, quantize="static")

    assert [one.name for one in found.runtimes] == ["bundle, torch", "onnx file, fp32", "onnx file, int8 static"]
    model = OnnxPredictor(found.path)
    facts = model.facts["quantisation"]
    assert facts["method"] == "static"
    assert facts["agreement"]["value"] == found.cost.agreement.value
    assert facts["agreement"]["n"] == 38
    assert facts["accuracy"]["n"] == 38
    assert set(model.facts["tested"]["images_per_second"]) == {one.name for one in found.runtimes}
    # What is in the file is the quantised model, whose difference is its own.
    exact = found.runtimes[2].difference
    assert exact > found.runtimes[1].difference


@pytest.mark.parametrize(
    ("format", "quantize", "words"),
    [
        ("tflite", "none", "format=tflite: expected one of onnx, torch"),
        ("onnx", "int4", "quantize=int4: expected one of none, static"),
        ("torch", "static", "quantize=static is for format=onnx"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_loaded(format, quantize, words, evidence, tmp_path):
    with pytest.raises(ConfigError, match=words):
        export(tmp_path / "nowhere", tmp_path / "file", evidence, format=format, quantize=quantize)


def test_missing_packages_name_the_extra(monkeypatch):
    monkeypatch.setattr(export_module, "find_spec", lambda name: None)

    with pytest.raises(
        ConfigError, match=r"onnx, onnxscript, onnxruntime. Install them: pip install 'medvision\[export\]'"
    ):
        check_choices("onnx", "none")
    check_choices("torch", "none")


def test_a_classical_model_is_refused_with_what_to_do_instead(evidence, images, tmp_path, classical_node):
    architecture = classical_node("knn") | {"num_classes": 3, "in_channels": 1, "image_size": [12, 16]}
    model = build(architecture, "model")
    model.estimator.fit(model.features(images), np.arange(len(images)) % 3)
    task, decode = Task.classes("abc"), {"size": [12, 16], "channels": 1, "resize": "letterbox"}
    save_bundle(tmp_path / "model", model, architecture=architecture, task=task, decode=decode, fingerprint="")

    with pytest.raises(ConfigError, match=r"(?s)holds a classical model .*networks only.*Carry the bundle"):
        export(tmp_path / "model", tmp_path / "model.onnx", evidence)
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("name", ["bundle.json", "weights.safetensors"])
def test_a_damaged_bundle_is_refused(warm, evidence, tmp_path, name):
    content = bytearray((warm / name).read_bytes())
    content[len(content) // 2] ^= 1
    (warm / name).write_bytes(content)

    with pytest.raises(BundleError, match=name):
        export(warm, tmp_path / "model.onnx", evidence)
    assert not (tmp_path / "model.onnx").exists()


def test_a_file_that_cannot_be_reopened_is_not_written(warm, evidence, tmp_path, monkeypatch):
    class Forgetful(Quick):
        def opened(self, content):
            if b"tested" in content:
                raise BundleError("cannot be read")
            return super().opened(content)

    monkeypatch.setattr(export_module, "OnnxFile", Forgetful)
    with pytest.raises(BundleError, match="cannot be read"):
        export(warm, tmp_path / "model.onnx", evidence)
    assert not (tmp_path / "model.onnx").exists()

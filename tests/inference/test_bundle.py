import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from medvision import __version__, files
from medvision.errors import BundleError, ConfigError
from medvision.inference.bundle import load_bundle, read_manifest, save_bundle, write_card
from medvision.inference.decision import Decision
from medvision.inference.predictor import Predictor
from medvision.metrics.operating_point import OperatingPoint
from medvision.models.pretrained import pretrained
from medvision.tasks import Task

DECISION = Decision(
    temperature=1.5,
    operating_point=OperatingPoint(("glioma", "ménière"), 0.25, "sensitivity", 0.95),
    conformal={"coverage": 0.9, "quantile": 0.8},
    ood={"mean": [10.0, 20.0], "n": 3},
)


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_what_is_loaded_is_what_was_saved_bit_by_bit(bundle, network, images):
    predictor = load_bundle(bundle)

    loaded, saved = predictor.network.state_dict(), network.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)
    assert predictor.class_names == ("no tumour", "glioma", "ménière")
    assert predictor.decode == {"size": (12, 16), "channels": 1, "resize": "letterbox"}
    assert predictor.decision == Decision()
    before = Predictor(network, predictor.task, decode=predictor.decode)
    np.testing.assert_array_equal(predictor.predict_logits(images), before.predict_logits(images))


def test_the_directory_tells_its_reader_everything(bundle, network):
    manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))

    assert sorted(contents(bundle)) == ["bundle.json", "weights.safetensors"]
    assert manifest["schema_version"] == 3
    assert manifest["medvision"] == __version__
    assert manifest["task"] == {"kind": "classes", "class_names": ["no tumour", "glioma", "ménière"]}
    assert manifest["architecture"]["_target_"] == "medvision.models.small_cnn.small_cnn"
    assert manifest["normalisation"] == {"mean": [100.0], "std": [50.0]}
    assert manifest["fingerprint"] == "f" * 64
    assert manifest["licence"].startswith("Research use only")
    weights = load_file(bundle / "weights.safetensors")
    assert weights.keys() == network.state_dict().keys()
    assert manifest["files"] == {
        "weights.safetensors": hashlib.sha256((bundle / "weights.safetensors").read_bytes()).hexdigest()
    }


def test_equal_networks_give_equal_bytes(bundle, save, tmp_path):
    assert contents(save(tmp_path / "again")) == contents(bundle)


def test_temperature_is_applied_after_loading(save, tmp_path, images):
    warm, cold = (
        load_bundle(save(tmp_path / "warm", decision=Decision(temperature=3.0))),
        load_bundle(save(tmp_path / "cold")),
    )

    assert warm.decision.temperature == 3.0
    np.testing.assert_array_equal(warm.predict_logits(images), cold.predict_logits(images))
    assert warm.predict_probs(images).max() < cold.predict_probs(images).max()


def test_pretrained_weights_are_not_fetched_again(save, tmp_path):
    settings = {
        "_target_": "medvision.models.pretrained.pretrained",
        "name": "resnet18",
        "weights": "default",
    }
    network = pretrained(2, 1, (32, 32), name="resnet18")
    save_bundle(
        tmp_path / "model",
        network,
        architecture=settings | {"num_classes": 2, "in_channels": 1, "image_size": [32, 32]},
        task=Task.classes(("a", "b")),
        decode={"size": [32, 32], "channels": 1, "resize": "stretch"},
        fingerprint="",
    )

    loaded = load_bundle(tmp_path / "model").network

    assert torch.equal(loaded.head.weight, network.head.weight)


def test_a_run_directory_stands_for_its_model(bundle, tmp_path):
    assert load_bundle(tmp_path).class_names == load_bundle(str(bundle)).class_names


def test_loading_leaves_the_callers_random_numbers_alone(bundle):
    state = torch.get_rng_state()

    load_bundle(bundle)

    assert torch.equal(torch.get_rng_state(), state)


def test_loaded_weights_outlive_their_file(bundle, images):
    predictor = load_bundle(bundle)
    before = predictor.predict_logits(images)

    (bundle / "weights.safetensors").write_bytes(b"")

    np.testing.assert_array_equal(predictor.predict_logits(images), before)


def test_what_is_decided_travels_with_the_weights(bundle, save, tmp_path):
    assert load_bundle(bundle).decision == Decision()
    assert load_bundle(save(tmp_path / "decided", decision=DECISION)).decision == DECISION


@pytest.mark.parametrize(
    "evil",
    [
        {"temperature": float("nan")},
        {"temperature": 0},
        {"temperature": True},
        {"temperature": None},
        {"conformal": {"coverage": 0.9, "quantile": float("inf")}},
        {"conformal": {"coverage": 0.9}},
        {"operating_point": {"positive": ["glioma"], "threshold": float("nan"), "rule": "youden", "target": None}},
        {"operating_point": {"positive": ["nobody"], "threshold": 0.5, "rule": "youden", "target": None}},
        {"ood": {"bounds": {"brightness": [float("nan"), 1.0]}}},
        {"task": {"kind": "classes", "class_names": ["a", "a", "b"]}},
        {"task": {"kind": "volumes", "class_names": ["a", "b", "c"]}},
        {"task": None},
    ],
)
def test_a_decision_that_would_let_everything_pass_is_refused(bundle, evil, rewrite):
    rewrite(bundle, **evil)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        load_bundle(bundle)


def test_a_card_leaves_the_model_alone(bundle):
    before = contents(bundle)

    write_card(bundle, "# A model\nméningiome\n")

    assert (bundle / "README.md").read_text(encoding="utf-8") == "# A model\nméningiome\n"
    assert contents(bundle) == before | {"README.md": (bundle / "README.md").read_bytes()}
    load_bundle(bundle)


def test_a_card_without_a_bundle_makes_nothing(tmp_path):
    with pytest.raises(BundleError, match="no bundle in"):
        write_card(tmp_path / "no" / "where", "card")

    assert not list(tmp_path.iterdir())


def older(directory, version, **changes):
    """Write the manifest of an older schema."""
    path = directory / "bundle.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    del manifest["sha256"], manifest["task"], manifest["ood"]
    manifest |= {"schema_version": version, "medvision": "0.1.0", "class_names": ["no tumour", "glioma", "ménière"]}
    manifest |= {"gate": None} | changes
    if version == 1:
        del manifest["tta"]
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize("version", [1, 2])
def test_a_bundle_of_an_older_schema_predicts_as_it_did(bundle, images, version):
    expected = load_bundle(bundle).predict_probs(images)
    older(bundle, version)

    predictor = load_bundle(bundle)

    np.testing.assert_array_equal(predictor.predict_probs(images), expected)
    assert predictor.decision == Decision()
    assert predictor.class_names == ("no tumour", "glioma", "ménière")


def test_the_decision_of_an_older_bundle_is_read(bundle):
    older(bundle, 2, gate=DECISION.ood, **{name: DECISION.to_json()[name] for name in ("temperature", "conformal")})

    assert load_bundle(bundle).decision == Decision(1.5, conformal=DECISION.conformal, ood=DECISION.ood)


def test_a_card_that_an_older_bundle_lists_may_be_replaced(bundle):
    (bundle / "README.md").write_text("old")
    older(bundle, 2, files=read_manifest(bundle)["files"] | {"README.md": hashlib.sha256(b"old").hexdigest()})

    write_card(bundle, "new")

    assert (bundle / "README.md").read_text() == "new"
    load_bundle(bundle)


def test_old_names_of_networks_are_found(bundle, rewrite):
    architecture = {
        "_target_": "medvision.models.torchvision_models.torchvision_model",
        **{"name": "resnet18", "num_classes": 2, "in_channels": 1, "image_size": [32, 32]},
    }
    rewrite(bundle, architecture=architecture)

    assert read_manifest(bundle)["architecture"]["_target_"] == "medvision.models.pretrained.pretrained"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_json_lacks_writes_nothing(save, tmp_path, value):
    with pytest.raises(ValueError, match="JSON"):
        save(tmp_path / "model", decode={"size": [12, 16], "channels": value})

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["weights.safetensors", "bundle.json"])
def test_a_flipped_bit_anywhere_in_a_file_is_noticed(bundle, name):
    original = (bundle / name).read_bytes()
    for position in range(0, len(original), len(original) // 40):
        damaged = bytearray(original)
        damaged[position] ^= 1
        (bundle / name).write_bytes(damaged)

        with pytest.raises(BundleError, match=name):
            load_bundle(bundle)


@pytest.mark.parametrize("name", ["weights.safetensors", "bundle.json"])
def test_a_missing_file_is_named(bundle, name):
    (bundle / name).unlink()

    with pytest.raises(BundleError, match=name):
        load_bundle(bundle)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"schema_version": "one"}', "\udcff"])
def test_a_manifest_that_is_none_is_refused(bundle, text):
    (bundle / "bundle.json").write_bytes(text.encode(errors="surrogateescape"))

    with pytest.raises(BundleError, match=r"bundle\.json"):
        load_bundle(bundle)


def test_a_newer_schema_is_refused_with_the_remedy(bundle, rewrite):
    rewrite(bundle, schema_version=4, medvision="9.1.0")

    with pytest.raises(BundleError, match=r"written by medvision 9\.1\.0;.*\n?.*Update medvision"):
        load_bundle(bundle)


def test_keys_of_later_versions_of_the_same_schema_are_passed_over(bundle, rewrite):
    rewrite(bundle, thumbnail={"size": 0.9})

    assert load_bundle(bundle).class_names[1] == "glioma"


EVIL = [
    "os.system",
    "medvision.inference.bundle.shutil.rmtree",
    "medvision.data.table.os.system",
    "medvision.training.checkpoint_io.AtomicCheckpointIO.remove_checkpoint",
    "medvision.files.write_text",
    "medvision.runs.directory.RunDirectory",
    "medvision.pipeline.fit.fit",
    "lightning.pytorch.callbacks.ModelCheckpoint",
    "torch.hub.load",
    "torch.load",
    "sklearn.datasets.load_files",
    "joblib.load",
]


@pytest.mark.parametrize("target", EVIL)
def test_an_evil_target_is_refused_and_does_nothing(bundle, tmp_path, target, rewrite):
    manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    witness = tmp_path / "witness"
    nested = {"_target_": target, "command": f"touch {witness}", "path": str(bundle), "filepath": str(bundle)}
    before = contents(bundle).keys()

    for architecture in (
        nested | {"num_classes": 3, "in_channels": 1, "image_size": [12, 16]},
        manifest["architecture"] | {"hidden": nested},
        manifest["architecture"] | {"channels": [4, {"deep": [nested]}]},
    ):
        rewrite(bundle, architecture=architecture)
        with pytest.raises(ConfigError, match="_target_"):
            load_bundle(bundle)

    assert contents(bundle).keys() == before
    assert not witness.exists()


@pytest.mark.parametrize("key", ["_target_", "num_classes", "in_channels", "image_size"])
def test_an_incomplete_architecture_is_refused(bundle, key, rewrite):
    manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    rewrite(bundle, architecture={name: one for name, one in manifest["architecture"].items() if name != key})
    with pytest.raises(BundleError, match=key):
        load_bundle(bundle)


@pytest.mark.parametrize("part", ["architecture", "decode", "task", "files"])
def test_a_manifest_without_one_of_its_parts_is_refused(bundle, part, rewrite):
    rewrite(bundle, **{part: None})
    with pytest.raises(BundleError, match=part):
        load_bundle(bundle)


def test_weights_of_a_path_are_not_opened(bundle, tmp_path, rewrite):
    """Neither in the node of the model nor deeper: a path there could be a pipe, or a file of pickles."""
    architecture = {
        "_target_": "medvision.models.pretrained.pretrained",
        **{"name": "resnet18", "weights": str(tmp_path / "evil.pth")},
        **{"num_classes": 3, "in_channels": 1, "image_size": [32, 32]},
    }
    (tmp_path / "evil.pth").write_bytes(b"not read")
    rewrite(bundle, architecture=architecture)
    with pytest.raises(BundleError, match=r"weights\.safetensors does not fit"):
        load_bundle(bundle)


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_file_that_is_no_file_is_refused(bundle, kind):
    weights = bundle / "weights.safetensors"
    weights.unlink()
    if kind == "folder":
        weights.mkdir()
    else:
        os.mkfifo(weights)

    with pytest.raises(BundleError, match="not a regular file"):
        load_bundle(bundle)


def test_weights_of_another_architecture_are_refused(bundle, rewrite):
    manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    rewrite(bundle, architecture=manifest["architecture"] | {"hidden": 17})

    with pytest.raises(BundleError, match=r"weights\.safetensors does not fit medvision\.models\.small_cnn"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "model/../bundle.json"])
def test_files_outside_the_bundle_are_not_read(bundle, name, rewrite):
    rewrite(bundle, files={name: "0" * 64})

    with pytest.raises(BundleError, match="not a file of the bundle"):
        load_bundle(bundle)


def test_a_manifest_without_weights_is_refused(bundle, rewrite):
    rewrite(bundle, files={})

    with pytest.raises(BundleError, match=r"lists no weights\.safetensors"):
        load_bundle(bundle)


def test_saving_again_replaces_the_bundle_and_leaves_nothing_beside(bundle, save, tmp_path):
    before = contents(bundle)

    save(tmp_path / "model", seed=1)

    assert contents(bundle) != before
    load_bundle(bundle)
    assert list(tmp_path.iterdir()) == [bundle]


@pytest.mark.parametrize("step", ["write_text", "sync", "rename"])
@pytest.mark.parametrize("failure", [OSError("No space left on device"), KeyboardInterrupt()])
def test_a_save_that_is_stopped_leaves_the_old_bundle(bundle, save, tmp_path, monkeypatch, step, failure):
    before = contents(bundle)
    rename = Path.rename

    def fail(*_, **__):
        raise failure

    def fail_for_the_new_one(path, target):
        return fail() if path.name.endswith(".new") else rename(path, target)

    match step:
        case "write_text":
            monkeypatch.setattr(Path, "write_text", fail)
        case "sync":
            monkeypatch.setattr(files, "sync", fail)
        case "rename":
            monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(type(failure)):
        save(bundle, seed=1)
    monkeypatch.undo()

    assert contents(bundle) == before
    assert list(tmp_path.iterdir()) == [bundle]


@pytest.mark.parametrize("killed", ["while writing", "between the renames", "while cleaning up"])
def test_what_a_killed_save_left_behind_is_cleared_by_the_next(bundle, save, tmp_path, killed):
    match killed:
        case "while writing":
            (tmp_path / ".model.new").mkdir()
            (tmp_path / ".model.new" / "weights.safetensors").write_bytes(b"half")
        case "between the renames":
            save(tmp_path / ".model.new", seed=1)
            bundle.rename(tmp_path / ".model.old")
        case "while cleaning up":
            save(tmp_path / ".model.old")

    save(tmp_path / "model", seed=2)

    assert load_bundle(bundle).network.mean.item() == 102.0
    assert list(tmp_path.iterdir()) == [bundle]


def test_a_save_killed_between_its_renames_has_not_lost_the_old_bundle(bundle, save, tmp_path, monkeypatch):
    before = contents(bundle)
    bundle.rename(tmp_path / ".model.old")

    def fail(_):
        raise OSError("disk full")

    monkeypatch.setattr(files, "sync", fail)
    with pytest.raises(OSError, match="disk full"):
        save(bundle, seed=1)

    assert contents(bundle) == before


def test_a_directory_that_is_no_bundle_is_never_replaced(save, tmp_path):
    (tmp_path / "thesis.txt").write_text("five years of work")

    with pytest.raises(BundleError, match="is not a bundle; it was left as it is"):
        save(tmp_path)

    assert (tmp_path / "thesis.txt").read_text() == "five years of work"


def test_a_name_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"no bundle in .*expected bundle\.json there, or in model/ of a run"):
        load_bundle(tmp_path / "nowhere")

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from medvision import __version__, files
from medvision.errors import BundleError, ConfigError
from medvision.inference.bundle import amend_bundle, load_bundle, save_bundle
from medvision.inference.predictor import Predictor
from medvision.models.torchvision_models import torchvision_model

DECISION = {
    "temperature": 1.5,
    "operating_point": {"positive": ["glioma", "ménière"], "threshold": 0.25, "rule": "sensitivity", "target": 0.95},
    "conformal": {"coverage": 0.9, "quantile": 0.8},
    "gate": {"mean": [10.0, 20.0], "n": 3},
}


def rewrite(directory, **changes):
    """Edit bundle.json as somebody would who knows how to make it consistent again."""
    path = directory / "bundle.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) | changes
    del manifest["sha256"]
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(manifest), encoding="utf-8")


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_what_is_loaded_is_what_was_saved_bit_by_bit(bundle, network, images):
    predictor = load_bundle(bundle)

    loaded, saved = predictor.network.state_dict(), network.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)
    assert predictor.class_names == ("no tumour", "glioma", "ménière")
    assert predictor.decode == {"size": (12, 16), "channels": 1, "resize": "letterbox"}
    assert predictor.temperature == 1.0
    before = Predictor(network, predictor.class_names, decode=predictor.decode)
    np.testing.assert_array_equal(predictor.predict_logits(images), before.predict_logits(images))


def test_the_directory_tells_its_reader_everything(bundle, network):
    manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))

    assert sorted(contents(bundle)) == ["bundle.json", "weights.safetensors"]
    assert manifest["schema_version"] == 2
    assert manifest["medvision"] == __version__
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
    warm, cold = load_bundle(save(tmp_path / "warm", temperature=3.0)), load_bundle(save(tmp_path / "cold"))

    assert warm.temperature == 3.0
    np.testing.assert_array_equal(warm.predict_logits(images), cold.predict_logits(images))
    assert warm.predict_probs(images).max() < cold.predict_probs(images).max()


def test_pretrained_weights_are_not_fetched_again(save, tmp_path):
    settings = {
        "_target_": "medvision.models.torchvision_models.torchvision_model",
        "name": "resnet18",
        "weights": "default",
    }
    network = torchvision_model(2, 1, (32, 32), name="resnet18")
    save_bundle(
        tmp_path / "model",
        network,
        architecture=settings | {"num_classes": 2, "in_channels": 1, "image_size": [32, 32]},
        class_names=["a", "b"],
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


def test_decisions_are_none_unless_they_are_saved(bundle, save, tmp_path):
    predictor, decided = load_bundle(bundle), load_bundle(save(tmp_path / "decided", **DECISION))

    for name, value in DECISION.items():
        assert getattr(predictor, name) == (1.0 if name == "temperature" else None)
        assert getattr(decided, name) == value


def test_an_amended_bundle_says_the_new_things_with_the_weights_of_before(bundle, images):
    weights, inode = (bundle / "weights.safetensors").read_bytes(), (bundle / "weights.safetensors").stat().st_ino
    before = load_bundle(bundle)

    amend_bundle(bundle, **DECISION, card="# A model\nméningiome\n")

    assert (bundle / "weights.safetensors").read_bytes() == weights
    assert (bundle / "weights.safetensors").stat().st_ino == inode
    assert (bundle / "README.md").read_text(encoding="utf-8") == "# A model\nméningiome\n"
    after = load_bundle(bundle)
    assert {name: getattr(after, name) for name in DECISION} == DECISION
    np.testing.assert_array_equal(after.predict_logits(images), before.predict_logits(images))
    assert not list(bundle.parent.glob(".model*"))


def test_an_amended_bundle_is_the_one_that_saving_it_all_would_have_made(bundle, save, tmp_path):
    amend_bundle(bundle, **DECISION)

    assert contents(bundle) == contents(save(tmp_path / "at once", **DECISION))


def test_what_is_not_amended_stays_and_none_takes_away(bundle):
    amend_bundle(bundle, **DECISION, card="one")
    amend_bundle(bundle, conformal=None, card="two")

    after = load_bundle(bundle)
    assert (after.temperature, after.conformal, after.gate) == (1.5, None, DECISION["gate"])
    assert (bundle / "README.md").read_text() == "two"
    amend_bundle(bundle, temperature=2.0)
    assert (bundle / "README.md").read_text() == "two"
    assert load_bundle(bundle).temperature == 2.0


def test_what_is_amended_reads_back_as_json_would_have_it(bundle):
    amend_bundle(bundle, gate={10: (1, 2), 9: 0.5})

    assert load_bundle(bundle).gate == {"10": [1, 2], "9": 0.5}


def test_amending_does_not_bless_what_was_damaged_before(bundle):
    weights = bytearray((bundle / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (bundle / "weights.safetensors").write_bytes(weights)

    amend_bundle(bundle, temperature=2.0)

    with pytest.raises(BundleError, match=r"weights\.safetensors was changed"):
        load_bundle(bundle)
    rewrite(bundle, schema_version=3)
    with pytest.raises(BundleError, match="Update medvision"):
        amend_bundle(bundle, temperature=1.0)


def test_a_bundle_of_the_first_schema_has_one_view(bundle):
    manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    del manifest["tta"], manifest["sha256"]
    manifest["schema_version"] = 1
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (bundle / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert load_bundle(bundle).tta == "none"


def test_amending_what_is_no_bundle_makes_nothing(tmp_path):
    with pytest.raises(BundleError, match="no bundle in"):
        amend_bundle(tmp_path / "no" / "where", temperature=2.0)

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_json_lacks_leaves_the_bundle_as_it_was(bundle, tmp_path, value):
    before = contents(bundle)

    with pytest.raises(ValueError, match="JSON"):
        amend_bundle(bundle, conformal={"coverage": 0.9, "quantile": value}, card="new")

    assert contents(bundle) == before
    assert list(tmp_path.iterdir()) == [bundle]


@pytest.mark.parametrize("step", ["sync", "rename"])
def test_an_amendment_that_is_killed_leaves_the_old_bundle(bundle, tmp_path, monkeypatch, step):
    amend_bundle(bundle, card="old")
    before = contents(bundle)
    rename = Path.rename

    def fail(path, *target):
        if step == "sync" or path.name.endswith(".new"):
            raise KeyboardInterrupt
        return rename(path, *target)

    monkeypatch.setattr(*((files, "sync") if step == "sync" else (Path, "rename")), fail)
    with pytest.raises(KeyboardInterrupt):
        amend_bundle(bundle, **DECISION, card="new")
    monkeypatch.undo()

    assert contents(bundle) == before
    bundle.rename(tmp_path / ".model.old")  # as a kill between the two renames leaves it
    amend_bundle(bundle, temperature=3.0)
    assert load_bundle(bundle).temperature == 3.0


def test_a_file_system_without_hard_links_gets_copies(bundle, monkeypatch):
    def fail(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(files.os, "link", fail)
    amend_bundle(bundle, temperature=2.0)

    assert load_bundle(bundle).temperature == 2.0


@pytest.mark.parametrize("name", ["weights.safetensors", "bundle.json", "README.md"])
def test_a_flipped_bit_anywhere_in_a_file_is_noticed(bundle, name):
    amend_bundle(bundle, **DECISION, card="# Model card\n" * 10)
    original = (bundle / name).read_bytes()
    for position in range(0, len(original), len(original) // 40):
        damaged = bytearray(original)
        damaged[position] ^= 1
        (bundle / name).write_bytes(damaged)

        with pytest.raises(BundleError, match=name):
            load_bundle(bundle)


@pytest.mark.parametrize("name", ["weights.safetensors", "bundle.json", "README.md"])
def test_a_missing_file_is_named(bundle, name):
    amend_bundle(bundle, card="card")
    (bundle / name).unlink()

    with pytest.raises(BundleError, match=name):
        load_bundle(bundle)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"schema_version": "one"}', "\udcff"])
def test_a_manifest_that_is_none_is_refused(bundle, text):
    (bundle / "bundle.json").write_bytes(text.encode(errors="surrogateescape"))

    with pytest.raises(BundleError, match=r"bundle\.json"):
        load_bundle(bundle)


def test_a_newer_schema_is_refused_with_the_remedy(bundle):
    rewrite(bundle, schema_version=3, medvision="9.1.0")

    with pytest.raises(BundleError, match=r"written by medvision 9\.1\.0;.*\n?.*Update medvision"):
        load_bundle(bundle)


def test_keys_of_later_versions_of_the_same_schema_are_passed_over(bundle):
    rewrite(bundle, thumbnail={"size": 0.9})

    assert load_bundle(bundle).class_names[1] == "glioma"


@pytest.mark.parametrize(
    "target", ["os.system", "medvision.inference.bundle.shutil.rmtree", "medvision.data.table.os.system"]
)
def test_an_evil_target_is_refused_and_does_nothing(bundle, tmp_path, target):
    manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    witness = tmp_path / "witness"
    nested = {"_target_": target, "command": f"touch {witness}", "path": str(bundle)}

    for architecture in (nested | {"image_size": [12, 16]}, manifest["architecture"] | {"hidden": nested}):
        rewrite(bundle, architecture=architecture)
        with pytest.raises(ConfigError, match="_target_"):
            load_bundle(bundle)

    assert bundle.exists()
    assert not witness.exists()


def test_an_allowed_target_that_builds_no_network_is_refused(bundle):
    rewrite(
        bundle,
        architecture={
            "_target_": "medvision.models.shapes.size_refused",
            "name": "x",
            "image_size": [1, 1],
            "remark": "",
        },
    )

    with pytest.raises(BundleError, match=r"size_refused does not build a network"):
        load_bundle(bundle)


def test_weights_of_another_architecture_are_refused(bundle):
    manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    rewrite(bundle, architecture=manifest["architecture"] | {"hidden": 17})

    with pytest.raises(BundleError, match=r"weights\.safetensors does not fit medvision\.models\.small_cnn"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "model/../bundle.json"])
def test_files_outside_the_bundle_are_not_read(bundle, name):
    rewrite(bundle, files={name: "0" * 64})

    with pytest.raises(BundleError, match="not a file of the bundle"):
        load_bundle(bundle)


def test_a_manifest_without_weights_is_refused(bundle):
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

from __future__ import annotations

import functools
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch
from omegaconf import OmegaConf

from medvision.config import targets
from medvision.errors import ConfigError


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A package `mylab` outside of the project, with something good and something evil in it."""
    (tmp_path / "mylab.py").write_text(
        "import os\n"
        "from functools import partial\n"
        "class Thing:\n"
        "    def __init__(self, *args, size: int = 1, inner=None, many=(), **kwargs):\n"
        "        self.args, self.size, self.inner, self.many, self.kwargs = args, size, inner, many, kwargs\n"
        "VALUE = 3\n"
    )
    (tmp_path / "broken_lab.py").write_text("import a_package_that_is_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MEDVISION_ALLOW", "mylab, broken_lab")
    yield "mylab"
    sys.modules.pop("mylab", None)


def test_resolves_what_is_allowed(lab):
    assert targets.resolve("torch.optim.Adam", "optimizer") is torch.optim.Adam
    assert targets.resolve("mylab.Thing", "optimizer").__name__ == "Thing"


def test_every_name_of_every_slot_is_there():
    for slot, names in targets.slots().items():
        for name in names:
            assert callable(targets.resolve(name, slot)), name


def test_a_name_belongs_to_its_slot_only():
    for slot, names in targets.slots().items():
        others = set().union(*targets.slots().values()) - set(names)
        for name in others:
            with pytest.raises(ConfigError, match="is not allowed"):
                targets.resolve(name, slot)


@pytest.mark.parametrize(
    ("path", "slot"),
    [
        ("model", "model"),
        ("model.estimator", "model.estimator"),
        ("augmentation.transforms[0]", "augmentation.transforms[]"),
        ("augmentation.transforms[1].transforms[2].transforms[0]", "augmentation.transforms[].transforms[]"),
        ("evaluation.metrics[0]", "evaluation.metrics[]"),
        ("model.hidden", None),
        ("model.features.inner", None),
        ("model.estimator.estimator", None),
        ("augmentation.fill", None),
        ("augmentation.transforms[0].fill", None),
        ("augmentation.transforms[0].transforms[0].fill", None),
        ("trainer.callbacks[0]", None),
        ("loss.inner", None),
        ("data", None),
        ("data.source.root", None),
        ("checkpoint", None),
        ("", None),
    ],
)
def test_a_node_is_built_only_where_a_slot_is(path, slot):
    if slot is not None:
        assert targets.slot_of(path) == slot
        return
    with pytest.raises(ConfigError, match="no _target_ belongs here"):
        targets.slot_of(path)


@pytest.mark.parametrize(
    "path",
    [
        "builtins.eval",
        "torch.load",
        "os.system",
        "subprocess.Popen",
        "medvision.config.compose.os.system",  # the prefix is the package's own, the module is not
        "medvision.data.decode.os.system",  # an allowed prefix, but defined elsewhere
        "medvision.data.layouts.folders.Path.unlink",
        "mylab.os.system",
        "mylab.partial",
        "mylab.VALUE",
        "medvision.database.evil",  # an allowed prefix only as a string
        "mylab.nothing",
        "torch.optim.no_such_module.Adam",
        "",
    ],
)
def test_refuses_everything_else(lab, path):
    with pytest.raises(ConfigError) as caught:
        targets.resolve(path, "model")
    assert 1 <= len(str(caught.value).splitlines()) <= 3


def test_a_refused_module_is_not_even_imported(tmp_path, monkeypatch):
    (tmp_path / "evil_on_import.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="not allowed"):
        targets.resolve("evil_on_import.anything", "model")
    assert not (tmp_path / "marker").exists()


def test_the_environment_alone_extends_the_list(lab, monkeypatch):
    monkeypatch.delenv("MEDVISION_ALLOW")
    with pytest.raises(ConfigError, match="MEDVISION_ALLOW"):
        targets.resolve("mylab.Thing", "model")


def test_a_missing_dependency_of_a_target_is_named(lab):
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_installed"):
        targets.resolve("broken_lab.anything", "model")


def test_builds_nested_nodes_first_and_in_plain_types(lab):
    node = OmegaConf.create(
        {
            "_target_": "mylab.Thing",
            "size": 2,
            "features": {"_target_": "mylab.Thing", "size": 5},
            "many": [1, {"a": [1, 2]}],
        }
    )
    thing = targets.build(node, "model", size=7, extra=True)
    assert thing.size == 7  # the program's argument wins
    assert thing.kwargs["extra"] is True
    assert thing.kwargs["features"].size == 5
    assert type(thing.many) is list
    assert thing.many == [1, {"a": [1, 2]}]
    assert type(thing.many[1]["a"]) is list


def test_a_list_of_nodes_is_built_where_it_has_a_slot():
    across, down = (
        {"_target_": f"torchvision.transforms.v2.Random{name}Flip", "p": 1.0} for name in ("Horizontal", "Vertical")
    )
    inner = {"_target_": "torchvision.transforms.v2.Compose", "transforms": [down]}
    node = {"_target_": "medvision.data.transforms_v2.TorchvisionTransforms", "transforms": [across, inner]}
    found = targets.build(node, "augmentation")
    images = torch.arange(24, dtype=torch.uint8).reshape(2, 1, 3, 4)
    assert torch.equal(found(images, found.draw(0, 0, 2)), images.flip(2, 3))


@pytest.mark.parametrize("node", [None, 3, [], {}, {"lr": 0.1}])
def test_what_is_no_node_is_not_built(node):
    with pytest.raises(ConfigError, match=r"^model=.*: expected a node with _target_"):
        targets.build(node, "model")


def test_a_node_without_a_slot_is_not_built(lab):
    with pytest.raises(ConfigError, match=r"model\.inner: no _target_ belongs here"):
        targets.build({"_target_": "mylab.Thing", "inner": {"_target_": "mylab.Thing"}}, "model")


def test_optimizers_are_called_later():
    make = targets.build({"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.5}, "optimizer")
    assert isinstance(make, functools.partial)
    optimizer = make([torch.nn.Parameter(torch.zeros(1))])
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_an_object_of_another_package_has_its_type(lab):
    assert targets.resolve_object("mylab.VALUE", int) == 3
    with pytest.raises(ConfigError, match=r"is int, not builtins\.str"):
        targets.resolve_object("mylab.VALUE", str)
    with pytest.raises(ConfigError, match="MEDVISION_ALLOW"):
        targets.resolve_object("os.sep", str)


def test_find_goes_through_mappings_and_lists():
    node = {"a": {"_target_": "x", "b": [{"_target_": "y"}]}, "c": 1}
    assert [(path, found["_target_"]) for path, found in targets.find(node)] == [("a", "x"), ("a.b[0]", "y")]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"lrr": 0.1}, r"optimizer\.lrr is not a key of this configuration\. Did you mean optimizer\.lr\?"),
        ({"lr": "fast"}, r"optimizer\.lr=fast does not fit: expected a number\."),
        ({"betas": [0.9]}, r"optimizer\.betas=\[0\.9\] does not fit: expected \[a number, a number\]\."),
        ({"amsgrad": 1}, r"optimizer\.amsgrad=1 does not fit: expected true or false\."),
        ({"params": []}, r"optimizer\.params cannot be set"),
    ],
)
def test_check_node_compares_with_the_signature(node, message):
    with pytest.raises(ConfigError, match=message):
        targets.check_node("optimizer", {"_target_": "torch.optim.Adam", "_partial_": True} | node, ("params",))


def test_check_node_wants_what_has_no_default():
    with pytest.raises(ConfigError, match=r"optimizer\.params is required"):
        targets.check_node("optimizer", {"_target_": "torch.optim.Adam"})
    targets.check_node("optimizer", {"_target_": "torch.optim.Adam", "betas": [0.9, 0.99]}, ("params",))


def test_check_node_leaves_keyword_arguments_to_the_target(lab):
    targets.check_node("model", {"_target_": "mylab.Thing", "whatever": 1})


@pytest.mark.parametrize(
    ("value", "expected", "fits"),
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        (1, float, True),
        (True, float, False),
        ("1", float, False),
        (True, bool, True),
        (0, bool, False),
        ("a", str, True),
        (None, str, False),
        ("a", Path, True),
        (None, int | None, True),
        ("x", int | None, False),
        (1.5, float | torch.Tensor, True),
        ("x", float | torch.Tensor, False),
        (["x"], float | torch.Tensor, False),
        ([0.1, 0.2], float | torch.Tensor, False),
        ("a", Literal["a", "b"], True),
        ("c", Literal["a", "b"], False),
        (1, Literal[True], False),
        ([1, 2], Sequence[int], True),
        ([1, "2"], Sequence[int], False),
        ("12", Sequence[int], False),
        ([1, 2], tuple[int, int], True),
        ([1], tuple[int, int], False),
        ([1, 2, 3], tuple[int, ...], True),
        ([1], list, True),
        ({"a": 1}, dict[str, int], True),
        ([1], Mapping[str, int], False),
        ({"_target_": "x"}, torch.nn.Module, True),
        ({"_target_": "x"}, Callable[[int], int], True),
        ({"_target_": "x"}, int, False),
        ({"a": 1}, torch.nn.Module, False),
        ("x", torch.nn.Module, False),
        (object(), "an annotation for the type checker only", True),
    ],
)
def test_check_type(value, expected, fits):
    if fits:
        targets.check_type("key", value, expected)
    else:
        with pytest.raises(ConfigError, match=r"^key="):
            targets.check_type("key", value, expected)


def test_check_type_shows_how_a_list_is_written():
    with pytest.raises(ConfigError, match=r"expected a list of text or null\. Write key=\[x\]\."):
        targets.check_type("key", "x", list[str] | None)


def test_check_type_offers_no_list_where_none_fits():
    with pytest.raises(ConfigError, match=r"expected a number\.$"):
        targets.check_type("key", "x", float | torch.Tensor)


def test_check_type_names_the_nearest_choice():
    with pytest.raises(ConfigError, match=r"expected letterbox or crop\. Did you mean letterbox\?"):
        targets.check_type("data.resize", "letterbx", Literal["letterbox", "crop"])


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("trainer.max_epoch", "Did you mean trainer.max_epochs?"),
        ("lr", "Did you mean optimizer.lr?"),
        ("trainer.lr", "Did you mean optimizer.lr?"),
        ("trainr", "Did you mean trainer?"),
        ("augmentation.flip", "Did you mean augmentation.horizontal_flip?"),
        ("zzz", ""),
    ],
)
def test_nearest(name, hint):
    names = OrderedDict.fromkeys(
        ["trainer", "trainer.max_epochs", "optimizer", "optimizer.lr", "augmentation.horizontal_flip"]
    )
    assert targets.nearest(name, names) == hint


def test_an_unknown_key_without_near_ones_shows_its_neighbours():
    error = targets.unknown_key("ema.zzz", ["ema", "ema.decay", "seed"])
    assert str(error) == "ema.zzz is not a key of this configuration. Keys in ema: decay."

import os
import shutil
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.version import VersionBase
from omegaconf import OmegaConf

from medvision.config import compose as config
from medvision.config import schema as checks
from medvision.config import targets
from medvision.config.compose import CONF_DIR, check, compose, options
from medvision.errors import ConfigError

GROUPS = [
    (group, option)
    for group in ("data", "model", "augmentation", "optimizer", "scheduler", "trainer", "logger")
    for option in options(group)
]


@pytest.fixture
def experiment(tmp_path):
    """Write an experiment file and return the overrides and folder that choose it."""

    def write(text: str) -> dict:
        (tmp_path / "experiment").mkdir(exist_ok=True)
        (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n# Mine.\n{text}")
        return {"config_dir": tmp_path}

    return write


def message(*overrides: str, **kwargs) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(*overrides, **kwargs)
    text = str(caught.value)
    assert len(text.splitlines()) <= 3
    assert "+" not in text  # no advice in Hydra's tongue
    return text


def test_the_defaults_train_a_small_network_on_digits():
    cfg = compose()
    assert (cfg.choices.data, cfg.choices.model, cfg.choices.experiment) == ("digits", "small_cnn", None)
    assert cfg.seed == 0
    assert cfg.overrides == []
    assert "hydra" not in cfg


@pytest.mark.parametrize(("group", "option"), GROUPS)
def test_every_option_can_be_composed(group, option):
    needed = ["data.root=anywhere"] if option in ("image_folder", "manifest", "medmnist") else []
    assert compose(f"{group}={option}", *needed).choices[group] == option


@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_can_be_composed(name):
    assert compose(f"experiment={name}").choices.experiment == name


def test_the_command_line_beats_the_experiment_which_beats_the_groups(experiment):
    found = experiment(
        "defaults:\n  - override /optimizer: sgd\n  - override /model: small_resnet\noptimizer:\n  lr: 0.25\nseed: 3\n"
    )
    cfg = compose("experiment=mine", "seed=4", "model=small_cnn", **found)
    assert (cfg.optimizer.lr, cfg.seed) == (0.25, 4)
    assert dict(cfg.choices) | {"optimizer": "sgd", "model": "small_cnn", "experiment": "mine"} == dict(cfg.choices)
    assert cfg.overrides == ["experiment=mine", "seed=4", "model=small_cnn"]
    assert "widths" not in cfg.model


def test_a_parameter_of_the_target_needs_no_line_in_the_file():
    assert compose("optimizer.eps=1e-6").optimizer.eps == 1e-6
    assert compose("+optimizer.eps=1e-6").optimizer.eps == 1e-6


@pytest.mark.parametrize("root", ["/a folder/b", "/home/josé/images (1)", "C:\\images", "a=b"])
def test_paths_are_taken_literally(root):
    cfg = compose("data=image_folder", f"data.root={root}")
    assert cfg.data.source.root == root


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.max_epoch=3", "Did you mean trainer.max_epochs?"),
        ("lr=0.1", "Did you mean optimizer.lr?"),
        ("trainr.max_epochs=3", "Did you mean trainer?"),
        ("ema.decai=0.9", "Did you mean ema.decay?"),
        ("data.batchsize=3", "Did you mean data.batch_size"),
        ("data.root=here", "data.root is not a key"),  # the digits have no root: a value that does nothing
        ("model=smal_cnn", "Did you mean small_cnn"),
        ("model=zzz", "Choose from"),
        ("model=null", "Choose from"),
        ("model=3", "Choose from"),
        ("experiment=digit_cnn", "Did you mean digits_cnn"),
        ("modl=small_cnn", "Did you mean model?"),
        ("seed=abc", "seed=abc does not fit: expected a whole number."),
        ("seed=null", "seed=null does not fit"),
        ("~seed", "seed=null does not fit"),
        ("~model", "model=null"),
        ("out=3", "out=3 does not fit: expected text or null."),
        ("checkpoint.every_n_steps=often", "expected a whole number or null"),
        ("trainer.max_epochs=ten", "expected a whole number"),
        ("model.hidden=1.5", "expected a whole number"),
        ("data.resize=letterbx", "Did you mean letterbox?"),
        ("data.batch_size=many", "expected a whole number"),
        ("loss.class_weights=balancd", "Did you mean balanced?"),
        ("early_stopping=3", "expected the keys patience, min_delta"),
        ("data.source=mnist", "expected a node with _target_"),
        ("model.num_classes=3", "model.num_classes cannot be set"),
        ("monitor=val/acc", "val/accuracy"),
        ("trainer.max_epochs=0", "expected a number >= 1"),
        ("data.batch_size=0", "expected a number >= 1"),
        ("optimizer.lr=-1", "expected a number > 0"),
        ("optimizer.lr=nan", "expected a number > 0"),
        ("data.val_fraction=1", "expected a number > 0 and < 1"),
        ("ema.decay=1", "expected a number >= 0 and < 1"),
        ("scheduler.warmup=0.1", "scheduler.warmup is not a key"),  # of the constant schedule
        ("data=image_folder", "data.root is required: add data.root=VALUE"),
        ("seed=0,1", "add -m"),
        ("seed", "expected key=value"),
        ("=3", "expected key=value"),
        ("a b", "expected key=value"),
        ("seed=[1", "expected key=value"),
        ("seed=${nowhere}", "nowhere"),
        ("hydra.run.dir=x", "multirun"),
    ],
)
def test_mistakes_are_named_with_their_remedy(override, words):
    assert words in message(override)


def test_combinations_that_contradict_each_other():
    assert "exclude each other" in message("resume=somewhere", "out=elsewhere")
    assert "exclude each other" in message("resume=somewhere", "init_from=elsewhere")
    assert "scheduler.warmup=1.5" in message("scheduler=cosine", "scheduler.warmup=1.5")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trainer:\n  max_epoch: 3\n", "Did you mean trainer.max_epochs?"),  # Hydra would merge it silently
        ("tariner:\n  max_epochs: 3\n", "Did you mean trainer?"),
        ("ema:\n  decai: 0.9\n", "Did you mean ema.decay?"),
        ("model: small_resnet\n", "model=small_resnet: expected the keys"),
        ("defaults:\n  - override /model: smal_cnn\n", "Did you mean small_cnn"),
        ("defaults:\n  - override /modl: small_cnn\n", "modl"),
        ("defaults:\n  - override /model: null\n", "model=null: one is needed"),
        ("seed: [1, 2\n", "mine.yaml"),
        ("defaults:\n  - override /data: image_folder\n", "data.root is required"),
    ],
)
def test_mistakes_in_an_experiment_file(experiment, text, words):
    assert words in message("experiment=mine", **experiment(text))


def test_a_folder_of_files_that_is_not_there(tmp_path):
    assert "no such folder" in message(config_dir=tmp_path / "nowhere")


@pytest.mark.parametrize(
    "target", ["os.system", "medvision.config.compose.os.system", "builtins.eval", "subprocess.Popen"]
)
@pytest.mark.parametrize("place", ["model", "data.source", "logger", "augmentation.fill", "hydra.callbacks.x"])
def test_evil_targets_do_not_run(experiment, tmp_path, target, place):
    marker = tmp_path / "marker"
    payload = f"open({str(marker)!r}, 'w')" if target == "builtins.eval" else f"touch {marker}"
    node: dict = {"_target_": target, "command": payload, "args": payload, "shell": True}
    for key in reversed(place.split(".")):
        node = {key: node}
    found = experiment(OmegaConf.to_yaml(OmegaConf.create(node)))
    text = message("experiment=mine", **found)
    allowed_nowhere = place not in targets.slots()
    assert text.startswith(f"{place}:" if allowed_nowhere else f"{place}._target_: {target} is not allowed")
    assert not marker.exists()


def test_a_target_on_the_command_line_is_checked_too(monkeypatch):
    assert "torch.load is not allowed" in message("model._target_=torch.load")
    monkeypatch.setenv("EVIL", "os.system")
    assert "os.system is not allowed" in message("model._target_=${oc.env:EVIL}")


def test_check_sees_what_a_notebook_changed():
    cfg = compose()
    cfg.trainer.max_epochs = 0
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs=0"):
        check(cfg)


def test_check_accepts_a_stored_config(tmp_path):
    cfg = compose("experiment=digits_cnn", "seed=3")
    OmegaConf.save(cfg, tmp_path / "config.yaml")
    check(OmegaConf.load(tmp_path / "config.yaml"))


def test_no_state_of_hydra_is_left_behind():
    VersionBase.instance().version_base = before = object()
    compose("seed=1")
    with pytest.raises(ConfigError):
        compose("sed=1")
    assert not GlobalHydra.instance().is_initialized()
    assert not HydraConfig.initialized()
    assert VersionBase.instance().version_base is before


def test_inside_another_hydra_program(tmp_path):
    (tmp_path / "theirs.yaml").write_text("a: 1\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert compose("seed=1").seed == 1
        assert hydra.compose("theirs").a == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("evaluation.rule=sensitivity",), "evaluation.target.*sensitivity needs"),
        (("evaluation.rule=specificity", "evaluation.target=95"), "evaluation.target=95.*<= 1"),
        (("evaluation.rule=cost",), "evaluation.target.*cost of a miss"),
        (("evaluation.target=0.9",), "evaluation.target=0.9.*evaluation.rule"),
    ],
)
def test_a_rule_for_the_operating_point_has_its_target(overrides, message):
    with pytest.raises(ConfigError, match=message):
        compose(*overrides)


def roots():
    """The root files, each in plain Python types."""
    return [OmegaConf.to_container(OmegaConf.load(file)) for file in sorted(CONF_DIR.glob("*.yaml"))]


def test_every_value_that_is_null_in_a_root_file_has_a_type():
    def nulls(node, path=""):
        for key, value in node.items():
            if isinstance(value, dict):
                yield from nulls(value, f"{path}{key}.")
            elif value is None:
                yield f"{path}{key}"

    assert {name for root in roots() for name in nulls(root)} == set(checks.TYPES) - {"models"}


def test_the_rules_speak_of_keys_that_exist():
    files = roots()
    for group, option in [*GROUPS, ("data", "_shared")]:
        files.append({group: OmegaConf.to_container(OmegaConf.load(CONF_DIR / group / f"{option}.yaml"))})
    for file in options("model/features").values():
        files.append({"model": {"features": OmegaConf.to_container(OmegaConf.load(file))}})
    known = {name for values in files for name in checks._dotted(values)}
    assert {name for names in checks.LIMITS.values() for name in names} <= known
    assert set(checks.CHOICES) <= known


def test_what_the_program_supplies_are_parameters():
    cfg = OmegaConf.to_container(compose("scheduler=cosine"))
    for path, names in checks.SUPPLIED.items():
        assert set(names) <= set(targets.parameters(targets.resolve(cfg[path]["_target_"], path)))


def test_conf_is_found_from_any_folder(tmp_path):
    script = "from medvision.config.compose import CONF_DIR; print(CONF_DIR)"
    environment = os.environ | {"PYTHONPATH": str(Path(config.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert (Path(done.stdout.strip()) / "train.yaml").is_file()


def test_the_copy_inside_a_wheel_comes_first(tmp_path):
    package = Path(config.__file__).parents[1]
    (tmp_path / "medvision" / "conf").mkdir(parents=True)
    shutil.copytree(package, tmp_path / "medvision", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "conf").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", "from medvision.config.compose import CONF_DIR; print(CONF_DIR)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()) == tmp_path / "medvision" / "conf"

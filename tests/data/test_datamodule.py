import inspect
import logging
import os
import re
from dataclasses import asdict
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from torch.nn.functional import cross_entropy

from medvision.config.targets import resolve
from medvision.data.datamodule import ImageDataModule
from medvision.data.decode import decode
from medvision.data.layouts import folders
from medvision.data.options import DataOptions
from medvision.data.table import SPLITS, ImageTable
from medvision.errors import ConfigError, DataError
from medvision.tasks import Task

CONF = Path(__file__).parents[2] / "conf" / "data"
real_data = pytest.mark.skipif("MEDVISION_DATA" not in os.environ, reason="MEDVISION_DATA is not set")


class Toy(pl.LightningModule):
    """A linear network that writes down what it was given."""

    def __init__(self, features, classes):
        super().__init__()
        self.network = torch.nn.Linear(features, classes)
        self.trained, self.validated = [], []

    def training_step(self, batch, batch_idx):
        images, targets, indices = batch
        self.trained.append((self.current_epoch, indices.tolist(), images.float().sum().item()))
        return cross_entropy(self.network(images.flatten(1) / 255), targets)

    def validation_step(self, batch, batch_idx):
        self.validated.append((batch[2].tolist(), batch[0].float().sum().item()))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(tmp_path, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    options = {"enable_checkpointing": False, **quiet, **options}
    return pl.Trainer(default_root_dir=tmp_path, num_sanity_val_steps=0, **options)


class Shift:
    """An augmentation that adds a drawn number, and whose mix adds 100 for each step."""

    def draw(self, seed, epoch, n):
        return (torch.arange(n) % 5 + 10 * epoch + seed).float()[:, None]

    def __call__(self, images, params):
        return images + params[:, :, None, None].to(torch.uint8)

    def mix(self, images, targets, num_classes, seed, step):
        return images.float() + 1000 * step, torch.nn.functional.one_hot(targets, num_classes).float()


@pytest.fixture
def module(small_table):
    """module(augmentation, seed, **options) -> a data module over the small table, set up."""

    def build(augmentation=None, seed=0, **options):
        options = DataOptions(**{"batch_size": 8, **options})
        built = ImageDataModule(lambda: small_table, options, augmentation=augmentation, seed=seed)
        built.setup()
        return built

    return build


def test_by_hand_without_a_trainer(module):
    data = module()
    assert data.class_names == ("a", "b", "c")
    assert (data.num_classes, data.in_channels, data.image_size) == (3, 1, (4, 4))
    assert {split: data.class_counts(split).tolist() for split in SPLITS} == {
        "train": [14, 14, 14], "val": [1, 1, 1], "calibration": [1, 1, 1], "test": [4, 4, 4],
    }  # fmt: skip
    train = data.split("train")
    loader = data.train_dataloader()
    passes = [list(loader) for _ in range(2)]
    for images, targets, indices in passes[0] + passes[1]:
        assert images.dtype == torch.uint8
        np.testing.assert_array_equal(images, train.images[indices])
        np.testing.assert_array_equal(targets, train.targets[indices])
        assert images[:, 0, 0, 0].tolist() == [int(name) for name in train.ids[indices]]
    orders = [torch.cat([batch[2] for batch in one]).tolist() for one in passes]
    assert orders[0] != orders[1]  # each pass is the next epoch
    val = torch.cat([batch[2] for batch in data.val_dataloader()])
    assert val.tolist() == list(range(3))
    test_images = torch.cat([batch[0] for batch in data.test_dataloader()])
    np.testing.assert_array_equal(test_images, data.split("test").images)


def test_setup_twice_reads_once(small_table):
    calls = []
    data = ImageDataModule(lambda: calls.append(1) or small_table)
    data.prepare_data()
    data.setup("fit")
    data.prepare_data()  # as Lightning does at each fit and test
    data.setup("test")
    assert calls == [1]


def test_splits_follow_split_seed_and_order_follows_seed(module):
    def split_of(**options):
        return module(**options).splits_frame()["split"].tolist()

    def order_of(**options):
        return [batch[2].tolist() for batch in module(**options).train_dataloader()]

    assert split_of(seed=1) == split_of(seed=2)
    assert split_of(split_seed=1) != split_of(split_seed=2)
    assert order_of(seed=1) != order_of(seed=2)
    assert module(seed=1).fingerprint() == module(seed=2).fingerprint() != module(split_seed=1).fingerprint()


def test_splits_frame_and_arrays_agree(small_table):
    frame = small_table.frame.assign(group=[f"p{i // 2}" for i in range(60)], sex=["f", "m"] * 30)
    frame["label"] = frame.index // 2 % 3
    data = ImageDataModule(lambda: ImageTable(frame, Task.classes(small_table.class_names), small_table.images))
    data.setup()
    who = data.splits_frame()
    assert list(who.columns) == ["id", "label", "group", "split", "pixels"]
    for name in SPLITS:
        arrays, rows = data.split(name), who[who["split"] == name]
        assert arrays.ids.tolist() == rows["id"].tolist()
        assert arrays.groups.tolist() == rows["group"].tolist()
        assert [data.class_names[target] for target in arrays.targets] == rows["label"].tolist()
        assert arrays.meta["sex"].tolist() == ["fm"[int(one) % 2] for one in arrays.ids]
        assert arrays.images.dtype == np.uint8
    assert who.groupby("group")["split"].nunique().max() == 1
    with pytest.raises(ValueError, match="train, val, calibration, test"):
        data.split("dev")


def test_statistics_are_of_the_training_images(module):
    data = module()
    train = data.split("train").images
    mean, std = data.channel_statistics()
    np.testing.assert_allclose(mean, train.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(std, train.std(axis=(0, 2, 3)))


def test_arrays_are_converted_when_asked(module):
    data = module(image_size=6, channels=3)
    assert (data.in_channels, data.image_size) == (3, (6, 6))
    np.testing.assert_array_equal(data.split("val").images[:, 2, 0, 0], data.split("val").ids.astype(int))


def test_arrays_are_taken_as_they_are_without_a_copy(small_table):
    data = ImageDataModule(lambda: small_table, DataOptions(batch_size=42))
    data.setup()
    small_table.images[:] = 9
    assert (next(iter(data.train_dataloader()))[0] == 9).all()


def test_files_are_decoded_by_the_rules_of_prediction(make_folder):
    root = make_folder({f"{split}/{name}": 4 for split in ("train", "test") for name in ("cat", "dog")})
    data = ImageDataModule(partial(folders.image_folder, root), DataOptions(image_size=16, resize="crop", batch_size=2))
    data.setup()
    assert data.in_channels == 3
    assert data.splits_frame()["split"].value_counts().to_dict() == {"test": 8, "train": 6, "val": 2}
    for name in SPLITS:
        arrays = data.split(name)
        for image, one in zip(arrays.images, arrays.ids, strict=True):
            np.testing.assert_array_equal(image, decode(root / one, 16, 3, "crop"))


def test_files_need_an_image_size(make_folder):
    data = ImageDataModule(partial(folders.image_folder, make_folder({"cat": 4, "dog": 4})))
    with pytest.raises(ConfigError, match=r"set data.image_size"):
        data.setup()


def test_bad_files_go_to_quarantine_and_the_run_goes_on(make_folder, caplog):
    root = make_folder({f"{split}/{name}": 10 for split in ("train", "test") for name in ("cat", "dog")})
    cut = root / "train" / "cat" / "003.png"
    cut.write_bytes(cut.read_bytes()[:-20])
    (root / "test" / "dog" / "007.png").write_bytes(b"")
    data = ImageDataModule(partial(folders.image_folder, root), DataOptions(image_size=8, batch_size=4))
    with caplog.at_level(logging.WARNING):
        data.setup()
    assert data.quarantine.to_dict("list") == {
        "path": ["test/dog/007.png", "train/cat/003.png"],
        "reason": ["file is empty", "PNG is truncated or damaged"],
        "stage": ["decode", "decode"],
    }
    assert "2 of 40 files cannot be used (test/dog/007.png: file is empty; train/cat/003.png" in caplog.text
    aside = data.table.ids[data.table.splits == "quarantined"]
    assert aside.tolist() == data.quarantine["path"].tolist()
    assert sum(data.class_counts(split).sum() for split in ("train", "val", "test")) == 38
    for name in ("train", "val", "test"):  # rows are still those of the files
        arrays = data.split(name)
        for image, one in zip(arrays.images, arrays.ids, strict=True):
            np.testing.assert_array_equal(image, decode(root / one, 8, 3))
    for images, targets, indices in data.test_dataloader():
        np.testing.assert_array_equal(images, data.split("test").images[indices])
        np.testing.assert_array_equal(targets, data.split("test").targets[indices])


def test_a_bad_file_is_an_error_when_asked(make_folder):
    root = make_folder({"cat": 20, "dog": 20})
    (root / "cat" / "000.png").write_bytes(b"")
    data = ImageDataModule(partial(folders.image_folder, root), DataOptions(image_size=8, on_bad_image="error"))
    with pytest.raises(
        DataError, match=r"1 of 40 files .*cat/000.png: file is empty(?s:.*)data.on_bad_image=quarantine"
    ):
        data.setup()


def leaking(small_table):
    """The small table with official parts, image 59 (test, class c) copied over image 2 (train, class c)."""
    images = small_table.images.copy()
    images[2] = images[59]
    frame = small_table.frame.assign(split=np.repeat(["train", "val", "test"], [36, 12, 12]), sex=["f", "m"] * 30)
    return ImageTable(frame, Task.classes(small_table.class_names), images)


@pytest.mark.parametrize(("leakage", "trained", "seen"), [("drop", 35, 0), ("keep", 36, 1)])
def test_the_guard_is_part_of_every_set_up(small_table, leakage, trained, seen):
    data = ImageDataModule(lambda: leaking(small_table), DataOptions(leakage=leakage))
    data.setup()
    assert data.class_counts("train").sum() == trained
    assert (~data.never_seen()).sum() == seen
    assert len(data.splits_frame()) == 60
    assert (data.splits_frame()["split"] == "dropped").sum() == 36 - trained
    assert data.splits_frame().set_index("id").loc["2", "split"] == ("dropped" if leakage == "drop" else "train")


def test_the_guard_stops_when_asked(small_table):
    with pytest.raises(DataError, match="The data leaks: 1 of 12 test images"):
        ImageDataModule(lambda: leaking(small_table), DataOptions(leakage="error")).setup()


def test_a_class_that_the_guard_empties_is_named(small_table):
    table = leaking(small_table)
    table.images[2:36:3] = table.images[59]
    with pytest.raises(DataError, match="train images have none of"):
        ImageDataModule(lambda: table).setup()


def test_folds_take_the_place_of_the_official_test(small_table):
    tests = []
    for fold in range(3):
        data = ImageDataModule(lambda: leaking(small_table), DataOptions(n_folds=3, fold=fold))
        data.setup()
        assert (data.splits_frame()["split"] == "unused").sum() == 12
        tests += data.split("test").ids.tolist()
    assert sorted(map(int, tests)) == list(range(36))


def test_pictures_of_one_colour_are_found(module):
    assert module().one_coloured.tolist() == list(range(60))


def test_without_bad_files_the_quarantine_is_an_empty_frame(module):
    assert list(module().quarantine.columns) == ["path", "reason", "stage"]
    assert module().quarantine.empty


@pytest.mark.parametrize(
    ("bad", "limit", "message"),
    [
        (["cat/000.png", "cat/001.png"], 0.1, r"2 of 12 files cannot be used \(cat/000.png: file is empty; .*max_bad"),
        ([f"cat/00{number}.png" for number in range(4)], 1.0, "leaves no image of class.es. cat"),
    ],
)
def test_too_many_bad_files(make_folder, bad, limit, message):
    root = make_folder({"cat": 4, "dog": 8})
    for name in bad:
        (root / name).write_bytes(b"")
    data = ImageDataModule(partial(folders.image_folder, root), DataOptions(image_size=8, max_bad_fraction=limit))
    with pytest.raises(DataError, match=f"(?s){message}") as caught:
        data.setup()
    assert str(caught.value).count("\n") == 1


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("image_size", 0, "null"),
        ("channels", 2, "1, 3 or null"),
        ("resize", "letter", "letterbox, stretch, crop"),
        ("batch_size", 0, ">= 1"),
        ("eval_batch_size", 0, ">= 1"),
        ("val_fraction", 0.0, "> 0 and < 1"),
        ("test_fraction", 1.0, "> 0 and < 1"),
        ("calibration_fraction", 1.0, ">= 0 and < 1"),
        ("max_bad_fraction", 1.5, ">= 0 and <= 1"),
        ("max_train_samples", 0, ">= 1"),
        ("split_seed", -1, ">= 0"),
        ("leakage", "ignore", "drop, error, keep"),
        ("window", (40, 0), "width >= 1"),
        ("window", (40, 80, 2), "width >= 1"),
        ("frames", "last", "reject, first, middle"),
        ("on_bad_image", "skip", "quarantine, error"),
        ("device_resident", "yes", "auto, true or false"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key(key, value, expected):
    with pytest.raises(ConfigError, match=f"^data.{key}={re.escape(str(value))}: expected .*{re.escape(expected)}"):
        DataOptions(**{key: value})


@pytest.mark.parametrize(
    ("folds", "key"),
    [
        ({"n_folds": 5}, "data.n_folds and data.fold"),
        ({"fold": 0}, "data.n_folds and data.fold"),
        ({"n_folds": 1, "fold": 0}, "data.n_folds=1"),
        ({"n_folds": 3, "fold": 3}, "data.fold=3"),
    ],
)
def test_folds_and_fold_must_fit(folds, key):
    with pytest.raises(ConfigError, match=key):
        DataOptions(**folds)


def test_a_batch_larger_than_the_data(module):
    with pytest.raises(ConfigError, match=r"data.batch_size is 64, but there are only 42 training images"):
        module(batch_size=64).train_dataloader()


def test_trains_under_lightning(module, tmp_path):
    data, toy = module(), Toy(16, 3)
    trainer(tmp_path, max_epochs=2).fit(toy, data)
    assert len(toy.trained) == 2 * len(data.train_dataloader())
    per_epoch = [[index for one in toy.trained if one[0] == epoch for index in one[1]] for epoch in (0, 1)]
    assert all(len(set(seen)) == len(seen) == 40 for seen in per_epoch)
    assert [one[1] for one in toy.trained[:5]] != [one[1] for one in toy.trained[5:]]
    assert toy.validated == [(list(range(3)), float(data.split("val").images.sum()))] * 2


def test_only_training_batches_are_augmented_and_by_epoch_index_and_step(module, tmp_path):
    data, toy = module(augmentation=Shift(), seed=2), Toy(16, 3)
    train, val = data.split("train").images, data.split("val").images
    trainer(tmp_path, max_epochs=2).fit(toy, data)
    for step, (epoch, indices, total) in enumerate(toy.trained):
        shifted = train[indices] + (np.array(indices) % 5 + 10 * epoch + 2)[:, None, None, None]
        assert total == shifted.sum() + 1000 * step * shifted.size
    assert toy.validated == [(list(range(3)), float(val.sum()))] * 2
    batch = next(iter(data.train_dataloader()))
    assert data.on_after_batch_transfer(batch, 0) is batch  # after fit, and by hand


class SaveEverywhere(pl.Callback):
    """A checkpoint after each batch, each validation and each epoch, named by the hook and the step."""

    def __init__(self, folder):
        self.folder = folder

    def save(self, trainer, hook):
        trainer.save_checkpoint(self.folder / f"{hook}-{trainer.global_step}.ckpt")

    def on_train_batch_end(self, trainer, *_):
        self.save(trainer, "batch")

    def on_validation_end(self, trainer, *_):
        self.save(trainer, "validation")

    def on_train_epoch_end(self, trainer, *_):
        self.save(trainer, "epoch")


@pytest.mark.parametrize("limit", [1.0, 3])
def test_resume_inside_and_between_epochs(module, tmp_path, limit):
    whole = Toy(16, 3)
    options = {"max_epochs": 3, "limit_train_batches": limit}
    trainer(tmp_path, callbacks=[SaveEverywhere(tmp_path)], **options).fit(whole, module(augmentation=Shift()))
    checkpoints = sorted(tmp_path.glob("*.ckpt"))
    steps = len(whole.trained)
    assert len(checkpoints) == steps + 3 + 3
    for checkpoint in checkpoints:
        resumed, again = Toy(16, 3), trainer(tmp_path, **options)
        again.fit(resumed, module(augmentation=Shift()), ckpt_path=checkpoint)
        assert again.global_step == steps
        assert resumed.trained == whole.trained[int(checkpoint.stem.split("-")[1]) :], checkpoint.name
        for name, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[name])


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_every_config_value_reaches_the_module(name):
    shared = yaml.safe_load((CONF / "_shared.yaml").read_text())
    node = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    if name == "_shared":
        assert node == asdict(DataOptions())
        return
    assert node.pop("defaults") == ["_shared", "_self_"]
    source = node.pop("source")
    function = resolve(source.pop("_target_"), "data.source")
    assert function.__name__ == name
    assert set(source) == set(inspect.signature(function).parameters)
    own = {value.removeprefix("${data.").removesuffix("}") for value in source.values()}
    assert own <= set(node) <= own | set(shared)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("resident", ["auto", True, False])
def test_trains_on_cuda(module, tmp_path, resident):
    on_cuda, on_cpu = Toy(16, 3), Toy(16, 3)
    data = module(device_resident=resident, augmentation=Shift())
    trainer(tmp_path, max_epochs=2, accelerator="gpu", devices=1).fit(on_cuda, data)
    assert (data._placed[1].__class__ is torch.Tensor) == (resident is not False)
    trainer(tmp_path, max_epochs=2).fit(on_cpu, module(augmentation=Shift()))
    assert on_cuda.trained == on_cpu.trained
    assert on_cuda.validated == on_cpu.validated


@pytest.mark.real_data
@real_data
def test_a_part_of_brain_mri(tmp_path):
    original = Path(os.environ["MEDVISION_DATA"]) / "brain_mri"
    for split in ("Training", "Testing"):
        for folder in sorted((original / split).iterdir()):
            copy = tmp_path / split / folder.name
            copy.mkdir(parents=True)
            for file in sorted(folder.iterdir())[:6]:
                (copy / file.name).write_bytes(file.read_bytes())
    data = ImageDataModule(partial(folders.image_folder, tmp_path), DataOptions(image_size=48, batch_size=4))
    data.setup()
    assert data.splits_frame()["split"].value_counts().to_dict() == {"test": 24, "train": 20, "val": 4}
    assert data.quarantine.empty
    first = data.split("test")
    with Image.open(tmp_path / first.ids[0]) as image:
        scale = 48 / max(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        expected = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BOX)).transpose(2, 0, 1)
    top, left = (48 - size[1]) // 2, (48 - size[0]) // 2
    inner = first.images[0][:, top : top + size[1], left : left + size[0]]
    assert np.abs(inner.astype(int) - expected).mean() < 3
    toy = Toy(3 * 48 * 48, 4)
    trainer(tmp_path, max_epochs=1).fit(toy, data)
    assert len(toy.trained) == 5


def test_frame_of_pandas_text_columns_is_accepted(small_table):
    frame = small_table.frame.assign(split=pd.Series(["train", "val", "test", "train"] * 15, dtype="string"))
    table = ImageTable(frame, Task.classes(small_table.class_names), small_table.images)
    data = ImageDataModule(lambda: table, DataOptions(calibration_fraction=0))
    data.setup()
    assert data.splits_frame()["split"].tolist() == ["train", "val", "test", "train"] * 15

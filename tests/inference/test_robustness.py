import numpy as np
import pytest
from scipy.special import softmax
from statsmodels.stats.proportion import proportion_confint

from medvision.inference import robustness as module
from medvision.inference.robustness import STRENGTHS, robustness, sample, scale_contrast
from medvision.metrics import proportions
from medvision.metrics.estimates import Key
from medvision.metrics.predictions import Predictions


def at(kind, strength):
    return Key("accuracy", section="robustness", names=(kind, str(strength)))


KEYS = [at(kind, strength) for kind in STRENGTHS for strength in range(1, 6)]


class Brightness:
    """Calls an image bright where its brightest pixel is above 150, and remembers how many images it was given."""

    class_names = ("dark", "bright")

    def __init__(self, size=(16, 16)):
        self.decode = {"size": size, "channels": 1, "resize": "letterbox"}
        self.given = []

    def predict_probs(self, images, batch_size=None):
        self.given.append(len(images))
        score = images.reshape(len(images), -1).max(axis=1) / 10 - 15
        return softmax(np.stack([-score, score], axis=1), axis=1)


def spots(n):
    """Grey images, every other one with a bright spot in its middle."""
    images = np.full((n, 1, 16, 16), 60, np.uint8)
    images += np.random.default_rng(0).integers(0, 20, images.shape, np.uint8)
    targets = np.arange(n) % 2
    images[targets == 1, :, 6:10, 6:10] = np.linspace(160, 255, n)[targets == 1, None, None, None].astype(np.uint8)
    return images, targets


def make(n, groups=None):
    images, targets = spots(n)
    predictions = Predictions.from_logits(
        ids=np.arange(n), groups=groups, targets=targets, logits=np.zeros((n, 2)), class_names=Brightness.class_names
    )
    return images, predictions


def test_every_corruption_has_an_accuracy_with_wilsons_interval():
    images, predictions = make(300)

    found = robustness(Brightness(), images, predictions, 0.9)

    assert list(found) == KEYS
    for estimate in found.values():
        assert estimate.n == 300
        expected = proportion_confint(round(estimate.value * 300), 300, alpha=0.1, method="wilson")
        np.testing.assert_allclose((estimate.low, estimate.high), expected, atol=1e-12)
    for strength, factor in enumerate(STRENGTHS["contrast"], start=1):
        preds = Brightness().predict_probs(scale_contrast(images, factor)).argmax(axis=1)
        assert found[at("contrast", strength)].value == (preds == predictions.targets).mean()
    assert found[at("rotation", 1)].value > 0.98
    assert found[at("noise", 5)].value == 0.5
    assert found[at("contrast", 5)].value == 0.5


def test_equal_seeds_give_equal_numbers_whatever_the_chunks_of_what_is_not_random(monkeypatch):
    images, predictions = make(100)
    before = robustness(Brightness(), images, predictions, seed=3)
    assert robustness(Brightness(), images, predictions, seed=3) == before
    monkeypatch.setattr(module, "_LARGEST_CHUNK", 33)

    after = robustness(Brightness(), images, predictions, seed=3)

    for name in KEYS:
        if name.names[0] not in ("noise", "rotation"):
            assert after[name] == before[name]


def test_images_that_come_as_copies_of_one_another_do_not_narrow_the_interval():
    images, predictions = make(40)
    alone = robustness(Brightness(), images, predictions)
    copied, rows = np.repeat(images, 10, axis=0), np.repeat(np.arange(40), 10)
    grouped = Predictions.from_logits(
        ids=np.arange(400),
        groups=[f"patient {row}" for row in rows],
        targets=predictions.targets[rows],
        logits=np.zeros((400, 2)),
        class_names=predictions.class_names,
    )

    found = robustness(Brightness(), copied, grouped)

    name = at("contrast", 1)
    assert found[name].n == 400
    assert found[name].value == alone[name].value
    assert 0.2 < found[name].value < 0.99
    width, expected = found[name].high - found[name].low, alone[name].high - alone[name].low
    assert width == pytest.approx(expected, rel=0.2)


def test_the_bootstrap_of_groups_does_not_depend_on_its_pieces(monkeypatch):
    images, predictions = make(60, groups=[str(i // 3) for i in range(60)])
    before = robustness(Brightness(), images, predictions, n_resamples=50)
    monkeypatch.setattr(proportions, "_CHUNK", 7 * 20)

    after = robustness(Brightness(), images, predictions, n_resamples=50)

    for name in KEYS:
        np.testing.assert_allclose([after[name].low, after[name].high], [before[name].low, before[name].high])


def test_many_images_are_sampled_and_taken_in_pieces(tmp_path):
    images, predictions = make(3000)
    np.save(tmp_path / "images.npy", images)
    predictor, seen = Brightness(), []

    found = robustness(
        predictor,
        np.load(tmp_path / "images.npy", mmap_mode="r"),
        predictions,
        progress=lambda done, total: seen.append((done, total)),
    )

    assert {estimate.n for estimate in found.values()} == {1000}
    assert max(predictor.given) == 512
    assert sum(predictor.given) == 25 * 1000
    assert seen == [(int(done), 25_000) for done in np.cumsum(predictor.given)]


@pytest.mark.parametrize(
    ("size", "views", "expected"),
    [
        ((28, 28), 1, 1000),
        ((28, 28), 6, 1000),
        ((100, 100), 1, 500),
        ((100, 100), 2, 250),
        ((224, 224), 1, 100),
        ((512, 512), 6, 100),
    ],
)
def test_fewer_large_images_are_taken(size, views, expected, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "sample", lambda targets, most, seed: asked.append(most) or np.arange(1))
    _, predictions = make(10)

    robustness(Brightness(), np.zeros((10, 1, *size), np.uint8), predictions, views=views)

    assert asked == [expected]


def test_a_sample_has_the_classes_in_their_shares():
    targets = np.random.default_rng(0).choice(4, 5000, p=[0.9, 0.07, 0.02, 0.01])

    rows = sample(targets, 700, seed=0)

    assert len(rows) == 700
    assert (np.diff(rows) > 0).all()
    shares = np.bincount(targets, minlength=4) * 700 / 5000
    assert (np.abs(np.bincount(targets[rows], minlength=4) - shares) < 1).all()
    np.testing.assert_array_equal(sample(targets, 700, seed=0), rows)
    assert not np.array_equal(sample(targets, 700, seed=1), rows)


def test_few_images_are_all_taken():
    np.testing.assert_array_equal(sample(np.zeros(30, int), 30, 0), np.arange(30))
    assert len(sample(np.zeros(31, int), 30, 0)) == 30

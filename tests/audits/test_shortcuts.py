import numpy as np
import pandas as pd
import pytest

from medvision.audits.shortcuts import guess_label, guess_split

N = 600


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def metadata(rng) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "height": rng.integers(100, 600, N),
            "bytes": rng.integers(5000, 50000, N),
            "format": rng.choice(["JPEG", "PNG"], N),
            "folder": rng.choice([f"site{number}" for number in range(20)], N),
            "brightness": rng.random(N),
            "mode": "L",
        }
    )


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_random_metadata_is_quiet(seed, classes):
    rng = np.random.default_rng(seed)
    guess = guess_label(metadata(rng), rng.integers(0, classes, N), np.arange(N))
    assert not guess.alarms
    assert guess.auroc == pytest.approx(0.5, abs=0.1)
    assert "mode" not in guess.alone


def test_a_format_that_goes_with_the_class_is_an_alarm(rng):
    labels = rng.integers(0, 2, N)
    features = metadata(rng).assign(format=np.where(labels ^ (rng.random(N) < 0.1), "JPEG", "PNG"))
    guess = guess_label(features, labels, np.arange(N))
    assert guess.alarms
    # A rule that is right nine times of ten has an area of 0.9; the forest sees noise besides.
    assert guess.alone["format"] == pytest.approx(0.9, abs=0.03)
    assert max(guess.alone, key=guess.alone.get) == "format"


def test_what_belongs_together_is_not_divided(rng):
    """Ten images of each patient share their size, which says nothing of other patients."""
    patients = np.repeat(np.arange(N // 10), 10)
    labels = rng.integers(0, 2, N // 10)[patients]
    features = pd.DataFrame({"height": rng.permutation(N // 10)[patients] * 10})
    assert guess_label(features, labels, np.arange(N)).auroc > 0.9
    assert not guess_label(features, labels, patients).alarms


@pytest.mark.parametrize("features", [pd.DataFrame(index=range(N)), pd.DataFrame({"mode": ["L"] * N})])
def test_without_anything_to_go_by_nothing_is_said(features, rng):
    guess = guess_label(features, rng.integers(0, 2, N), np.arange(N))
    assert (guess.auroc, guess.alarms, guess.alone) == (None, False, {})


def test_few_images_never_alarm(rng):
    labels = np.repeat([0, 1], 8)
    guess = guess_label(pd.DataFrame({"height": labels * 100}), labels, np.arange(16))
    assert not guess.alarms
    assert guess.limit > 1


def test_a_random_split_cannot_be_told(rng):
    small = rng.integers(0, 256, (N, 32, 32), dtype=np.uint8)
    guess = guess_split(small, rng.random(N) < 0.3, rng.integers(0, 3, N), np.arange(N))
    assert not guess.alarms
    assert guess.auroc == pytest.approx(0.5, abs=0.1)


def test_a_test_part_from_another_scanner_can_be_told(rng):
    inside = rng.random(N) < 0.3
    small = rng.integers(0, 200, (N, 32, 32), dtype=np.uint8) + (40 * inside[:, None, None]).astype(np.uint8)
    assert guess_split(small, inside, rng.integers(0, 3, N), np.arange(N)).auroc > 0.95


def test_other_shares_of_the_classes_are_no_other_pictures(rng):
    labels = rng.integers(0, 2, N)
    inside = rng.random(N) < np.where(labels, 0.8, 0.2)
    small = rng.integers(0, 100, (N, 32, 32), dtype=np.uint8) + (150 * labels[:, None, None]).astype(np.uint8)
    assert not guess_split(small, inside, labels, np.arange(N)).alarms

import cv2
import numpy as np
import pytest

from medvision.data.decode import decode
from medvision.errors import DataError
from medvision.inference import evidence as evidence_module
from medvision.inference.evidence import Evidence, spread

DECODE = {"size": (12, 16), "channels": 1, "resize": "letterbox"}


@pytest.mark.parametrize(("n", "most"), [(0, 5), (1, 5), (5, 5), (6, 5), (1000, 256), (257, 256)])
def test_rows_are_spread_over_all(n, most):
    rows = spread(n, most)

    assert len(rows) == min(n, most)
    assert len(set(rows.tolist())) == len(rows)
    gaps = np.diff([-1, *rows.tolist(), n])
    assert gaps.max() <= -(-n // most) + 1


def test_a_folder_is_decoded_as_the_model_takes_it(write_folder, tmp_path, monkeypatch):
    root = write_folder(tmp_path / "images", {"a": 4, "b/deeper": 4})
    (root / "notes.txt").write_text("no image")
    (root / "a" / "broken.png").write_bytes(b"broken")
    monkeypatch.setattr(evidence_module, "N_COMPARED", 4)

    found = Evidence.from_folder(root, DECODE)

    files = sorted(file for file in root.rglob("*.png") if file.name != "broken.png")
    pixels = np.stack([decode(file, **DECODE) for file in files])
    np.testing.assert_array_equal(found.images, pixels[::2])
    np.testing.assert_array_equal(found.calibration, pixels[::2])
    np.testing.assert_array_equal(found.held_out, pixels[1::2])
    assert found.targets is None
    assert found.source == "from a folder"


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"broken")

    with pytest.raises(DataError, match=r"expected two or more images .* found 0 of 1 image file"):
        Evidence.from_folder(tmp_path, DECODE)
    with pytest.raises(DataError, match=r"images=nowhere: expected two or more"):
        Evidence.from_folder(tmp_path.relative_to(tmp_path) / "nowhere", DECODE)


def test_noise_says_what_it_is_and_repeats():
    found, again = Evidence.at_random(DECODE), Evidence.at_random(DECODE)

    assert "no real image" in found.source
    assert found.images.shape == (256, 1, 12, 16)
    assert cv2.meanStdDev(found.images[0, 0])[1] > 50
    np.testing.assert_array_equal(found.images, again.images)
    assert len(found.held_out) == len(found.calibration) == 0

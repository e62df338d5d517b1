import cv2
import numpy as np
import pytest
import torch

from medvision.errors import ConfigError, ModelError
from medvision.models.features import HOG, Embedding, Pixels
from medvision.models.small_cnn import small_cnn


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (1100, 3, 12, 9), dtype=np.uint8)


def test_pixels_are_the_pixels_over_255(images):
    rows = Pixels()(images)

    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, images.reshape(1100, -1).astype(np.float32) / np.float32(255))


def test_larger_images_are_shrunk_and_smaller_ones_are_not(images):
    expected = [[cv2.resize(channel, (5, 5), interpolation=cv2.INTER_AREA) for channel in image] for image in images]

    np.testing.assert_allclose(Pixels(size=5)(images), np.reshape(expected, (1100, -1)) / 255, rtol=1e-6)
    np.testing.assert_array_equal(Pixels(size=12)(images), Pixels()(images))


def hog_of(image, cell, directions):
    """The paper's recipe, pixel by pixel."""
    channels, height, width = image.shape
    rows, columns = height // cell, width // cell
    histogram = np.zeros((rows, columns, directions))
    for y in range(rows * cell):
        for x in range(columns * cell):
            best = (-1.0, 0.0, 0.0)
            for c in range(channels):
                v = image[c].astype(float)
                dx = v[y, x + 1] - v[y, x - 1] if 0 < x < width - 1 else 0.0
                dy = v[y + 1, x] - v[y - 1, x] if 0 < y < height - 1 else 0.0
                if np.hypot(dx, dy) > best[0]:
                    best = (np.hypot(dx, dy), dx, dy)
            angle = np.degrees(np.arctan2(best[2], best[1])) % 180 / (180 / directions)
            lower, share = int(angle) % directions, angle - int(angle)
            histogram[y // cell, x // cell, lower] += best[0] * (1 - share)
            histogram[y // cell, x // cell, (lower + 1) % directions] += best[0] * share
    blocks = []
    for y in range(rows - 1):
        for x in range(columns - 1):
            block = np.concatenate([histogram[y + j, x + i] for j in (0, 1) for i in (0, 1)])
            block = np.minimum(block / (np.linalg.norm(block) or 1), 0.2)
            blocks.append(block / (np.linalg.norm(block) or 1))
    return np.concatenate(blocks)


@pytest.mark.parametrize(("cell", "directions"), [(3, 9), (4, 6)])
def test_hog_is_what_the_paper_describes(images, cell, directions):
    rows = HOG(cell, directions)(images[:5])

    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, [hog_of(image, cell, directions) for image in images[:5]], atol=2e-5)


def test_hog_sees_the_direction_of_an_edge_and_not_its_strength_or_sign():
    edge = np.zeros((1, 1, 8, 8), np.uint8)
    edge[..., 3:] = 100
    upright, faint, negative, lying = (HOG()(one) for one in (edge, edge // 2, 200 - edge, edge.swapaxes(2, 3)))

    np.testing.assert_allclose(faint, upright, atol=1e-6)
    np.testing.assert_allclose(negative, upright, atol=1e-6)
    assert np.flatnonzero(upright.reshape(4, 9).sum(axis=0)).tolist() == [0]
    assert np.flatnonzero(lying.reshape(4, 9).sum(axis=0)).tolist() == [4, 5]  # 90 degrees, between the two
    assert not HOG()(np.full((2, 1, 8, 8), 7, np.uint8)).any()


def test_hog_of_images_that_are_too_small_is_refused():
    with pytest.raises(ModelError, match=r"cell=8 needs images of 16x16 pixels or more, found 12x12"):
        HOG(cell=8).prepare(np.zeros((3, 1, 12, 12), np.uint8))


def test_an_embedding_is_what_the_network_says_of_each_image(images):
    network = small_cnn(4, 3, (12, 9), channels=[4], hidden=6).eval()
    embedding = Embedding()
    embedding.use(network, {"in_channels": 3, "image_size": [12, 9]})
    embedding.prepare(images)

    with torch.no_grad():
        expected = network.embed(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(embedding(images), expected, atol=1e-5)
    with pytest.raises(ModelError, match=r"takes images of shape \(3, 12, 9\), found \(1, 8, 8\)"):
        embedding.prepare(np.zeros((2, 1, 8, 8), np.uint8))


def test_a_torchvision_backbone_is_normalised_by_the_training_images():
    images = np.random.default_rng(0).integers(0, 200, (4, 1, 32, 32), dtype=np.uint8)
    embedding = Embedding("resnet18")
    embedding.prepare(images)

    assert embedding(images).shape == (4, 512)
    torch.testing.assert_close(embedding.network.mean, torch.tensor([images.mean()], dtype=torch.float32))
    torch.testing.assert_close(embedding.network.std, torch.tensor([images.std()], dtype=torch.float32))


def test_an_embedding_without_a_network_says_how_to_name_one():
    with pytest.raises(ConfigError, match="init_from=RUN/model"):
        Embedding().prepare(np.zeros((1, 1, 8, 8), np.uint8))

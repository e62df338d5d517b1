import numpy as np
import pytest
import torch

from medvision.models.fast_cnn import Whitening, fast_cnn


@pytest.mark.parametrize(("channels", "kernel"), [(1, 2), (3, 2), (3, 3)])
def test_the_patches_of_the_images_come_out_uncorrelated_and_of_unit_variance(channels, kernel):
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(200, channels, 12, 12)).cumsum(axis=3) * 0.3
    images = torch.from_numpy(smooth - smooth.mean()).float()
    layer = Whitening(channels, kernel)
    layer.fit(images)
    found = layer(images).permute(1, 0, 2, 3).flatten(1).double().detach().numpy()
    half = channels * kernel**2
    assert found.shape[0] == layer.out_channels == 2 * half
    np.testing.assert_array_equal(found[half:], -found[:half])
    # The second moment of each direction is v / (v + 0.0005): 1 but for those that hardly vary.
    moments = found[:half] @ found[:half].T / found.shape[1]
    np.testing.assert_allclose(moments - np.diag(np.diag(moments)), 0, atol=1e-3)
    assert np.diag(moments).max() <= 1 + 1e-4
    assert np.median(np.diag(moments)) > 0.98


def test_nothing_of_it_learns():
    assert not [name for name, p in Whitening(3).named_parameters() if p.requires_grad]


def test_a_network_computes_its_whitening_from_images_as_it_normalises_them():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (100, 1, 16, 16), dtype=np.uint8)
    network = fast_cnn(2, 1, (16, 16), widths=[4, 4])
    network.set_statistics([images.mean()], [images.std()])
    network.fit_layers(images)
    normalised = (torch.from_numpy(images).double() - images.mean()) / images.std()
    patches = normalised.unfold(2, 2, 1).unfold(3, 2, 1).reshape(-1, 4).numpy()
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    filters = network.backbone[0].weight.detach().reshape(8, 4).double().numpy()
    np.testing.assert_allclose(np.linalg.norm(filters[:4], axis=1), 1 / np.sqrt(values + 5e-4), rtol=1e-4)
    np.testing.assert_allclose(np.abs(filters[:4] @ vectors * np.sqrt(values + 5e-4)), np.eye(4), atol=1e-2)

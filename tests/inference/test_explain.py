from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pydicom.data import get_testdata_file
from torch import nn

from medvision.data.decode import decode
from medvision.errors import BadImage, DataError, ModelError
from medvision.inference.explain import activation_maps, explain, why_no_maps
from medvision.inference.predictor import Predictor
from medvision.models.network import Network
from medvision.models.pretrained import pretrained
from medvision.models.small_cnn import small_cnn
from medvision.models.small_resnet import small_resnet
from medvision.tasks import Task

SIDE = 28
PATCH = 8


def make_predictor(network, size=(12, 16), channels=1):
    task = Task.classes([f"class {k}" for k in range(network.head.out_features)])
    return Predictor(network, task, decode={"size": size, "channels": channels, "resize": "letterbox"})


@pytest.fixture
def predictor(network):
    return make_predictor(network)


def reference(layers, split, head, image, of):
    """Grad-CAM of one normalised image by its definition, layer by layer, without hooks."""
    features = layers[:split](image).detach().requires_grad_()
    head(layers[split:](features))[0, of].backward()
    weights = features.grad.mean(dim=(2, 3))[0]
    coarse = torch.einsum("c,chw->hw", weights, features[0]).detach().clamp(min=0).numpy()
    stretched = cv2.resize(coarse, image.shape[:1:-1], interpolation=cv2.INTER_LINEAR)
    return stretched / stretched.max()


def test_maps_are_grad_cam_as_it_is_defined():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.Tanh(), nn.Conv2d(5, 4, 3, stride=2), nn.Sigmoid(), nn.Flatten(), nn.Linear(4 * 20, 6)
    )
    network = Network(layers, 6, 3, 3, cam_layer=layers[2])
    network.set_statistics([90, 100, 110], [40, 50, 60])
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 12, 13), np.uint8)
    classes = np.array([0, 1, 2, 2, 1, 0, 1])

    found = activation_maps(make_predictor(network, (12, 13), 3), images, classes)

    assert found.shape == (7, 12, 13)
    assert found.dtype == np.float32
    for image, of, one in zip(images, classes, found, strict=True):
        expected = reference(layers, 3, network.head, network.normalise(torch.from_numpy(image[None])), of)
        np.testing.assert_allclose(one, expected, atol=1e-5)


FAMILIES = {
    "small_cnn": (small_cnn, 28, {}),
    "small_resnet": (small_resnet, 16, {"widths": [4, 8], "depths": [1, 1]}),
    "torchvision resnet": (pretrained, 64, {"name": "resnet18"}),
    "torchvision densenet": (pretrained, 64, {"name": "densenet121"}),
    "torchvision mobilenet": (pretrained, 64, {"name": "mobilenet_v3_small"}),
    "timm resnet": (pretrained, 64, {"library": "timm", "name": "test_resnet"}),
    "timm convnext": (pretrained, 64, {"library": "timm", "name": "test_convnext"}),
    "timm efficientnet": (pretrained, 64, {"library": "timm", "name": "test_efficientnet"}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_with_a_cam_layer_has_maps(family):
    build, side, options = FAMILIES[family]
    torch.manual_seed(1)
    predictor = make_predictor(build(3, 1, (side, side), **options), (side, side))
    images = np.random.default_rng(0).integers(0, 256, (6, 1, side, side), np.uint8)

    found = np.concatenate([activation_maps(predictor, images, np.full(6, k)) for k in range(3)])

    assert why_no_maps(predictor) is None
    assert np.isfinite(found).all()
    assert found.min() >= 0
    peaks = found.max(axis=(1, 2))
    assert set(peaks.tolist()) <= {0.0, 1.0}
    assert peaks.any()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda: make_predictor(pretrained(2, 1, (160, 160), library="timm", name="test_vit"), (160, 160)),
            "no layer whose output",
        ),
        (lambda: make_predictor(pretrained(2, 1, (28, 28)), (28, 28)), "shrink 28 x 28 pixels to a single one"),
        (lambda: SimpleNamespace(class_names=("a", "b"), decode={"size": (28, 28), "channels": 1}), "need a network"),
    ],
)
def test_where_there_are_no_maps_the_reason_is_given(make, reason):
    predictor = make()

    assert reason in why_no_maps(predictor)
    with pytest.raises(ModelError, match=f"no class activation maps for this model: .*{reason}"):
        activation_maps(predictor, np.zeros((1, 1, 28, 28), np.uint8), [0])


def test_the_predictor_stays_as_it_was(predictor, images):
    before = predictor.predict_logits(images)
    state = {name: value.clone() for name, value in predictor.network.state_dict().items()}

    activation_maps(predictor, images, np.zeros(len(images), int))

    np.testing.assert_array_equal(predictor.predict_logits(images), before)
    assert all(torch.equal(value, state[name]) for name, value in predictor.network.state_dict().items())
    for module in predictor.network.modules():
        assert not module.training
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks
    assert not any(p.requires_grad or p.grad is not None for p in predictor.network.parameters())


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_the_callers_gradient_mode_does_not_matter(predictor, images, mode):
    expected = activation_maps(predictor, images[:5], [0, 1, 2, 0, 1])
    with mode():
        was = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        found = activation_maps(predictor, images[:5], [0, 1, 2, 0, 1])
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == was

    np.testing.assert_array_equal(found, expected)


def test_maps_do_not_depend_on_the_company_an_image_is_in(predictor, images, tmp_path, monkeypatch):
    classes = np.arange(len(images)) % 3
    together = activation_maps(predictor, images, classes)
    np.save(tmp_path / "images.npy", images)
    monkeypatch.setattr("medvision.inference.explain._PIXELS_PER_BATCH", 12 * 16 * 3)

    alone = activation_maps(predictor, np.load(tmp_path / "images.npy", mmap_mode="r"), classes)

    np.testing.assert_allclose(alone, together, atol=1e-4)
    assert activation_maps(predictor, images[:0], []).shape == (0, 12, 16)


def test_a_network_that_saw_nothing_has_maps_of_zeros(predictor, images):
    with torch.no_grad():
        predictor.network.head.weight.zero_()

    assert not activation_maps(predictor, images, np.zeros(len(images), int)).any()


def planted(n, seed):
    """Black and white noise, for two classes of three with a patch of stripes, as bright, at a random place.

    The class without a patch is what a network falls back to, so that the other two must be told by what is there.
    """
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 2, (n, 1, SIDE, SIDE), dtype=np.uint8) * 255
    targets = rng.integers(0, 3, n)
    patches = np.zeros((n, SIDE, SIDE), bool)
    stripes = np.tile(np.array([0, 255], np.uint8), (PATCH, PATCH // 2))
    for image, target, patch in zip(images, targets, patches, strict=True):
        top, left = rng.integers(2, SIDE - 1 - PATCH, 2)
        if target:
            image[0, top : top + PATCH, left : left + PATCH] = stripes if target == 2 else stripes.T
            patch[top : top + PATCH, left : left + PATCH] = True
    return images, targets, patches


def planted_network(seed):
    torch.manual_seed(seed)
    network = small_cnn(3, 1, (SIDE, SIDE), channels=[16, 32], hidden=32)
    network.set_statistics([127.5], [127.5])
    return network


def test_maps_lie_on_what_decides_and_with_random_weights_they_do_not():
    network = planted_network(0)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    images, targets, _ = (torch.from_numpy(array) for array in planted(1000, 0))
    for _ in range(10):
        for batch in torch.randperm(len(images)).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[batch]), targets[batch]).backward()
            optimizer.step()
    images, targets, patches = planted(300, 1)
    images, targets, patches = (array[targets > 0] for array in (images, targets, patches))
    # The layer has a stride of four pixels of the image, so that a map reaches half of that beyond what it means.
    near = np.stack([cv2.dilate(patch.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0 for patch in patches])

    def concentration(network):
        predictor = make_predictor(network, (SIDE, SIDE))
        maps = activation_maps(predictor, images, targets)
        score = (predictor.predict_probs(images).argmax(axis=1) == targets).mean()
        return score, (maps * patches).sum() / maps.sum() / patches.mean(), (maps * near).sum() / maps.sum()

    score, times_the_area, share_near = concentration(network)
    assert score > 0.9
    assert times_the_area > 3
    assert share_near > 0.5
    # The median, because a random filter may happen to answer to stripes.
    _, times_the_area, share_near = np.median([concentration(planted_network(seed)) for seed in range(1, 8)], axis=0)
    assert times_the_area < 1.5
    assert share_near < 0.3


def test_one_image_is_explained_whatever_it_comes_as(predictor, images, tmp_path):
    pixels = images[0, 0]
    cv2.imwrite(str(tmp_path / "scan.png"), pixels)
    expected = predictor.predict_probs(images[:1])[0]

    for image in (tmp_path / "scan.png", str(tmp_path / "scan.png"), Image.fromarray(pixels), pixels, images[0]):
        found = explain(predictor, image)
        assert list(found.probs.values()) == sorted(expected, reverse=True)
        assert found.of == next(iter(found.probs)) == predictor.class_names[expected.argmax()]
        np.testing.assert_array_equal(found.activation, activation_maps(predictor, images[:1], [expected.argmax()])[0])
        assert found._repr_png_().startswith(b"\x89PNG")

    other = predictor.class_names[expected.argmin()]
    assert explain(predictor, pixels, other).of == other


def test_images_of_other_sizes_and_colours_are_read_as_files_are(predictor, tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(colours).save(tmp_path / "scan.png")
    expected = predictor.predict_probs(decode(tmp_path / "scan.png", **predictor.decode)[None])[0]

    for image in (colours, Image.fromarray(colours), Image.fromarray(colours).convert("RGBA")):
        assert list(explain(predictor, image).probs.values()) == sorted(expected, reverse=True)


def test_sixteen_bits_and_dicom_are_read_as_files_are(predictor, tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (12, 16), np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    ct = get_testdata_file("CT_small.dcm")

    assert explain(predictor, Image.fromarray(deep)).probs == explain(predictor, tmp_path / "deep.png").probs
    expected = predictor.predict_probs(decode(ct, **predictor.decode)[None])[0]
    assert max(explain(predictor, ct).probs.values()) == expected.max()


@pytest.mark.parametrize(
    "wrong", [np.zeros((12, 16)), np.zeros((12, 16, 2), np.uint8), np.zeros((2, 1, 12, 16), np.uint8)]
)
def test_arrays_that_are_no_image_are_refused(predictor, wrong):
    with pytest.raises(DataError, match=r"expected uint8 pixels, grey \(H, W\), RGB .*; found") as error:
        explain(predictor, wrong)

    assert f"{wrong.dtype} {wrong.shape}" in str(error.value)


def test_unknown_classes_and_missing_files_are_refused(predictor, images):
    with pytest.raises(DataError, match="no class 'tumour'; expected one of class 0, class 1, class 2"):
        explain(predictor, images[0], "tumour")
    with pytest.raises(BadImage):
        explain(predictor, "nowhere.png")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_maps(make_network, predictor, images):
    on_gpu = Predictor(make_network(), predictor.task, decode=predictor.decode, device="gpu")
    classes = np.arange(len(images)) % 3

    found, expected = (activation_maps(one, images, classes) for one in (on_gpu, predictor))

    np.testing.assert_allclose(found, expected, atol=1e-2)

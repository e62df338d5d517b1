import contextlib
import urllib.error

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from medvision.errors import ModelError
from medvision.models.pretrained import pretrained
from medvision.models.shapes import output_shape

# One of each family; regnet computes its widths with tensors and so cannot be built on the meta device.
FAMILIES = {
    "alexnet": 256,
    "convnext_tiny": 768,
    "densenet121": 1024,
    "efficientnet_b0": 1280,
    "efficientnet_v2_s": 1280,
    "maxvit_t": None,
    "mnasnet0_5": 1280,
    "mobilenet_v2": 1280,
    "mobilenet_v3_small": 576,
    "regnet_y_400mf": 440,
    "resnet18": 512,
    "resnext50_32x4d": 2048,
    "shufflenet_v2_x0_5": 1024,
    "swin_t": None,
    "vgg11": 512,
    "vit_b_32": None,
    "wide_resnet50_2": 2048,
}


@pytest.mark.parametrize(("name", "cam_channels"), FAMILIES.items())
def test_families_get_a_linear_head_and_their_last_convolutional_layer(name, cam_channels):
    with contextlib.nullcontext() if name.startswith("regnet") else torch.device("meta"):
        network = pretrained(4, 1, (224, 224), name=name)
    assert output_shape(network, 1, (224, 224)) == (2, 4)
    assert (network.cam_layer is None) == (cam_channels is None)
    if cam_channels:
        layer = next(name for name, module in network.named_modules() if module is network.cam_layer)
        assert output_shape(network, 1, (224, 224), layer)[1] == cam_channels


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_from_a_file_reproduce_the_network_they_came_from(tmp_path, suffix):
    source = models.resnet18(weights=None, num_classes=7).eval()
    path = tmp_path / f"weights.{suffix}"
    torch.save(source.state_dict(), path) if suffix == "pth" else save_file(source.state_dict(), path)
    network = pretrained(2, 3, (64, 64), name="resnet18", weights=str(path)).eval()
    source.fc = torch.nn.Identity()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(network.embed(images), source(images / 255))


def test_one_channel_network_equals_the_colour_network_on_grey_images(tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save(models.resnet18(weights=None).state_dict(), path)
    colour = pretrained(2, 3, (32, 32), name="resnet18", weights=str(path)).eval()
    grey = pretrained(2, 1, (32, 32), name="resnet18", weights=str(path)).eval()
    images = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8)
    expected = colour.embed(images.expand(-1, 3, -1, -1))
    torch.testing.assert_close(grey.embed(images), expected, rtol=1e-4, atol=1e-5)


def test_weights_of_a_one_channel_network_fit_a_colour_network(tmp_path):
    grey = pretrained(2, 1, (32, 32), name="resnet18").eval()
    path = tmp_path / "grey.pth"
    torch.save(grey.backbone.state_dict(), path)
    colour = pretrained(2, 3, (32, 32), name="resnet18", weights=str(path)).eval()
    images = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8)
    expected = grey.embed(images)
    torch.testing.assert_close(colour.embed(images.expand(-1, 3, -1, -1)), expected, rtol=1e-4, atol=1e-5)


def test_published_densenet_names_are_understood(tmp_path):
    state = models.densenet121(weights=None).state_dict()
    # As in densenet121-a639ec97.pth: "denselayer1.norm.1.weight" for "denselayer1.norm1.weight".
    old = {
        key.replace("norm1.", "norm.1.")
        .replace("norm2.", "norm.2.")
        .replace("conv1.", "conv.1.")
        .replace("conv2.", "conv.2.")
        if "denselayer" in key
        else key: value
        for key, value in state.items()
    }
    assert old.keys() != state.keys()
    path = tmp_path / "densenet121.pth"
    torch.save(old, path)
    network = pretrained(2, 3, (32, 32), name="densenet121", weights=str(path))
    kernel = "features.denseblock1.denselayer1.conv1.weight"
    assert torch.equal(network.backbone.state_dict()[kernel], state[kernel])


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "resnet34.pth"
    torch.save(models.resnet34(weights=None).state_dict(), path)
    with pytest.raises(ModelError, match=r"resnet34\.pth are not those of this network"):
        pretrained(2, 3, (32, 32), name="resnet18", weights=str(path))


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize("content", [Evil(), {"epoch": 3}, [torch.zeros(1)]], ids=["code", "numbers", "list"])
def test_files_that_hold_anything_but_tensors_are_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(ModelError, match="cannot be read as weights"):
        pretrained(2, 3, (32, 32), name="resnet18", weights=str(path))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_damaged_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(b"not weights")
    with pytest.raises(ModelError, match="cannot be read as weights"):
        pretrained(2, 3, (32, 32), name="resnet18", weights=str(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"no file .*absent\.pth"):
        pretrained(2, 3, (32, 32), name="resnet18", weights=str(tmp_path / "absent.pth"))


def test_offline_download_says_which_file_to_put_where(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(ModelError, match="no route") as caught:
        pretrained(2, 3, (32, 32), name="resnet18", weights="default")
    assert f"{tmp_path}/checkpoints/resnet18-f37072fd.pth" in str(caught.value)
    assert "model.weights=" in str(caught.value)


@pytest.mark.parametrize(("name", "near"), [("resnet19", "resnet18"), ("densnet121", "densenet121")])
def test_unknown_names_get_the_nearest(name, near):
    with pytest.raises(ModelError, match=near):
        pretrained(2, 3, (32, 32), name=name)


@pytest.mark.parametrize("name", ["googlenet", "squeezenet1_0"])
def test_networks_without_a_single_linear_head_are_not_offered(name):
    with pytest.raises(ModelError, match="no torchvision model"):
        pretrained(2, 3, (64, 64), name=name)


def test_smallest_image_named_in_the_error_is_the_smallest_that_works():
    with pytest.raises(ModelError, match="29x29"):
        pretrained(2, 1, (28, 28), name="densenet121")
    network = pretrained(2, 1, (29, 29), name="densenet121").eval()
    assert network(torch.zeros(1, 1, 29, 29)).shape == (1, 2)

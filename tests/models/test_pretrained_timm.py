import sys
from functools import partial

import pytest
import torch

from medvision.errors import ModelError
from medvision.models import pretrained as module

timm = pytest.importorskip("timm")
pretrained = partial(module.pretrained, library="timm")


@pytest.mark.parametrize(
    ("name", "cam_channels"),
    [("resnet10t", 512), ("convnext_atto", 320), ("mobilenetv3_small_050", 288), ("vit_tiny_patch16_224", None)],
)
def test_families_take_grey_images_of_their_own_size(name, cam_channels):
    network = pretrained(4, 1, (64, 64), name=name).eval()
    shapes = []
    if cam_channels:
        network.cam_layer.register_forward_hook(lambda _module, _inputs, out: shapes.append(out.shape[1]))
    assert network(torch.zeros(1, 1, 64, 64, dtype=torch.uint8)).shape == (1, 4)
    assert (network.cam_layer is None) == (cam_channels is None)
    assert shapes == ([cam_channels] if cam_channels else [])


def test_weights_from_a_file_reproduce_the_network_they_came_from(tmp_path):
    source = timm.create_model("resnet10t", num_classes=7).eval()
    path = tmp_path / "weights.pth"
    torch.save(source.state_dict(), path)
    colour = pretrained(2, 3, (64, 64), name="resnet10t", weights=str(path)).eval()
    grey = pretrained(2, 1, (64, 64), name="resnet10t", weights=str(path)).eval()
    images = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8).expand(-1, 3, -1, -1)
    expected = source.forward_head(source.forward_features(images / 255), pre_logits=True)
    torch.testing.assert_close(colour.embed(images), expected)
    torch.testing.assert_close(grey.embed(images[:, :1]), expected, rtol=1e-4, atol=1e-5)


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("resnet14t").state_dict(), path)
    with pytest.raises(ModelError, match="not those of this network"):
        pretrained(2, 3, (64, 64), name="resnet10t", weights=str(path))


def test_unknown_names_get_the_nearest():
    with pytest.raises(ModelError, match="resnet18"):
        pretrained(2, 3, (64, 64), name="resnet18.a1_in2k")


@pytest.mark.parametrize(("name", "hint"), [("convnext_atto", "32x32"), ("gcvit_xxtiny", "224x224")])
def test_unfit_image_sizes_are_refused_with_one_that_fits(name, hint):
    with pytest.raises(ModelError, match=hint):
        pretrained(2, 3, (13, 13), name=name)


def test_offline_download_says_what_to_fetch(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise FileNotFoundError("no route")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", refuse)
    with pytest.raises(ModelError, match="no route") as caught:
        pretrained(2, 3, (64, 64), name="resnet10t", weights="default")
    assert "timm/resnet10t" in str(caught.value)
    assert "model.weights=" in str(caught.value)


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match=r"medvision\[timm\]"):
        pretrained(2, 3, (64, 64))

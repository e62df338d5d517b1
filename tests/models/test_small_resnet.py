import pytest
import torch

from medvision.errors import ModelError
from medvision.models.small_resnet import small_resnet


def test_parameter_count_of_resnet18_for_small_images():
    # The figure that is usually given for ResNet-18 with CIFAR's stem and ten classes.
    network = small_resnet(10, 3, (32, 32), widths=[64, 128, 256, 512], depths=[2, 2, 2, 2])
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_173_962


def test_each_stage_halves_the_resolution_and_the_last_one_gives_the_cam_layer():
    network = small_resnet(10, 3, (32, 32), widths=[4, 6, 8], depths=[1, 2, 1]).eval()
    shapes = []
    network.cam_layer.register_forward_hook(lambda _module, _inputs, out: shapes.append(tuple(out.shape)))
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert shapes == [(1, 8, 8, 8)]


def test_a_new_block_passes_its_input_through():
    block = small_resnet(2, 1, (8, 8), widths=[4], depths=[1]).backbone[3]
    x = torch.rand(2, 4, 8, 8)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("options", [{"widths": [8]}, {"widths": [], "depths": []}, {"widths": [8], "depths": [0]}])
def test_stages_that_do_not_fit_together_are_refused(options):
    with pytest.raises(ModelError, match="stage"):
        small_resnet(2, 1, (32, 32), **options)


def test_smallest_image_named_in_the_error_is_the_smallest_that_works():
    with pytest.raises(ModelError, match="4x4"):
        small_resnet(2, 1, (3, 8))
    assert small_resnet(2, 1, (4, 4)).eval()(torch.zeros(1, 1, 4, 4)).shape == (1, 2)

import pytest
import torch

from medvision.errors import ModelError
from medvision.models.small_cnn import small_cnn


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameter_count_is_that_of_the_article():
    # Keras's model.summary() for 28x28x1: 320, 18496, 102464 (5*5*64 inputs) and 650.
    assert count(small_cnn(10, 1, (28, 28))) == 320 + 18_496 + 102_464 + 650


@pytest.mark.parametrize(("height", "width"), [(28, 28), (32, 40), (224, 224)])
def test_parameter_count_in_closed_form(height, width):
    in_channels, first, second, hidden, classes = 3, 32, 64, 64, 5
    rows, columns = (((side - 2) // 2 - 2) // 2 for side in (height, width))
    expected = (
        (9 * in_channels + 1) * first
        + (9 * first + 1) * second
        + (rows * columns * second + 1) * hidden
        + (hidden + 1) * classes
    )
    assert count(small_cnn(classes, in_channels, (height, width))) == expected


def test_pooling_before_the_relu_equals_the_article_order():
    network = small_cnn(3, 1, (14, 14)).eval()
    images = torch.randint(0, 256, (4, 1, 14, 14), dtype=torch.uint8)
    first, second, dense = (layer for layer in network.backbone if hasattr(layer, "weight"))
    x = images / 255
    for convolution in (first, second):
        x = torch.nn.functional.max_pool2d(convolution(x).relu(), 2)
    torch.testing.assert_close(network(images), network.head(dense(x.flatten(1)).relu()))


def test_channels_hidden_and_dropout_are_free():
    network = small_cnn(3, 1, (40, 40), channels=[4, 8, 16], hidden=7, dropout=0.5)
    images = torch.randint(0, 256, (2, 1, 40, 40), dtype=torch.uint8)
    assert network.embed(images).shape == (2, 7)
    assert not torch.equal(network.train().embed(images), network.embed(images))
    assert torch.equal(network.eval().embed(images), network.embed(images))
    shapes = []
    network.cam_layer.register_forward_hook(
        lambda _module, _inputs, out: shapes.append((tuple(out.shape), out.min() >= 0))
    )
    network.embed(images)
    assert shapes == [((2, 16, 3, 3), True)]


def test_smallest_image_named_in_the_error_is_the_smallest_that_works():
    with pytest.raises(ModelError, match="10x10"):
        small_cnn(2, 1, (28, 9))
    assert small_cnn(2, 1, (10, 10)).eval()(torch.zeros(1, 1, 10, 10)).shape == (1, 2)


@pytest.mark.parametrize("options", [{"channels": [0]}, {"hidden": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ModelError, match="found"):
        small_cnn(2, 1, (28, 28), **options)

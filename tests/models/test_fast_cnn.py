import pytest
import torch

from medvision.errors import ModelError
from medvision.models.fast_cnn import fast_cnn


@pytest.mark.parametrize(("channels", "size"), [(1, (28, 28)), (3, (32, 32)), (3, (40, 24))])
def test_shapes_and_gradients(channels, size):
    network = fast_cnn(5, channels, size, widths=[4, 8, 8])
    images = torch.randint(0, 256, (6, channels, *size), dtype=torch.uint8)
    logits = network(images)
    assert logits.shape == (6, 5)
    assert network.embed(images).shape == (6, 8)
    logits.square().sum().backward()
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert all(network.get_parameter(name).grad.abs().sum() > 0 for name in trained)
    assert {name for name, _ in network.named_parameters()} - trained == {
        "backbone.0.weight",
        *(f"backbone.{group}.norm{number}.weight" for group in (2, 3, 4) for number in (1, 2)),
    }


def test_convolutions_begin_as_the_identity_on_their_first_filters():
    group = fast_cnn(5, 3, (32, 32), widths=[30, 40, 40]).backbone[3]
    x = torch.randn(2, 30, 8, 8)
    torch.testing.assert_close(group.conv1(x)[:, :30], x)


def test_in_evaluation_normalisation_is_done_by_the_convolutions():
    torch.manual_seed(0)
    group = fast_cnn(5, 3, (32, 32), widths=[30, 40, 40]).backbone[3]
    x = torch.randn(8, 30, 8, 8)
    for _ in range(20):
        group(3 * x + 1)
    torch.nn.init.normal_(group.norm1.bias)
    group.eval()
    half = torch.nn.functional.gelu(group.norm1(group.pool(group.conv1(x))))
    expected = torch.nn.functional.gelu(group.norm2(group.conv2(half)))
    torch.testing.assert_close(group(x), expected)


def test_the_maps_are_taken_where_there_are_pixels():
    network = fast_cnn(5, 3, (32, 32))
    shapes = []
    network.cam_layer.register_forward_hook(lambda *call: shapes.append(call[2].shape))
    network(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert shapes == [(1, 256, 3, 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": []}, "needs one value of 1 or more for each group"),
        ({"widths": [8, 0]}, "needs one value of 1 or more for each group"),
        ({"widths": [8] * 5}, "needs images of 33x33 pixels or more, found 32x32"),
    ],
)
def test_what_cannot_work_is_refused(options, message):
    with pytest.raises(ModelError, match=message):
        fast_cnn(5, 3, (32, 32), **options)


def test_the_smallest_image_is_taken():
    assert fast_cnn(5, 3, (9, 9), widths=[4, 4, 4])(torch.zeros(2, 3, 9, 9, dtype=torch.uint8)).shape == (2, 5)

"""Any torchvision classification network with a linear classifier, for grey or colour images."""

import difflib
import re
from pathlib import Path

import torch
from torch import nn
from torchvision import models

from medvision.errors import ModelError
from medvision.models.network import Network
from medvision.models.shapes import check_image_size
from medvision.models.weights import fit_channels, load_backbone, read_weights

# The first two have side outputs in training, the last two classify by convolution.
_UNSUITABLE = {"googlenet", "inception_v3", "squeezenet1_0", "squeezenet1_1"}

# The last layer with an image-like output, by how the name begins. Transformers have none.
_CAM_LAYERS = {
    "alexnet": "features",
    "convnext": "features",
    "densenet": "features.denseblock4",
    "efficientnet": "features",
    "mnasnet": "layers",
    "mobilenet": "features",
    "regnet": "trunk_output",
    "resne": "layer4",
    "shufflenet": "conv5",
    "vgg": "features",
    "wide_resnet": "layer4",
}


def torchvision_model(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    *,
    name: str = "resnet18",
    weights: str | None = None,
    freeze_backbone: bool = False,
) -> Network:
    """A torchvision network with a new linear classifier.

    Args:
        num_classes: number of classes.
        in_channels: 1 for grey, 3 for colour. For grey the first convolution's weights are summed over the colours.
        image_size: height and width in pixels.
        name: as in `torchvision.models.list_models()`, for instance resnet50, densenet121, convnext_tiny.
        weights: null to start at random, `default` to download torchvision's best ImageNet weights, or a file (.pth,
            .safetensors) of weights for this network, with a classifier for any number of classes or without one.
        freeze_backbone: train the classifier alone.

    Raises:
        ModelError: if the name is unknown, the weights cannot be had or do not fit, or the image is too small.
    """
    known = sorted(set(models.list_models(module=models)) - _UNSUITABLE)
    if name not in known:
        near = difflib.get_close_matches(name, known) or known
        raise ModelError(f"There is no torchvision model {name!r} to train here. Nearest names: {', '.join(near)}.")
    backbone = models.get_model(name, weights=None)
    head, classifier = [found for found in backbone.named_modules() if isinstance(found[1], nn.Linear)][-1]
    backbone.set_submodule(head, nn.Identity())
    stem, convolution = next(found for found in backbone.named_modules() if isinstance(found[1], nn.Conv2d))
    backbone.set_submodule(stem, _with_channels(convolution, in_channels))
    check_image_size(name, backbone, in_channels, image_size)
    if weights is not None:
        state = _download(name) if weights == "default" else read_weights(weights)
        state = {_modern_name(key): value for key, value in state.items()}
        load_backbone(backbone, state, heads=(head,), source=weights)
    cam_name = next((layer for prefix, layer in _CAM_LAYERS.items() if name.startswith(prefix)), None)
    cam_layer = None if cam_name is None else backbone.get_submodule(cam_name)
    return Network(backbone, classifier.in_features, num_classes, in_channels, cam_layer, freeze_backbone)


def _with_channels(convolution: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    if convolution.in_channels == in_channels:
        return convolution
    adapted = nn.Conv2d(
        in_channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]
        convolution.stride,  # type: ignore[arg-type]
        convolution.padding,  # type: ignore[arg-type]
        bias=convolution.bias is not None,
    )
    with torch.no_grad():
        adapted.weight.copy_(fit_channels(convolution.weight, in_channels))
        if convolution.bias is not None and adapted.bias is not None:
            adapted.bias.copy_(convolution.bias)
    return adapted


def _download(name: str) -> dict[str, torch.Tensor]:
    entry = models.get_model_weights(name).DEFAULT
    try:
        state = entry.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError) as error:  # no connection; a file that is not what its hash says
        file = Path(entry.url).name
        place = Path(torch.hub.get_dir()) / "checkpoints" / file
        raise ModelError(
            f"The weights of {name} could not be downloaded ({error}).\n"
            f"Fetch {entry.url} where there is a connection and put it at {place}, or pass model.weights=PATH/{file}."
        ) from error
    return dict(state)


def _modern_name(key: str) -> str:
    """DenseNet's published files still say norm.1 where its layers have been named norm1 since 2018."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)

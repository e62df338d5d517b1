"""Pretrained networks of torchvision and timm with a new linear classifier, for grey or colour images."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from medvision.errors import ModelError
from medvision.models.network import Network
from medvision.models.shapes import check_image_size, output_shape, size_refused


def read_weights(path: str) -> dict[str, torch.Tensor]:
    """The tensors in a .safetensors file or in a state dict saved by torch; no other object is ever unpickled.

    Raises:
        ModelError: if the file is missing or is no plain mapping of names to tensors.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"model.weights must be null, default or a file of weights; there is no file {path}.")
    try:
        state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ModelError(_REFUSED.format(path=path, reason=str(error).partition("\n")[0])) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(_REFUSED.format(path=path, reason="it holds something else"))
    return dict(state)


def load_backbone(
    backbone: nn.Module, state: Mapping[str, torch.Tensor], *, heads: tuple[str, ...], source: str
) -> None:
    """Copy weights into `backbone`; those of the original classifier are left out, all others must fit.

    Args:
        backbone: the network without its classifier.
        state: weights by name; a first convolution for grey or colour images is fitted to those of `backbone`.
        heads: names of the original classifiers.
        source: where the weights are from, for the message.

    Raises:
        ModelError: if weights are missing, superfluous or of another shape.
    """
    wanted = backbone.state_dict()
    given = {name: value for name, value in state.items() if not name.startswith(tuple(f"{head}." for head in heads))}
    for name in wanted.keys() & given.keys():
        if {given[name].shape[1:2], wanted[name].shape[1:2]} == {(1,), (3,)}:
            given[name] = fit_channels(given[name], wanted[name].shape[1])
    wrong = sorted(wanted.keys() ^ given.keys())
    wrong += sorted(name for name in wanted.keys() & given.keys() if wanted[name].shape != given[name].shape)
    if wrong:
        raise ModelError(
            f"The weights in {source} are not those of this network: {len(wrong)} tensors are missing, superfluous or "
            f"of another shape, such as {wrong[0]}. Check model.name and data.image_size against the file."
        )
    backbone.load_state_dict(given)


def fit_channels(kernel: torch.Tensor, in_channels: int) -> torch.Tensor:
    """A first convolution's weights for another number of channels, with the same response to grey images.

    Args:
        kernel: (O, C, h, w) weights.
        in_channels: wanted number of channels C'.

    Returns:
        (O, C', h, w): the sum over the channels, shared out evenly.
    """
    if kernel.shape[1] == in_channels:
        return kernel
    return kernel.sum(1, keepdim=True).repeat(1, in_channels, 1, 1) / in_channels


_REFUSED = (
    "model.weights={path} cannot be read as weights ({reason}). "
    "Expected: a .safetensors file, or a state dict of tensors written by torch.save."
)


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


def pretrained(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    *,
    name: str = "resnet18",
    library: Literal["torchvision", "timm"] = "torchvision",
    weights: str | None = None,
    freeze_backbone: bool = False,
) -> Network:
    """A network of a library with a new linear classifier.

    Args:
        num_classes: number of classes.
        in_channels: 1 for grey, 3 for colour. For grey the first convolution's weights are summed over the colours.
        image_size: height and width in pixels; networks of timm made for one size, such as ViT, are built for this one.
        name: as in `torchvision.models.list_models()` or `timm.list_models()`; a tag chooses the weights of timm, such
            as resnet50.a1_in1k.
        library: "torchvision", or "timm" (the extra `timm`).
        weights: None for random ones, "default" to download those of the library, or a file (.pth, .safetensors) of
            weights for this network, with a classifier for any number of classes or without one.
        freeze_backbone: train the classifier alone.

    Raises:
        ModelError: if the library is not installed, the name is unknown, the weights cannot be had or do not fit, or
            the image is too small.
    """
    build = _from_timm if library == "timm" else _from_torchvision
    backbone, embed_dim, cam_layer = build(name, in_channels, image_size, weights)
    return Network(backbone, embed_dim, num_classes, in_channels, cam_layer, freeze_backbone)


def _from_torchvision(
    name: str, in_channels: int, image_size: tuple[int, int], weights: str | None
) -> tuple[nn.Module, int, nn.Module | None]:
    """Backbone, length of its embeddings, and the layer for class activation maps."""
    from torchvision import models

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
        state = _download_torchvision(name) if weights == "default" else read_weights(weights)
        state = {_modern_name(key): value for key, value in state.items()}
        load_backbone(backbone, state, heads=(head,), source=weights)
    cam_name = next((layer for prefix, layer in _CAM_LAYERS.items() if name.startswith(prefix)), None)
    return backbone, classifier.in_features, None if cam_name is None else backbone.get_submodule(cam_name)


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


def _download_torchvision(name: str) -> dict[str, torch.Tensor]:
    from torchvision import models

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


def _from_timm(
    name: str, in_channels: int, image_size: tuple[int, int], weights: str | None
) -> tuple[nn.Module, int, nn.Module | None]:
    """Backbone, length of its embeddings, and the layer for class activation maps."""
    timm = _import_timm()
    known = {*timm.list_models(), *timm.list_pretrained()}
    if name not in known:
        near = difflib.get_close_matches(name, sorted(known)) or ["none; see timm.list_models()"]
        raise ModelError(f"There is no timm model {name!r}. Nearest names: {', '.join(near)}.")
    settings = timm.get_pretrained_cfg(name)
    try:
        backbone = _create_timm(name, in_channels, image_size, pretrained=False)
    except (ArithmeticError, AssertionError, RuntimeError, ValueError) as error:  # patches that do not divide the image
        made_for = "x".join(map(str, settings.input_size[1:]))
        raise size_refused(name, image_size, f" ({error}); it was made for {made_for}") from error
    check_image_size(name, backbone, in_channels, image_size)
    if weights == "default":
        backbone = _download_timm(name, in_channels, image_size)
    elif weights is not None:
        heads = (settings.classifier,) if isinstance(settings.classifier, str) else tuple(settings.classifier or ())
        load_backbone(backbone, read_weights(weights), heads=heads, source=weights)
    _, embed_dim = output_shape(backbone, in_channels, image_size)
    return backbone, embed_dim, _timm_cam_layer(backbone, in_channels, image_size)


def _import_timm() -> ModuleType:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ModelError("model=timm needs the package timm. Install it: pip install 'medvision[timm]'.") from error
    return timm


def _create_timm(name: str, in_channels: int, image_size: tuple[int, int], *, pretrained: bool) -> nn.Module:
    timm = _import_timm()
    # Networks with position embeddings are built for one size; the others would refuse the argument.
    fixed = {"img_size": image_size} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    network: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=in_channels, **fixed)
    return network


def _download_timm(name: str, in_channels: int, image_size: tuple[int, int]) -> nn.Module:
    try:
        return _create_timm(name, in_channels, image_size, pretrained=True)
    except (OSError, RuntimeError) as error:  # no connection; no weights published under this name
        reason = str(error).partition("\n")[0]
        place = _import_timm().get_pretrained_cfg(name).hf_hub_id
        raise ModelError(
            f"The weights of {name} could not be downloaded ({reason}).\n"
            f"Fetch model.safetensors of {place} from huggingface.co where there is a connection and pass "
            "model.weights=PATH/model.safetensors."
        ) from error


def _timm_cam_layer(backbone: nn.Module, in_channels: int, image_size: tuple[int, int]) -> nn.Module | None:
    """The last stage that timm itself names as a source of features, if it returns (B, C, H, W)."""
    stages = getattr(backbone, "feature_info", None)
    if not stages:
        return None
    last = stages[-1]
    shape = output_shape(backbone, in_channels, image_size, last["module"])
    is_image_like = len(shape) == 4 and shape[1] == last["num_chs"]
    return backbone.get_submodule(last["module"]) if is_image_like else None

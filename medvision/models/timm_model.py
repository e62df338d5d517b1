"""Any network of the timm library, for grey or colour images; needs the extra `timm`."""

import difflib
from types import ModuleType

from torch import nn

from medvision.errors import ModelError
from medvision.models.network import Network
from medvision.models.shapes import check_image_size, output_shape, size_refused
from medvision.models.weights import load_backbone, read_weights


def timm_model(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    *,
    name: str = "resnet18",
    weights: str | None = None,
    freeze_backbone: bool = False,
) -> Network:
    """A timm network with a new linear classifier.

    Args:
        num_classes: number of classes.
        in_channels: 1 for grey, 3 for colour. For grey the first convolution's weights are summed over the colours.
        image_size: height and width in pixels; networks made for one size, such as ViT, are built for this one.
        name: as in `timm.list_models()`, or with the tag of a set of weights, such as resnet50.a1_in1k.
        weights: null to start at random, `default` to download the weights of that name, or a file (.pth,
            .safetensors) of weights for this network, with a classifier for any number of classes or without one.
        freeze_backbone: train the classifier alone.

    Raises:
        ModelError: if timm is not installed, the name is unknown, the weights cannot be had or do not fit, or the
            image is too small.
    """
    timm = _import_timm()
    known = {*timm.list_models(), *timm.list_pretrained()}
    if name not in known:
        near = difflib.get_close_matches(name, sorted(known)) or ["none; see timm.list_models()"]
        raise ModelError(f"There is no timm model {name!r}. Nearest names: {', '.join(near)}.")
    settings = timm.get_pretrained_cfg(name)
    try:
        backbone = _create(name, in_channels, image_size, pretrained=False)
    except (ArithmeticError, AssertionError, RuntimeError, ValueError) as error:  # patches that do not divide the image
        made_for = "x".join(map(str, settings.input_size[1:]))
        raise size_refused(name, image_size, f" ({error}); it was made for {made_for}") from error
    check_image_size(name, backbone, in_channels, image_size)
    if weights == "default":
        backbone = _download(name, in_channels, image_size)
    elif weights is not None:
        heads = (settings.classifier,) if isinstance(settings.classifier, str) else tuple(settings.classifier or ())
        load_backbone(backbone, read_weights(weights), heads=heads, source=weights)
    _, embed_dim = output_shape(backbone, in_channels, image_size)
    cam_layer = _cam_layer(backbone, in_channels, image_size)
    return Network(backbone, embed_dim, num_classes, in_channels, cam_layer, freeze_backbone)


def _import_timm() -> ModuleType:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ModelError("model=timm needs the package timm. Install it: pip install 'medvision[timm]'.") from error
    return timm


def _create(name: str, in_channels: int, image_size: tuple[int, int], *, pretrained: bool) -> nn.Module:
    timm = _import_timm()
    # Networks with position embeddings are built for one size; the others would refuse the argument.
    fixed = {"img_size": image_size} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    network: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=in_channels, **fixed)
    return network


def _download(name: str, in_channels: int, image_size: tuple[int, int]) -> nn.Module:
    try:
        return _create(name, in_channels, image_size, pretrained=True)
    except (OSError, RuntimeError) as error:  # no connection; no weights published under this name
        reason = str(error).partition("\n")[0]
        place = _import_timm().get_pretrained_cfg(name).hf_hub_id
        raise ModelError(
            f"The weights of {name} could not be downloaded ({reason}).\n"
            f"Fetch model.safetensors of {place} from huggingface.co where there is a connection and pass "
            "model.weights=PATH/model.safetensors."
        ) from error


def _cam_layer(backbone: nn.Module, in_channels: int, image_size: tuple[int, int]) -> nn.Module | None:
    """The last stage that timm itself names as a source of features, if it returns (B, C, H, W)."""
    stages = getattr(backbone, "feature_info", None)
    if not stages:
        return None
    last = stages[-1]
    shape = output_shape(backbone, in_channels, image_size, last["module"])
    is_image_like = len(shape) == 4 and shape[1] == last["num_chs"]
    return backbone.get_submodule(last["module"]) if is_image_like else None

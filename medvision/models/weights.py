"""Weights from a local file into a backbone: read safely, fitted to the image channels, nothing silently left out."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from medvision.errors import ModelError


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

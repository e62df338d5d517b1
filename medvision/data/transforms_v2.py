"""Any transform of torchvision.transforms.v2 as an augmentation, one image at a time."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from medvision.data.augment import blend, check_amounts
from medvision.errors import ConfigError
from medvision.randomness import generator


class TorchvisionTransforms:
    """Applies torchvision transforms to one image after the other, each with its own seed.

    The library draws one set of parameters a call, so that a whole batch would be changed alike. One call an image is
    the remedy, and it is slow: TrivialAugmentWide takes 0.7 ms for an image of 32x32 pixels, `Augmentation` 0.02 ms for
    all it has. It runs on the CPU even when the batch is on a GPU, so that results are the same on every device.

    Args:
        transforms: objects of torchvision.transforms.v2, applied in order to uint8 (C, H, W); the result must have the
            same shape and type.
        mixup: alpha of MixUp's Beta distribution; 0 switches it off.
        cutmix: alpha of CutMix's Beta distribution; 0 switches it off.

    Raises:
        ConfigError: if an alpha is negative.
    """

    def __init__(
        self,
        transforms: Sequence[Callable[[torch.Tensor], torch.Tensor]],
        *,
        mixup: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        check_amounts(mixup=(mixup, np.inf), cutmix=(cutmix, np.inf))
        self._transforms = tuple(transforms)
        self._mixup = mixup
        self._cutmix = cutmix

    def draw(self, seed: int, epoch: int, n: int) -> torch.Tensor:
        """One seed a sample: (n, 2) float32, two halves of 24 bits, which float32 holds exactly."""
        return torch.from_numpy(generator(seed, epoch, "torchvision").integers(2**24, size=(n, 2)).astype(np.float32))

    def __call__(self, images: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
        """Change each image by its own seed.

        Args:
            images: (B, C, H, W) uint8.
            params: (B, 2) float32, rows of `draw`.

        Returns:
            (B, C, H, W) uint8 on the device of `images`.

        Raises:
            ConfigError: if the transforms change an image's shape or type.
        """
        seeds = params.long().tolist()
        with torch.random.fork_rng(devices=[]):
            changed = [
                self._apply(image, high << 24 | low) for image, (high, low) in zip(images.cpu(), seeds, strict=True)
            ]
        return torch.stack(changed).to(images.device)

    def mix(
        self, images: torch.Tensor, targets: torch.Tensor, num_classes: int, seed: int, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Blend the images of a batch with one another by MixUp or CutMix; see `medvision.data.augment.blend`."""
        return blend(images, targets, num_classes, mixup=self._mixup, cutmix=self._cutmix, seed=seed, step=step)

    def _apply(self, image: torch.Tensor, seed: int) -> torch.Tensor:
        torch.default_generator.manual_seed(seed)
        changed = image
        for transform in self._transforms:
            changed = transform(changed)
        if changed.shape != image.shape or changed.dtype != image.dtype:
            raise ConfigError(
                f"augmentation.transforms must return {image.dtype} of shape {tuple(image.shape)}, "
                f"found {changed.dtype} of shape {tuple(changed.shape)}; leave resizing and normalising out."
            )
        return changed

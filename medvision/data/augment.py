"""Random changes to training images: batched, on the device, each sample with its own parameters."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch

from medvision.data import kernels
from medvision.data.kernels import Fill
from medvision.errors import ConfigError
from medvision.randomness import generator, key

_VALUES_AT_ONCE = 2**21
_RESAMPLED = {"shear", "zoom", "rotation", "translation"}
_REARRANGED = {"crop_padding", "horizontal_flip", "vertical_flip"}


class Augment(Protocol):
    """What the data module asks of an augmentation."""

    def draw(self, seed: int, epoch: int, n: int) -> torch.Tensor:
        """(n, P) float32 parameters of an epoch on the CPU."""

    def __call__(self, images: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) uint8 images changed by their (B, P) parameters."""

    def mix(
        self, images: torch.Tensor, targets: torch.Tensor, num_classes: int, seed: int, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and targets of a batch blended with one another, or as they are."""


class Augmentation:
    """Geometry, colour and cutout for uint8 batches; an amount of zero switches a transform off and costs nothing.

    The order is flips, crop, affine part, contrast, brightness, cutout. Flips and crop move whole pixels; as soon as an
    affine part is on, they join it in a single resampling, so that no pixel is interpolated twice.

    Every sample's parameters are a function of (seed, epoch, position in the training list) and of nothing else: not of
    the batch it is in, nor of the other transforms that are on.

    Args:
        shear: largest shear angle in radians, below pi/2; 0.2 is 11.5 degrees. Output point (x, y) shows input point
            (x - y sin a, y cos a), as in Keras's `shear_range`, which took radians when recipes such as the article's
            were written; Keras has read degrees since late 2017 (its PR 8868), in which 0.2 is no visible change.
        zoom: each axis is scaled by its own factor from [1 - zoom, 1 + zoom], as Keras's `zoom_range`. A factor is
            output to input, so that below 1 the image is enlarged. In [0, 1).
        rotation: largest angle in degrees, either way, in [0, 180].
        translation: largest shift along each axis, as a fraction of that side, in [0, 1].
        horizontal_flip: mirror left and right with probability 0.5; "alternating" mirrors an image in every other epoch
            instead, half of them in the even ones: none is seen twice running the same way round (arXiv:2404.00498).
        vertical_flip: mirror top and bottom with probability 0.5.
        crop_padding: pad by this many pixels on each side and cut the original size out at a random place.
        cutout: side in pixels of a square filled with the image's mean colour. Its centre lies anywhere in the image,
            so that part of the square may lie outside (DeVries & Taylor 2017, arXiv:1708.04552).
        brightness: values are multiplied by a factor from [1 - brightness, 1 + brightness], in [0, 1].
        contrast: distances from the image's mean grey are multiplied by a factor from [1 - contrast, 1 + contrast], in
            [0, 1]. Both are defined as in torchvision's ColorJitter.
        mixup: alpha of MixUp's Beta distribution; see `mix`.
        cutmix: alpha of CutMix's Beta distribution; see `mix`.
        fill: what lies outside the image: its mirror image, its nearest pixel, or black.

    Raises:
        ConfigError: if an amount is outside its range or `fill` is unknown.
    """

    def __init__(
        self,
        *,
        shear: float = 0.0,
        zoom: float = 0.0,
        rotation: float = 0.0,
        translation: float = 0.0,
        horizontal_flip: bool | Literal["alternating"] = False,
        vertical_flip: bool = False,
        crop_padding: int = 0,
        cutout: int = 0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        fill: Fill = "reflect",
    ) -> None:
        check_amounts(
            shear=(shear, 1.57),
            zoom=(zoom, 0.99),
            rotation=(rotation, 180.0),
            translation=(translation, 1.0),
            crop_padding=(crop_padding, np.inf),
            cutout=(cutout, np.inf),
            brightness=(brightness, 1.0),
            contrast=(contrast, 1.0),
            mixup=(mixup, np.inf),
            cutmix=(cutmix, np.inf),
        )
        if fill not in get_args(Fill):
            raise ConfigError(f"augmentation.fill must be one of {', '.join(get_args(Fill))}, found {fill!r}.")
        laws = {
            "shear": _Law(1, -shear, shear),
            "zoom": _Law(2, 1 - zoom, 1 + zoom),
            "rotation": _Law(1, -rotation, rotation),
            "translation": _Law(2, -translation, translation),
            "horizontal_flip": _Law(1, 0, 2 if horizontal_flip else 1, whole=True),
            "vertical_flip": _Law(1, 0, 1 + vertical_flip, whole=True),
            "crop_padding": _Law(2, -crop_padding, crop_padding + 1, whole=True),
            "cutout": _Law(2, 0, 1 if cutout else 0),
            "brightness": _Law(1, 1 - brightness, 1 + brightness),
            "contrast": _Law(1, 1 - contrast, 1 + contrast),
        }
        self._laws = {name: law for name, law in laws.items() if law.high - law.low > law.whole}
        self._alternating = horizontal_flip == "alternating"
        self._crop_padding = crop_padding
        self._cutout = cutout
        self._fill = fill
        self._mixup = mixup
        self._cutmix = cutmix

    def draw(self, seed: int, epoch: int, n: int) -> torch.Tensor:
        """Parameters of one epoch for all `n` training samples.

        Returns:
            (n, P) float32 on the CPU, P <= 14: the columns of the transforms that are on, in their units; row i belongs
            to the sample at position i of the training list.
        """
        columns = [self._column(name, law, seed, epoch, n) for name, law in self._laws.items()]
        return torch.from_numpy(np.concatenate([np.empty((n, 0), np.float32), *columns], axis=1))

    def __call__(self, images: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
        """Change each image by its own parameters.

        Args:
            images: (B, C, H, W) uint8 with C of 1 or 3, on any device.
            params: (B, P) float32, rows of `draw`, on the same device.

        Returns:
            (B, C, H, W) uint8; `images` itself when nothing is on.

        Raises:
            ConfigError: if the crop's padding or the cutout does not fit into images of this size.
        """
        if not self._laws:
            return images
        self._check_size(*images.shape[2:])
        # On a CPU a few images at a time, whose floats stay in its cache: up to five times as fast at 224 pixels.
        at_once = max(1, _VALUES_AT_ONCE // images[0].numel()) if images.device.type == "cpu" else len(images)
        if at_once >= len(images):
            return self._changed(images, params)
        parts = zip(torch.split(images, at_once), torch.split(params, at_once), strict=True)
        return torch.cat([self._changed(*part) for part in parts])

    def mix(
        self, images: torch.Tensor, targets: torch.Tensor, num_classes: int, seed: int, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Blend the images of a batch with one another by MixUp or CutMix; see `medvision.data.augment.blend`."""
        return blend(images, targets, num_classes, mixup=self._mixup, cutmix=self._cutmix, seed=seed, step=step)

    def _changed(self, images: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
        # Rows rather than columns: elementwise kernels round alike for any batch size only on contiguous memory.
        rows = torch.split(params.t().contiguous(), [law.width for law in self._laws.values()])
        drawn = dict(zip(self._laws, rows, strict=True))
        if drawn.keys() & _RESAMPLED:
            images = kernels.resample(images, drawn, self._fill)
        elif drawn.keys() & _REARRANGED:
            images = kernels.rearrange(images, drawn, self._fill)
        if drawn.keys() & {"contrast", "brightness"}:
            images = kernels.recolour(images, drawn)
        if "cutout" in drawn:
            images = kernels.cut_out(images, drawn["cutout"], self._cutout)
        return images

    def _column(self, name: str, law: "_Law", seed: int, epoch: int, n: int) -> np.ndarray[tuple[int, int], Any]:
        if name == "horizontal_flip" and self._alternating:
            return np.abs(law.draw(generator(seed, 0, name), n) - epoch % 2)
        return law.draw(generator(seed, epoch, name), n)

    def _check_size(self, height: int, width: int) -> None:
        if self._crop_padding >= min(height, width):
            raise ConfigError(
                f"augmentation.crop_padding must be smaller than the image, found {self._crop_padding} "
                f"for images of {height}x{width} pixels."
            )
        if self._cutout > min(height, width):
            raise ConfigError(
                f"augmentation.cutout must not exceed the image, found {self._cutout} "
                f"for images of {height}x{width} pixels."
            )


def check_amounts(**amounts: tuple[float, float]) -> None:
    """Refuse amounts below 0 or above their limit.

    Args:
        amounts: the option's name with its value and its largest useful value.

    Raises:
        ConfigError: naming the first option that is out of range.
    """
    for name, (value, limit) in amounts.items():
        if not 0 <= value <= limit:
            above = "0 or more" if limit == float("inf") else f"between 0 and {limit:g}"
            raise ConfigError(f"augmentation.{name} must be {above}, found {value}.")


@dataclass(frozen=True)
class _Law:
    """How the parameters of one transform are distributed: uniform over [low, high), floored when `whole`."""

    width: int
    low: float
    high: float
    whole: bool = False

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        values = self.low + (self.high - self.low) * rng.random((n, self.width))
        return (np.floor(values) if self.whole else values).astype(np.float32)


def blend(
    images: torch.Tensor, targets: torch.Tensor, num_classes: int, *, mixup: float, cutmix: float, seed: int, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Blend each sample with its neighbour in the batch; with both alphas above 0, a coin decides which way.

    Args:
        images: (B, C, H, W) uint8.
        targets: (B,) int64 in [0, num_classes).
        num_classes: number of classes K.
        mixup: alpha of the Beta distribution of MixUp's weights (arXiv:1710.09412); 0 switches it off.
        cutmix: alpha of the Beta distribution of CutMix's areas (arXiv:1905.04899); 0 switches it off.
        seed: the run's seed.
        step: the training step; with the seed it fixes the blend.

    Returns:
        (B, C, H, W) float32 in [0, 255] and (B, K) float32 whose rows sum to 1; the arguments themselves when both
        alphas are 0.
    """
    if not (mixup or cutmix):
        return images, targets
    from torchvision.transforms import v2  # takes a second to import, which most runs need not spend

    ways: list[v2.Transform] = []
    if mixup:
        ways.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
    if cutmix:
        ways.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))
    # torchvision draws from torch's global generator on the CPU; manual_seed() would reseed the other devices too.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key(seed, step, "mix"))
        mixed_images, mixed_targets = v2.RandomChoice(ways)(images.float(), targets)
    return mixed_images, mixed_targets

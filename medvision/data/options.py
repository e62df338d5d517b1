"""DataOptions: how images are read, split and batched, each value with its default and its check."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from medvision.data.leakage import LEAKAGE_POLICIES, Leakage
from medvision.data.limits import FRAME_RULES, Frames
from medvision.data.quarantine import BAD_IMAGE_POLICIES, OnBadImage
from medvision.data.resize import RESIZE_RULES, Resize
from medvision.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Options of `medvision.data.datamodule.ImageDataModule`; conf/data/_shared.yaml holds the same defaults.

    Attributes:
        image_size: height and width in pixels; None keeps the size of a layout that brings arrays.
        channels: 1 for grey, 3 for RGB; None keeps that of the arrays, and is 3 for files.
        resize: "letterbox", "stretch" or "crop"; see `medvision.data.decode`.
        batch_size: training images in a step, over all processes.
        eval_batch_size: validation or test images in a step, over all processes.
        val_fraction: share of the training images for validation where the data have no validation split.
        test_fraction: share of the images for the test where the data have no test split.
        calibration_fraction: share of the validation images that is kept for calibration.
        split_seed: seed of those shares; they do not depend on `seed`.
        n_folds: number of folds for cross-validation of train, or None; see `medvision.data.splits`.
        fold: the fold that tests, in [0, n_folds); the official test part stays unused then.
        leakage: what happens to training images that also test: "drop", "error" or "keep"; see
            `medvision.data.leakage`.
        window: centre and width (HU in CT) for DICOM, instead of what each file says.
        frames: the frame taken of a file with several: "reject", "first" or "middle".
        device_resident: whether all images lie on the accelerator; "auto" where they fit in 30 % of its free memory.
        on_bad_image: "quarantine" continues without unusable files, "error" does not.
        max_bad_fraction: share of files that may be unusable before the data are refused.
        max_train_samples: number of training images that are kept, or None for all; see `medvision.data.splits`.

    Raises:
        ConfigError: for the first value that is out of range.
    """

    image_size: int | None = None
    channels: Literal[1, 3] | None = None
    resize: Resize = "letterbox"
    batch_size: int = 32
    eval_batch_size: int = 512
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    calibration_fraction: float = 0.5
    split_seed: int = 0
    n_folds: int | None = None
    fold: int | None = None
    leakage: Leakage = "drop"
    window: tuple[float, float] | None = None
    frames: Frames = "reject"
    device_resident: bool | Literal["auto"] = "auto"
    on_bad_image: OnBadImage = "quarantine"
    max_bad_fraction: float = 0.1
    max_train_samples: int | None = None

    def __post_init__(self) -> None:
        size, window, n_folds, fold = self.image_size, self.window, self.n_folds, self.fold
        self._check("image_size", "a number of pixels >= 1, or null", size is None or size >= 1)
        self._check("channels", "1, 3 or null", self.channels in (1, 3, None))
        self._check("resize", f"one of {', '.join(RESIZE_RULES)}", self.resize in RESIZE_RULES)
        self._check("batch_size", "a number >= 1", self.batch_size >= 1)
        self._check("eval_batch_size", "a number >= 1", self.eval_batch_size >= 1)
        self._check("val_fraction", "a number > 0 and < 1", 0 < self.val_fraction < 1)
        self._check("test_fraction", "a number > 0 and < 1", 0 < self.test_fraction < 1)
        self._check("calibration_fraction", "a number >= 0 and < 1", 0 <= self.calibration_fraction < 1)
        self._check("split_seed", "a number >= 0", self.split_seed >= 0)
        self._check("n_folds", "a number >= 2, or null", n_folds is None or n_folds >= 2)
        self._check("leakage", f"one of {', '.join(LEAKAGE_POLICIES)}", self.leakage in LEAKAGE_POLICIES)
        width_fits = window is None or (len(window) == 2 and window[1] >= 1)
        self._check("window", "[centre, width] with a width >= 1, or null", width_fits)
        self._check("frames", f"one of {', '.join(FRAME_RULES)}", self.frames in FRAME_RULES)
        self._check("device_resident", "auto, true or false", self.device_resident in (True, False, "auto"))
        self._check("on_bad_image", f"one of {', '.join(BAD_IMAGE_POLICIES)}", self.on_bad_image in BAD_IMAGE_POLICIES)
        self._check("max_bad_fraction", "a number >= 0 and <= 1", 0 <= self.max_bad_fraction <= 1)
        few = self.max_train_samples
        self._check("max_train_samples", "a number >= 1, or null", few is None or few >= 1)
        if (n_folds is None) != (fold is None):
            raise ConfigError(
                "data.n_folds and data.fold belong together: the number of folds, and the one that tests.\n"
                "All of them in turn: -m data.n_folds=5 data.fold=0,1,2,3,4"
            )
        if n_folds is not None and fold is not None:
            self._check("fold", f"a number >= 0 and < {n_folds}", 0 <= fold < n_folds)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The options among the values of a `data` node of a config; its other keys belong to the layout."""
        own = {one.name: values[one.name] for one in fields(cls) if one.name in values}
        if own.get("window") is not None:
            own["window"] = tuple(own["window"])
        return cls(**own)

    def _check(self, name: str, expected: str, holds: bool) -> None:
        if not holds:
            value = getattr(self, name)
            shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            raise ConfigError(f"data.{name}={shown}: expected {expected}.")

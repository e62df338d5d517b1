"""The values that say how images are read, split and batched, each checked."""

from dataclasses import dataclass
from typing import Literal

from medvision.data.guard import LEAKAGE_POLICIES, Leakage
from medvision.data.limits import FRAME_RULES, Frames
from medvision.data.quarantine import BAD_IMAGE_POLICIES, OnBadImage
from medvision.data.resize import RESIZE_RULES, Resize
from medvision.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `medvision.data.datamodule.ImageDataModule` was asked for; its docstring says what each value means.

    Raises:
        ConfigError: for the first value that cannot be.
    """

    image_size: int | None
    channels: Literal[1, 3] | None
    resize: Resize
    batch_size: int
    eval_batch_size: int
    val_fraction: float
    test_fraction: float
    calibration_fraction: float
    split_seed: int
    n_folds: int | None
    fold: int | None
    leakage: Leakage
    window: tuple[float, float] | None
    frames: Frames
    device_resident: bool | Literal["auto"]
    on_bad_image: OnBadImage
    max_bad_fraction: float
    max_train_samples: int | None

    def __post_init__(self) -> None:
        size, window, n_folds, fold = self.image_size, self.window, self.n_folds, self.fold
        self._check("image_size", "a positive number of pixels or null", size is None or size > 0)
        self._check("channels", "1, 3 or null", self.channels in (1, 3, None))
        self._check("resize", f"one of {', '.join(RESIZE_RULES)}", self.resize in RESIZE_RULES)
        self._check("batch_size", "at least 1", self.batch_size >= 1)
        self._check("eval_batch_size", "at least 1", self.eval_batch_size >= 1)
        self._check("val_fraction", "between 0 and 1", 0 < self.val_fraction < 1)
        self._check("test_fraction", "between 0 and 1", 0 < self.test_fraction < 1)
        self._check("calibration_fraction", "from 0 to below 1", 0 <= self.calibration_fraction < 1)
        self._check("split_seed", "0 or more", self.split_seed >= 0)
        self._check("n_folds", "2 or more, or null", n_folds is None or n_folds >= 2)
        self._check("leakage", f"one of {', '.join(LEAKAGE_POLICIES)}", self.leakage in LEAKAGE_POLICIES)
        width_fits = window is None or (len(window) == 2 and window[1] >= 1)
        self._check("window", "[centre, width] with a width of 1 or more, or null", width_fits)
        self._check("frames", f"one of {', '.join(FRAME_RULES)}", self.frames in FRAME_RULES)
        self._check("device_resident", "auto, true or false", self.device_resident in (True, False, "auto"))
        self._check("on_bad_image", f"one of {', '.join(BAD_IMAGE_POLICIES)}", self.on_bad_image in BAD_IMAGE_POLICIES)
        self._check("max_bad_fraction", "from 0 to 1", 0 <= self.max_bad_fraction <= 1)
        few = self.max_train_samples
        self._check("max_train_samples", "at least 1, or null", few is None or few >= 1)
        if (n_folds is None) != (fold is None):
            raise ConfigError(
                "data.n_folds and data.fold belong together: the number of folds, and the one that tests.\n"
                "All of them in turn: -m data.n_folds=5 data.fold=0,1,2,3,4"
            )
        if n_folds is not None and fold is not None:
            self._check("fold", f"from 0 to {n_folds - 1}", 0 <= fold < n_folds)

    def _check(self, name: str, expected: str, holds: bool) -> None:
        if not holds:
            raise ConfigError(f"data.{name} must be {expected}, not {getattr(self, name)!r}.")

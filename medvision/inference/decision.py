"""Decision: what turns a model's logits into an answer, fitted once on the calibration split. Knows no torch."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from medvision.errors import DataError
from medvision.metrics.operating_point import OperatingPoint
from medvision.tasks import Task


@dataclass(frozen=True)
class Decision:
    """Temperature, views, threshold, prediction sets and out-of-distribution check of a model.

    Attributes:
        temperature: T > 0 in probs = softmax(logits / T).
        tta: the views of an image that are averaged; see `medvision.inference.tta`.
        operating_point: when an image is positive; None where none was chosen.
        conformal: `coverage` and `quantile` of the prediction sets; None where there are none.
        ood: statistics of the training images, see `medvision.inference.ood`; None where there are none.

    Raises:
        DataError: if a number is not finite or out of range.
    """

    temperature: float = 1.0
    tta: str = "none"
    operating_point: OperatingPoint | None = None
    conformal: Mapping[str, float] | None = None
    ood: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not (_is_number(self.temperature) and self.temperature > 0):
            raise DataError(f"expected a temperature > 0; found {self.temperature!r}")
        if self.conformal is not None:
            numbers = [self.conformal.get(name) for name in ("coverage", "quantile")]
            if not all(_is_number(value) and 0 <= value <= 1 for value in numbers):  # type: ignore[operator]
                raise DataError(f"expected a conformal coverage and quantile in [0, 1]; found {self.conformal!r}")

    def to_json(self) -> dict[str, Any]:
        """The form it has in bundle.json and in ONNX files."""
        return {
            "temperature": self.temperature,
            "tta": self.tta,
            "operating_point": self.operating_point and self.operating_point.to_json(),
            "conformal": self.conformal and dict(self.conformal),
            "ood": self.ood,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], task: Task) -> Self:
        """Read what `to_json` wrote, or what a version before 0.2 did.

        Args:
            content: has these keys, among others.
            task: that the positive classes must belong to.

        Raises:
            DataError: if a value is missing, not finite or out of range.
        """
        try:
            point = content.get("operating_point")
            read = None if point is None else OperatingPoint.from_json(point)
            if read is not None and not set(read.positive) <= set(task.class_names):
                raise DataError(f"positive classes {list(read.positive)} are not classes of the model")
            statistics = content.get("ood", content.get("gate"))
            # NaN and infinities are no JSON, but Python reads them; in comparisons they would let everything pass.
            json.dumps(statistics, allow_nan=False)
            return cls(
                temperature=content["temperature"],
                tta=str(content.get("tta", "none")),
                operating_point=read,
                conformal=content.get("conformal"),
                ood=statistics,
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{type(error).__name__}: {error}") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

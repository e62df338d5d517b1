"""Task: the question that a model answers about an image. Knows no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from medvision.errors import DataError

Kind = Literal["classes"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Task:
    """What is asked of an image; it travels in the table, the bundle, the predictions and the report.

    What depends on the kind stands in one function a room that says `match task.kind`, and nothing else asks:

    - `data.layouts.tables.manifest`: targets from a column,
    - `training.losses.task_loss`: the loss,
    - `training.classifier.task_metrics`: the metrics of an epoch,
    - `metrics.predictions.activation`: logits to probabilities,
    - `metrics.definitions.metrics_of`: the metrics of a report,
    - `inference.triage.decide`: label, status and reason,
    - `reports.wording.question`: the task in words.

    Attributes:
        kind: "classes": exactly one of K classes is true of an image.
        class_names: K names, each once, in the order of the logits.

    Raises:
        DataError: if the kind is unknown, or there are fewer than two names or one name twice.
    """

    kind: Kind
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"task kind {self.kind!r} is unknown; expected one of {', '.join(KINDS)}.")
        if len(self.class_names) < 2 or not all(isinstance(name, str) and name for name in self.class_names):
            raise DataError(f"expected two or more class names that are not empty; found {list(self.class_names)}.")
        if len(set(self.class_names)) < len(self.class_names):
            raise DataError(f"class names must differ; found {list(self.class_names)}.")

    @classmethod
    def classes(cls, class_names: Sequence[str]) -> Self:
        """One of K classes."""
        return cls("classes", tuple(class_names))

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def to_json(self) -> dict[str, Any]:
        """The form it has in bundle.json and run.json."""
        return {"kind": self.kind, "class_names": list(self.class_names)}

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Read what `to_json` wrote.

        Raises:
            DataError: if it is anything else.
        """
        if not isinstance(content, Mapping) or not isinstance(content.get("class_names"), list):
            raise DataError(f"expected a task with kind and class_names; found {content!r}.")
        return cls(content.get("kind"), tuple(content["class_names"]))  # type: ignore[arg-type]  # checked above

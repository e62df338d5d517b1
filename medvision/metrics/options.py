"""EvaluationOptions: what a report measures and how, each value with its default and its check."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

from medvision.errors import ConfigError

Rule = Literal["youden", "sensitivity", "specificity", "cost"]
Tta = Literal["none", "mirror", "mirror_shift"]


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """The node `evaluation` of a config; conf/train.yaml holds the same defaults.

    Attributes:
        confidence_level: of all intervals, in (0, 1).
        n_resamples: bootstrap resamples.
        positive: names of the positive classes; None for the default of `operating_point.default_positive`.
        rule: how the threshold is chosen on the calibration split; see `operating_point.choose`.
        target: of the rule; None for Youden's.
        prevalence: share of positive cases in the intended population, for predictive values there.
        tta: the views of an image that are averaged; see `medvision.inference.tta`.
        coverage: stated coverage of the prediction sets, in (0, 1).
        report: whether to write report.html and the model card.
        pictures: in each section of the report's gallery.
        robustness: whether to measure accuracy on corrupted images.
        metrics: dotted names of further metrics, records of `medvision.metrics.definitions.Metric`.

    Raises:
        ConfigError: for the first value that is out of range.
    """

    confidence_level: float = 0.95
    n_resamples: int = 1000
    positive: tuple[str, ...] | None = None
    rule: Rule = "youden"
    target: float | None = None
    prevalence: float | None = None
    tta: Tta = "none"
    coverage: float = 0.9
    report: bool = True
    pictures: int = 8
    robustness: bool = True
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("confidence_level", "prevalence", "coverage"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ConfigError(f"evaluation.{name}={value}: expected a number > 0 and < 1.")
        if self.n_resamples < 2:
            raise ConfigError(f"evaluation.n_resamples={self.n_resamples}: expected a number >= 2.")
        if self.pictures < 0:
            raise ConfigError(f"evaluation.pictures={self.pictures}: expected a number >= 0.")
        if self.tta not in get_args(Tta):
            raise ConfigError(f"evaluation.tta={self.tta}: expected one of {', '.join(get_args(Tta))}.")
        check_rule(self.rule, self.target)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The options of an `evaluation` node; a key that an older run did not have takes its default."""
        own = {one.name: values[one.name] for one in fields(cls) if one.name in values}
        for name in ("positive", "metrics"):
            if own.get(name) is not None:
                own[name] = tuple(own[name])
        return cls(**own)


def check_rule(rule: str, target: float | None) -> None:
    """Refuse a rule for the operating point that is unknown, or whose target does not suit it.

    Raises:
        ConfigError: if it is.
    """
    if rule not in get_args(Rule):
        raise ConfigError(f"evaluation.rule={rule}: expected one of {', '.join(get_args(Rule))}.")
    if rule == "youden":
        if target is not None:
            raise ConfigError(
                f"evaluation.target={target}: the rule youden has no target. Set evaluation.rule to sensitivity, "
                "specificity or cost."
            )
    elif target is None or not (math.isfinite(target) and target > 0) or (rule != "cost" and target > 1):
        wanted = "a cost of a miss over a false alarm > 0" if rule == "cost" else "a number > 0 and <= 1"
        raise ConfigError(f"evaluation.target={target}: the rule {rule} needs {wanted}.")

"""When an interval is to be taken with care: its coverage, as measured in experiments/coverage, falls short below."""

# Below these an interval of 95 % held the truth less than about 93 % of the time in some population.
FEWEST_GROUPS = 50
FEWEST_RANKED = 20  # samples on the smaller side of an area under a curve
FEWEST_MISRANKED = 2  # of these, (1 - AUROC) times their number
FEWEST_WRONG = 10  # wrong predictions, which make up most of log loss, Brier score and calibration
FEWEST = 10  # samples of the smallest class, or of the class, that anything else rests on

_OF_PROBABILITIES = ("log_loss", "brier", "ece", "calibration_slope", "calibration_intercept")


def why_care(name: str, value: float, units: int, wrong: int, groups: int | None) -> str | None:
    """Why the interval of a metric may hold the truth less often than it says; None where nothing speaks for it.

    Args:
        name: of the metric, in full.
        value: of the metric.
        units: independent units that it rests on; those of the smallest class where it looks at several.
        wrong: units with a wrong prediction.
        groups: number of groups, where samples are grouped.

    >>> why_care("auroc/pneumonia", 0.99, units=30, wrong=4, groups=None)
    'close to 1 for only 30 cases on the smaller side'
    """
    unit = "cases" if groups is None else "groups"
    if groups is not None and groups < FEWEST_GROUPS:
        return f"fewer than {FEWEST_GROUPS} groups"
    if name.removeprefix("macro/").partition("/")[0] in ("auroc", "average_precision"):
        if value == 1:
            return "a perfect ranking says little about how rare errors are"
        if units < FEWEST_RANKED:
            return f"fewer than {FEWEST_RANKED} {unit} on the smaller side"
        if (1 - value) * units < FEWEST_MISRANKED:
            return f"close to 1 for only {units} {unit} on the smaller side"
        return None
    if name in _OF_PROBABILITIES and wrong < FEWEST_WRONG:
        return f"fewer than {FEWEST_WRONG} {unit} with a wrong prediction"
    return f"rests on fewer than {FEWEST} {unit}" if units < FEWEST else None

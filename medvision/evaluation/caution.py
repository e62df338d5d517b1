"""When an interval is to be taken with care."""


def why_care(name: str, value: float, units: int, grouped: bool) -> str | None:
    """Why the interval of a metric may hold the truth less often than it says.

    Args:
        name: of the metric.
        value: of the metric.
        units: independent units that it rests on; those of the smallest class where it looks at several.
        grouped: whether a unit is a group.
    """
    return None

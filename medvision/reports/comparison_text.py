"""A comparison in words: a sentence for each pair, what to be careful about, and how it was done."""

from collections.abc import Iterator, Sequence

from medvision.comparison.compare import Comparison, Pair
from medvision.comparison.replicates import FEW_SEEDS
from medvision.metrics.definitions import METRICS


def headline(comparison: Comparison, metric: str) -> str:
    """The best model, and whether it is distinguishable from the others, in one line."""
    title = METRICS[metric].phrase
    models = [(row.name, row.estimates[metric].value) for row in comparison.rows if not row.is_ensemble]
    known = [(value, name) for name, value in models if value is not None]
    if not known:
        return f"The {title} is undefined on these cases"
    value, best = (min if METRICS[metric].lower_is_better else max)(known)
    reached = f"{100 * value:.1f} % {title}" if METRICS[metric].is_share else f"{title} {value:.3f}"
    if len(models) == 1:
        return f"{best}: {reached}"
    equals = [
        pair.second if pair.first == best else pair.first
        for pair in comparison.pairs
        if best in (pair.first, pair.second) and not pair.differences[metric].distinguishable
    ]
    if not equals:
        other = next(name for name, _ in models if name != best)
        return f"{best} is better than {other if len(models) == 2 else f'the other {len(models) - 1}'}: {reached}"
    if len(equals) == len(models) - 1 > 1:
        return f"{best} leads with {reached}, but is not distinguishable from the others"
    some = " and ".join(equals) if len(equals) < 3 else f"{len(equals)} others"
    return f"{best} leads with {reached}, but is not distinguishable from {some}"


def sentence(comparison: Comparison, pair: Pair, metric: str) -> str:
    """Who is better, by how much, and how sure that is; or that they are not distinguishable."""
    one = pair.differences[metric]
    if pair.identical:
        return f"{pair.first} and {pair.second} give the same predictions for all {cases(comparison)}."
    if one.value is None or one.low is None or one.high is None:
        return f"{pair.first} and {pair.second} cannot be compared: {METRICS[metric].phrase} is undefined."
    ahead = one.value >= 0
    first, second = (pair.first, pair.second) if ahead else (pair.second, pair.first)
    value, low, high = (one.value, one.low, one.high) if ahead else (-one.value, -one.high, -one.low)
    texts = scaled(metric, [value, low, high])
    unit = " points" if METRICS[metric].is_share else ""
    if one.distinguishable:
        if METRICS[metric].lower_is_better:
            # The one with the higher value is the worse.
            return f"{second} is better than {first} by {texts[0]}{unit} ({texts[1]} to {texts[2]})."
        return f"{first} is better than {second} by {texts[0]}{unit} ({texts[1]} to {texts[2]})."
    pairs = len(comparison.pairs)
    corrected = f", with all {pairs} pairs in mind," if one.low > 0 or one.high < 0 else ""
    return (
        f"{first} and {second} are not distinguishable{corrected} at n = {comparison.n:,} "
        f"(difference {texts[0]}{unit}, {texts[1]} to {texts[2]})."
    )


def sentences(comparison: Comparison, metric: str) -> list[tuple[Pair, str]]:
    """A sentence for each pair, distinguishable ones first."""
    ordered = sorted(comparison.pairs, key=lambda pair: not pair.differences[metric].distinguishable)
    return [(pair, sentence(comparison, pair, metric)) for pair in ordered]


def cases(comparison: Comparison) -> str:
    """How many, and in how many groups."""
    groups = f" of {comparison.units:,} groups" if comparison.grouped else ""
    return f"{comparison.n:,} cases{groups}"


def caveats(comparison: Comparison) -> Iterator[str]:
    """What a reader must keep in mind about this comparison."""
    models = [row for row in comparison.rows if not row.is_ensemble]
    if few := [row for row in models if row.seeds < FEW_SEEDS]:
        counts = ", ".join(f"{row.name} {row.seeds}" for row in few[:6]) + (", ..." if len(few) > 6 else "")
        yield (
            f"Fewer than {FEW_SEEDS} seeds ({counts}): a difference may be the luck of a seed. "
            "A single seed's interval covers the choice of test cases only."
        )
    if comparison.grouped:
        yield (
            "Cases share groups, so whole groups were resampled; McNemar's and DeLong's tests, which take cases for "
            "independent, were replaced by this bootstrap."
        )
    if any(row.seeds > 1 for row in models) and comparison.pairs:
        yield (
            "Configurations with several seeds are compared by their mean over seeds, with the variance between seeds "
            "added to that between cases; McNemar's and DeLong's tests compare two models and were not used for them."
        )
    if any(row.folds > 1 for row in models):
        yield (
            "Out-of-fold predictions come from models whose training sets overlap: intervals take the cases for "
            "independent and may be somewhat narrow. An AUROC over joined folds ranks the scores of one model "
            "among those of others."
        )
    if comparison.units < 50:
        yield f"{cases(comparison)} are few: only large differences can be seen with them."


def method(comparison: Comparison) -> Iterator[str]:
    """How intervals and p-values were found."""
    level = f"{comparison.confidence_level:.0%}"
    resamples = f"{comparison.n_resamples:,} resamples of the {'groups' if comparison.grouped else 'cases'}"
    yield f"All models were scored on the same {cases(comparison)} of {len(comparison.class_names)} classes."
    if comparison.grouped:
        yield f"{level} intervals come from {resamples}, the same ones for every model."
    else:
        yield (
            f"{level} intervals of single models are those of their reports; of several seeds, and of differences, "
            f"from {resamples}, the same ones for every model, unless a test has its own."
        )
        yield (
            "Differences of accuracy: McNemar's test (exact below 25 disagreements) with the interval of Bonett and "
            "Price. Differences of AUROC: DeLong's test, over the mean of all classes against the rest. Otherwise the "
            "paired bootstrap, with a standard error and Student's t."
        )
    yield (
        "Differences are first less second; 100 points are 1. p-values are corrected by Holm for all pairs of a "
        "metric, and a difference counts when the corrected one is small enough and the interval leaves out 0. "
        "Intervals of differences are not corrected."
    )


def value_text(metric: str, value: float | None) -> str:
    """A metric as text: in per cent, or with three decimals."""
    if value is None:
        return "undefined"
    if not METRICS[metric].is_share:
        return f"{value:.3f}"
    # Not quite all must not look like all.
    return f"{100 * value:.2f}" if 0.9995 <= value < 1 else f"{100 * value:.1f}"


def scaled(metric: str, values: Sequence[float]) -> list[str]:
    """Differences as text: points for metrics in [0, 1], with as many decimals as the interval deserves."""
    factor = 100 if METRICS[metric].is_share else 1
    shown = [factor * value for value in values]
    width = max(shown) - min(shown)
    decimals = 1 if width >= 1 else 2 if width >= 0.1 else 3
    # No minus before a zero.
    return [f"{round(value, decimals) + 0.0:.{decimals}f}" for value in shown]


def cost(name: str, value: float | None) -> str:
    """A cost with its unit.

    >>> cost("size_bytes", 1_500_000), cost("seconds_predict_per_image", 0.0002), cost("seconds_fit", None)
    ('1.5 MB', '0.20 ms', 'unknown')
    """
    if value is None:
        return "unknown"
    if name.endswith("bytes"):
        for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
            if value >= size:
                return f"{value / size:.3g} {unit}"
        return f"{value:.0f} B"
    if name == "parameters":
        return f"{value:,.0f}"
    for unit, seconds, least in (("h", 3600, 7200), ("min", 60, 120), ("s", 1, 0.1), ("ms", 1e-3, 1e-4)):
        if value >= least:
            return f"{value / seconds:.{1 if value >= seconds and unit != 'ms' else 2}f} {unit}"
    return f"{1e6 * value:.1f} µs"

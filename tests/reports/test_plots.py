import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from medvision.metrics import curves
from medvision.metrics.calibration import reliability
from medvision.metrics.selective import RiskCoverage
from medvision.reports import plots
from medvision.reports.plots import Line, to_svg


@pytest.fixture
def ax():
    return Figure().add_subplot()


@pytest.fixture
def line():
    x = np.linspace(0, 1, 20)
    return Line("a class", x, x**0.5)


def drawn(ax, name):
    """The points of the line that the legend calls `name`."""
    return next(line.get_xydata() for line in ax.lines if line.get_label() == name)


@pytest.mark.parametrize("draw", [plots.draw_roc, plots.draw_precision_recall])
def test_curves_are_drawn_point_for_point_on_labelled_axes(draw, ax, line):
    assert draw([line], ax) is ax
    assert np.array_equal(drawn(ax, "a class"), np.stack([line.x, line.y], axis=1))
    assert ax.get_xlabel()
    assert ax.get_ylabel()


def test_faint_curves_share_one_name(ax, line):
    plots.draw_roc([line, line._replace(name="b"), line._replace(name="c")], ax, faint=2)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a class", "2 other classes"]


def test_the_operating_point_is_where_it_is(ax, line):
    plots.draw_roc([line], ax, point=(0.2, 0.7))
    assert [0.2, 0.7] in [points.get_xydata()[0].tolist() for points in ax.lines if len(points.get_xydata()) == 1]


def test_lines_differ_in_more_than_colour(ax, line):
    plots.draw_roc([line._replace(name=str(number)) for number in range(6)], ax)
    named = [one for one in ax.lines if one.get_label().isdigit()]
    assert len({to_hex(one.get_color()) for one in named}) == 6
    assert len({str(one._dash_pattern) for one in named}) == 6


def test_a_reliability_diagram_shows_the_bins_that_hold_cases(ax, make_predictions):
    predictions = make_predictions()
    numbers = reliability(predictions.probs, predictions.targets, 10)
    plots.draw_reliability({"as reported": numbers}, ax)
    here = numbers.counts > 0
    expected = np.stack([numbers.predicted[here], numbers.observed[here]], axis=1)
    assert np.array_equal(drawn(ax, "as reported"), expected)


def test_bars_stack_to_all_images(ax, make_predictions):
    predictions = make_predictions(150)
    right = predictions.preds == predictions.targets
    plots.draw_histogram(curves.histogram(predictions.probs.max(axis=1), right), ("right", "wrong"), ax)
    assert sum(bar.get_height() for bar in ax.patches) == 150
    assert sum(bar.get_height() for bar in ax.containers[0]) == right.sum()


def test_a_decision_curve_shows_the_three_policies_and_the_threshold(ax, make_predictions):
    predictions = make_predictions(k=2)
    numbers = curves.decision_curve(predictions.probs[:, 1], predictions.targets == 1)
    plots.draw_decision_curve(numbers, ax, threshold=0.3)
    assert np.array_equal(drawn(ax, "the model")[:, 1], numbers.model)
    assert np.array_equal(drawn(ax, "treat everybody")[:, 1], numbers.treat_all)
    assert np.array_equal(drawn(ax, "treat nobody")[:, 1], numbers.treat_none)
    assert drawn(ax, "operating point")[0, 0] == 0.3


def test_risk_confusion_and_epochs_are_drawn(ax, make_predictions):
    assert plots.draw_risk_coverage(RiskCoverage(np.array([0.5, 1.0]), np.array([0.0, 0.2])), ax) is ax
    predictions = make_predictions(targets=np.array([0, 0, 2]))
    matrix = curves.confusion(predictions.targets, predictions.preds, 3)
    plots.draw_confusion(matrix, ax)
    assert np.array_equal(ax.images[0].get_array(), np.sqrt(np.nan_to_num(matrix.rates)))
    other = Figure().add_subplot()
    epochs = Line("training", np.arange(1.0, 4.0), np.array([3.0, 2.0, 1.0]))
    plots.draw_lines([epochs], other, ("Epoch", "Loss"), level=Line("before", np.zeros(1), np.array([4.0])))
    assert np.array_equal(drawn(other, "training")[:, 1], epochs.y)
    assert drawn(other, "before")[0, 1] == 4


def test_a_drawing_is_the_same_text_every_time_and_its_ids_bear_its_name(line):
    def draw(ax):
        return plots.draw_roc([line], ax)

    text = to_svg(draw, "one", "a curve")
    assert text == to_svg(draw, "one", "a curve")
    ids = [part.partition('"')[0] for part in text.split('id="')[1:]]
    assert ids
    assert len(ids) == len(set(ids))
    assert all(name.startswith("one-") for name in ids)
    for reference in text.split('href="#')[1:]:
        assert reference.partition('"')[0] in ids
    for reference in text.split("url(#")[1:]:
        assert reference.partition(")")[0] in ids


def test_colours_follow_the_theme_of_the_page(line):
    text = to_svg(lambda ax: plots.draw_roc([line], ax), "one", "a curve")
    assert "var(--blue)" in text
    assert "var(--text)" in text
    assert plots.BLUE not in text


def test_names_are_text_whatever_they_hold(line):
    hostile = line._replace(name="<script>$\\frac{1}{$ 日本")
    text = to_svg(lambda ax: plots.draw_roc([hostile], ax), "one", '"><script>')
    assert "<script>" not in text
    assert "&lt;script&gt;$\\frac{1}{$ 日本" in text


def test_long_names_are_cut_in_the_middle():
    assert plots.short("a" * 40 + "b" * 40, 11) == "aaaaa…bbbbb"
    assert plots.short("two\nlines") == "two lines"

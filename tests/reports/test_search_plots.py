import pytest
from matplotlib.figure import Figure

from medvision.reports.search_plots import draw_history, draw_importance


@pytest.fixture
def ax():
    return Figure().add_subplot()


@pytest.mark.parametrize(("smaller", "best"), [(True, [0.5, 0.4, 0.4, 0.4]), (False, [0.5, 0.5, 0.9, 0.9])])
def test_the_line_is_the_best_so_far(ax, smaller, best):
    values = [(0, 0.5), (2, 0.4), (3, 0.9)]
    draw_history(values, [(1, 0.7), (5, 0.8)], smaller, "val/loss", ax)
    pruned, finished, line = ax.get_lines()
    assert finished.get_xydata().tolist() == [list(one) for one in values]
    assert pruned.get_xydata().tolist() == [[1, 0.7], [5, 0.8]]
    assert line.get_xdata().tolist() == [0, 2, 3, 5]
    assert line.get_ydata().tolist() == best


def test_bars_are_shares(ax):
    draw_importance({"optimizer.lr": 0.75, "model.hidden": 0.25}, ax)
    assert [bar.get_width() for bar in ax.patches] == [0.75, 0.25]
    assert [text.get_text() for text in ax.texts] == ["75%", "25%"]

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from medvision.comparison.compare import COSTS, Candidate, compare
from medvision.comparison.replicates import Replicate
from medvision.metrics.predictions import Predictions
from medvision.reports.comparison_page import render, table
from medvision.reports.comparison_plots import MOST_PAIRS, differences, drawn_pairs, models, png, short

EVIL = '<script>alert("x")</script> $a_1$ & "quotes" 模型'


def members(count, strength=1.5, n=120, k=3, seed=0):
    rng = np.random.default_rng(0)
    targets, shared = rng.integers(0, k, n), rng.normal(size=(n, k))
    own = np.random.default_rng(seed)
    for _ in range(count):
        logits = shared + own.normal(size=(n, k))
        logits[np.arange(n), targets] += strength
        yield Predictions.from_logits(
            ids=np.arange(n), targets=targets, logits=logits, class_names=[f"c{c}" for c in range(k)]
        )


@pytest.fixture(scope="module")
def comparison():
    seeds = tuple(Replicate.of(seed, [("run", one)]) for seed, one in enumerate(members(3)))
    known = dict(zip(COSTS, (12.0, None, 2e6, 3e8, 1000), strict=True))
    (weak,) = members(1, 0.4, seed=5)
    (other,) = members(1, 1.5, seed=6)
    folds = [("one", other.take(np.arange(60))), ("two", other.take(np.arange(60, 120)))]
    return compare(
        [
            Candidate("net", seeds, known, ("runs/a", "runs/b")),
            Candidate(EVIL, (Replicate.of(0, [("weak", weak)]),), dict.fromkeys(COSTS), ("runs/c",)),
            Candidate("folded", (Replicate.of(0, folds),), known),
        ],
        n_resamples=100,
    )


class Page(HTMLParser):
    """What stands in a page: its tags, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_nothing_and_runs_nothing(comparison):
    text = render(comparison, "accuracy", ["a <b>note</b>"], "medvision 1")
    page = Page(text)
    assert not {"script", "link", "iframe", "img", "b"} & set(page.tags)
    assert "default-src 'none'" in text
    for _, name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("href", "src", "xlink:href"):
            assert value.startswith("#")
    assert "http" not in re.sub(r'http-equiv|xmlns(:\w+)?="[^"]*"', "", text)
    assert EVIL in page.text
    assert "a <b>note</b>" in page.text
    for words in ("Research use only", "mean of 3 seeds", "2 folds joined", "net, ensemble of 3", "unknown", "Holm"):
        assert words in page.text
    assert page.tags.count("svg") == 2


def test_ids_are_unique(comparison):
    page = Page(render(comparison, "macro_auroc", [], "now"))
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(set(ids)) == len(ids)


def test_equal_comparisons_give_equal_pages(comparison):
    assert render(comparison, "log_loss", [], "now") == render(comparison, "log_loss", [], "now")


def test_the_table_has_every_number(comparison):
    lines = table(comparison)
    own = lines[lines.compared_with.isna() & (lines.model == "net") & (lines.metric == "accuracy")]
    assert own.value.item() == comparison.rows[0].estimates["accuracy"].value
    pairs = lines[lines.compared_with.notna()]
    assert len(pairs) == 3 * 5
    assert pairs.p_holm.notna().all()
    assert set(lines[lines.model == "net"].metric) >= {"accuracy/sd_seeds", "accuracy/mean_seeds", "seconds_fit"}
    assert "accuracy/sd_folds" in set(lines[lines.model == "folded"].metric)


def test_lines_of_the_plots_are_the_numbers(comparison):
    lines = models(comparison, "accuracy")
    assert [line.name for line in lines] == ["net", "net, ensemble of 3", EVIL, "folded"]
    assert [line.marker for line in lines] == ["o", "D", "o", "o"]
    estimate = comparison.rows[0].estimates["accuracy"]
    assert (lines[0].value, lines[0].low) == pytest.approx((100 * estimate.value, 100 * estimate.low))
    for metric in ("accuracy", "log_loss"):
        for line in differences(comparison, metric):
            # The better one first: with more right, or with less loss.
            assert (line.value >= 0) == (metric == "accuracy") or line.value == 0
            assert line.low <= line.value <= line.high


def test_many_pairs_are_drawn_for_the_best_only():
    many = compare([Candidate.of(f"m{i}", one) for i, one in enumerate(members(7))], n_resamples=20)
    assert len(many.pairs) == 21 > MOST_PAIRS
    drawn = drawn_pairs(many, "accuracy")
    best = max(many.rows, key=lambda row: row.estimates["accuracy"].value).name
    assert len(drawn) == 6
    assert all(best in (pair.first, pair.second) for pair in drawn)
    assert "15 others are in the tables" in Page(render(many, "accuracy", [], "now")).text
    assert "6 more pairs are in the tables below" in Page(render(many, "accuracy", [], "now")).text


def test_the_figure_is_a_picture(comparison):
    picture = matplotlib.image.imread(io.BytesIO(png(comparison, "accuracy")))
    assert picture.shape[1] > 1500
    assert picture[..., :3].std() > 0.05


def test_a_single_model_has_no_pairs():
    (one,) = members(1)
    alone = compare([Candidate.of("alone", one)], n_resamples=20)
    page = Page(render(alone, "accuracy", [], "now"))
    assert page.tags.count("svg") == 1
    assert "Every pair" not in page.text
    assert png(alone, "accuracy")


def test_a_long_name_keeps_its_ends():
    assert short("abcdefghij", 10) == "abcdefghij"
    assert short("abcdefghijk", 9) == "abcd…hijk"


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(not Path("/usr/bin/chromium").exists(), reason="there is no /usr/bin/chromium")
def test_the_page_fits_a_telephone(comparison, tmp_path):
    from playwright.sync_api import sync_playwright

    file = tmp_path / "page.html"
    file.write_text(render(comparison, "accuracy", [], "now"), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu", "--disable-quic"]
        )
        page = browser.new_page(viewport={"width": 390, "height": 800})
        said = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(file.as_uri())
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert said == []
        browser.close()

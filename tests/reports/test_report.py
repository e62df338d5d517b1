import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from markupsafe import Markup
from sklearn.metrics import confusion_matrix

from medvision.metrics.estimates import Estimate, Key
from medvision.reports import figures
from medvision.reports.report import report
from medvision.reports.wording import described

HOSTILE = ('<script>alert("x")</script>', "'\"><img src=x onerror=alert(1)>", "{{ 7 * 7 }} $x_1$ & 日本", "--></style>")


class Page(HTMLParser):
    """Every element with its attributes, and the text within some of them."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.inside, self.texts = [], [], {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag in ("data", "td", "p", "h1", "h2", "h3", "figcaption"):
            self.inside.append(len(self.elements) - 1)

    def handle_endtag(self, tag):
        if self.inside and self.elements[self.inside[-1]][0] == tag:
            self.inside.pop()

    def handle_data(self, data):
        for place in self.inside:
            self.texts[place] = self.texts.get(place, "") + data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def numbers(self):
        """Name, exact value and text of every measure."""
        return [
            (attributes["data-name"], float(attributes["value"]), self.texts[place])
            for place, (tag, attributes) in enumerate(self.elements)
            if tag == "data"
        ]


@pytest.fixture
def text_of(monkeypatch):
    """The page around empty drawings, which are what takes time."""
    empty = Markup('<svg viewBox="0 0 1 1" width="1" height="1" role="img" aria-label="{}"></svg>')
    monkeypatch.setattr(figures, "to_svg", lambda draw, name, alt, size: empty.format(alt))
    return report


@pytest.mark.parametrize(("k", "split"), [(2, "test"), (4, "external"), (15, "test")])
def test_every_number_is_that_of_metrics_json_and_none_is_missing(text_of, make_report_case, k, split):
    case = make_report_case(n=40 * k, k=k, split=split)
    estimates = {described(key): estimate for key, estimate in case["estimates"].items()}
    shown = Page(text_of(**case)).numbers
    for name, exact, text in shown:
        assert exact == estimates[name].value
        digits = text.replace("−", "-").removesuffix("\u00a0%").lstrip("<>")
        scale = 100 if text.endswith("%") else 1
        half_a_digit = 0.5 * 10.0 ** -len(digits.partition(".")[2])
        assert abs(float(digits) - scale * exact) <= half_a_digit * (2 if text[0] in "<>" else 1) * (1 + 1e-9)
    assert {name for name, _, _ in shown} == set(estimates)


def test_the_interval_and_the_n_stand_beside_the_value(text_of, make_report_case):
    case = make_report_case()
    case["estimates"][Key("mcc", split="test")] = Estimate(0.5, 0.31234, 0.71234, 1234)
    row = re.search(r"Matthews.*?</tr>", text_of(**case), re.DOTALL)[0]
    assert "0.312 to 0.712" in row
    assert "1,234" in row


def test_the_headline_counts_what_was_right(text_of, make_report_case):
    case = make_report_case(n=300, k=3)
    right = int((case["predictions"].preds == case["predictions"].targets).sum())
    assert f"The model classified {right} of 300 test images correctly (" in text_of(**case)


def test_two_classes_get_a_sentence_each(text_of, make_report_case):
    case = make_report_case(k=2, class_names=("normal", "pneumonia"))
    predictions = case["predictions"]
    found = int((predictions.preds[predictions.targets == 1] == 1).sum())
    assert f"images of “pneumonia” it recognised {found}:" in text_of(**case)


def test_the_confusion_matrix_is_that_of_scikit_learn(text_of, make_report_case):
    case = make_report_case(n=500, k=5)
    table = re.search(r'<table class="confusion">.*?</table>', text_of(**case), re.DOTALL)[0]
    counts = [int(number.replace(",", "")) for number in re.findall(r"<strong>([\d,]+)</strong>", table)]
    expected = confusion_matrix(case["predictions"].targets, case["predictions"].preds)
    assert counts == expected.ravel().tolist()


def test_equal_input_gives_equal_bytes(make_report_case):
    assert report(**make_report_case()) == report(**make_report_case())


def test_names_of_strangers_stay_text(make_report_case):
    facts = {"title": HOSTILE[0], "command": HOSTILE[1], "config": HOSTILE[3], "notes": list(HOSTILE)}
    case = make_report_case(class_names=HOSTILE, **facts)
    ids = case["predictions"].ids.astype("<U90")
    ids[:4] = HOSTILE
    case["predictions"] = replace(case["predictions"], ids=ids)
    case["pictures"] = [replace(picture, id=HOSTILE[1]) for picture in case["pictures"]]
    text = report(**case)
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert text.count("</style>") == 1
    assert "49 $x" not in text
    assert {name for name, _, _ in page.numbers} == {described(key) for key in case["estimates"]}


def test_nothing_is_loaded_and_nothing_runs(text_of, make_report_case):
    found = Page(text_of(**make_report_case()))
    assert {tag for tag, _ in found.elements}.isdisjoint({"script", "link", "iframe", "object", "form"})
    sources = [
        attributes[key] for _, attributes in found.elements for key in ("src", "xlink:href") if key in attributes
    ]
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert {a["href"] for a in found.all("a") if not a["href"].startswith("#")} == {
        "https://doi.org/10.1148/ryai.240300"
    }
    policy = next(meta["content"] for meta in found.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "script" not in policy


@pytest.mark.parametrize("k", [2, 15])
def test_ids_are_unique_and_every_reference_leads_somewhere(make_report_case, k):
    found = Page(report(**make_report_case(k=k, n=40 * k)))
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = [a["href"][1:] for a in found.all("a") if a["href"].startswith("#")]
    wanted += [use["xlink:href"][1:] for use in found.all("use")]
    wanted += [attributes["aria-labelledby"] for _, attributes in found.elements if "aria-labelledby" in attributes]
    assert set(wanted) <= set(ids)


def test_tables_have_captions_and_scopes_and_pictures_have_words(text_of, make_report_case):
    found = Page(text_of(**make_report_case()))
    assert len(found.all("caption")) == len(found.all("table"))
    assert all("scope" in attributes for attributes in found.all("th"))
    assert all(image["alt"] and image["width"] and image["height"] for image in found.all("img"))
    assert all(svg["aria-label"] and svg["role"] == "img" for svg in found.all("svg"))
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))


def test_what_is_undefined_says_so_and_why(text_of, make_report_case):
    case = make_report_case()
    case["estimates"][Key("auroc", "class 1", split="test")] = Estimate(None, None, None, 0, "no image of this class")
    text = text_of(**case)
    assert 'data-name="test, class 1: auroc">undefined' in text
    assert "no image of this class" in text
    assert "1 number cannot be computed" in text


def test_a_caution_is_marked_where_the_number_stands(text_of, make_report_case):
    case = make_report_case()
    case["estimates"][Key("mcc", split="test")] = Estimate(1.0, 0.9, 1.0, 120, caution="rests on few images")
    text = text_of(**case)
    note = re.search(r'<li id="(headline-note-\d+)">rests on few images</li>', text)[1]
    assert f'href="#{note}"' in re.search(r"Matthews.*?</tr>", text, re.DOTALL)[0]
    assert re.search(r"1 of \d+ intervals is unreliable", text)


def test_every_missing_section_says_so(text_of, make_report_case):
    case = make_report_case()
    nothing = {"predictions": case["predictions"], "facts": dict.fromkeys(case["facts"]), "rows": [], "pictures": []}
    text = text_of(**nothing, estimates={})
    sections = re.split(r"<h2[^>]*>", text.partition("</header>")[2])[1:]
    told = {re.match(r"[^<]*", section)[0].strip() for section in sections if 'class="missing"' in section}
    expected = {"Results", "Data", "Operating point", "Calibration", "Abstention", "Subgroups", "Leakage", "Robustness"}
    assert told >= expected | {"Negative controls", "Training", "Provenance"}
    assert "is not known" in text.partition("</header>")[0]
    assert "None" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)


def test_leaks_that_were_kept_stand_on_the_first_screen(text_of, make_report_case):
    case = make_report_case()
    case["facts"]["data"]["leakage"]["policy"] = "keep"
    top = text_of(**case).partition("</header>")[0]
    assert "3 test images share pixels or a group with training data, and they were kept" in top
    assert "Without them accuracy is 25.0\u00a0%." in top
    assert "Research use only" in top


def test_negative_controls_above_chance_alarm_and_others_do_not(text_of, make_report_case):
    case = make_report_case()
    words = "test images may have leaked into training"
    case["estimates"][Key("macro_auroc", None, "negative_controls", ("shuffled_labels",), "test")] = Estimate(
        0.6, 0.55, 0.65, 100
    )
    assert words in text_of(**case)
    case["estimates"][Key("macro_auroc", None, "negative_controls", ("shuffled_labels",), "test")] = Estimate(
        0.52, 0.47, 0.57, 100
    )
    assert words not in text_of(**case)


def test_sets_that_hold_less_than_they_should_alarm_and_others_do_not(text_of, make_report_case):
    case = make_report_case()
    words = "instead of the stated 90.0\u00a0%"
    case["estimates"][Key("coverage", section="conformal", split="test")] = Estimate(0.7, 0.65, 0.75, 120)
    assert words in text_of(**case)
    case["estimates"][Key("coverage", section="conformal", split="test")] = Estimate(0.88, 0.82, 0.92, 120)
    assert words not in text_of(**case)


def test_groups_are_named_only_where_one_holds_several_images(text_of, make_report_case):
    case = make_report_case(n=120)
    alone = "No two of these images are known to be of the same patient"
    assert alone in text_of(**case)
    case["predictions"] = replace(case["predictions"], groups=case["predictions"].ids)
    assert alone in text_of(**case)
    case["predictions"] = replace(case["predictions"], groups=np.array([f"p{row // 2}" for row in range(120)]))
    text = text_of(**case)
    assert alone not in text
    assert "120 images of 60 groups" in text


def test_external_images_that_were_trained_on_are_a_warning(text_of, make_report_case):
    case = make_report_case(split="external")
    case["facts"]["data"]["leakage"] = {"policy": "keep", "test_images_seen": 1}
    assert "1 external image shares pixels or a group with training data, and they were kept" in text_of(**case)


def test_few_images_are_a_warning(text_of, make_report_case):
    assert "Only 60 images" in text_of(**make_report_case(n=60))
    assert "Only " not in text_of(**make_report_case(n=200)).partition("</header>")[0]


def test_the_widest_gap_comes_first(text_of, make_report_case):
    case = make_report_case()
    for value, accuracy in (
        *((("sex", "F"), 0.2), (("sex", "M"), 0.9)),
        *((("age", "< 40"), 0.5), (("age", "40 to 90"), 0.6)),
    ):
        case["estimates"][Key("accuracy", None, "subgroups", value, "test")] = Estimate(accuracy, 0.1, 0.95, 50)
    text = text_of(**case)
    assert text.index("By sex.") < text.index("By age.")


def test_many_classes_are_shown_by_their_extremes(text_of, make_report_case):
    case = make_report_case(n=3000, k=100)
    text = text_of(**case)
    assert 'class="confusion"' not in text
    table = re.search(r'<table id="per-class".*?</table>', text, re.DOTALL)[0]
    sensitivities = {
        name: case["estimates"][Key("sensitivity", name, split="test")].value
        for name in case["predictions"].class_names
    }
    lowest = sorted(sensitivities, key=sensitivities.get)[:10]
    assert re.findall(r'<th scope="row"><span class="head">(class \d+)</span></th>', table) == lowest
    assert "All 100 classes" in text


def test_pictures_that_do_not_fit_are_left_out_and_counted(text_of, make_report_case):
    case = make_report_case(pictures=4)
    large = case["pictures"][0].original + bytes(700_000)
    case["pictures"] = [replace(picture, original=large, overlay=None) for picture in case["pictures"]]
    text = text_of(**case)
    assert len(text.encode()) < 5_000_000
    assert f"{len(case['pictures']) - 4} pictures left out" in text
    # The first of each section before the second of any.
    assert text.count("No pictures here") == 0


def test_the_checklist_has_its_44_items(text_of, make_report_case):
    text = text_of(**make_report_case())
    rows = re.findall(r'<th scope="row">(\d+)</th>', text.partition('id="claim"')[2])
    assert [int(number) for number in rows] == list(range(1, 45))
    assert "For the authors to fill in." in text

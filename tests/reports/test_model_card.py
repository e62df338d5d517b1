import re

from medvision.metrics.estimates import Estimate, Key
from medvision.reports.model_card import model_card


def test_the_numbers_are_those_of_metrics_json(make_report_case):
    case = make_report_case()
    case["estimates"][Key("accuracy", split="test")] = Estimate(0.81234, 0.75, 0.86, 120)
    card = model_card(case["facts"], case["estimates"])
    assert "| Accuracy | 81.2\u00a0% | 75.0 to 86.0 | 120 |" in card
    recall = case["estimates"][Key("sensitivity", "class 2", split="test")]
    assert re.search(rf"\| class 2 \| {recall.n} \| {100 * recall.value:.1f}", card)


def test_an_external_test_is_called_so(make_report_case):
    case = make_report_case(split="external")
    assert "External test, external split" in model_card(case["facts"], case["estimates"])


def test_names_of_strangers_break_neither_table_nor_page(make_report_case):
    names = ("<script>alert(1)</script>", "a|b\n\n# c", "[x](javascript:alert(1))", "`d` *e*")
    case = make_report_case(class_names=names, title="<img src=x>", command="x\n\n<script>")
    card = model_card(case["facts"], case["estimates"])
    assert "<" not in card.replace("\n    x <script>", "")  # within a block of code it is text
    rows = [line for line in card.splitlines() if line.startswith("| a")]
    assert rows[0].count(" | ") == 4
    assert "\n# c" not in card
    assert "[x](" not in card


def test_what_is_not_known_is_said(make_report_case):
    case = make_report_case()
    card = model_card(dict.fromkeys(case["facts"]), {})
    for words in (
        "The model is not described",
        "Not measured",
        "not calibrated",
        "No operating point",
        "not a medical",
    ):
        assert words in card
    assert "None" not in card


def test_many_classes_are_cut_and_counted(make_report_case):
    case = make_report_case(n=900, k=30)
    card = model_card(case["facts"], case["estimates"])
    assert "10 more classes are in the report." in card


def test_equal_input_gives_equal_text(make_report_case):
    one, two = make_report_case(), make_report_case()
    assert model_card(one["facts"], one["estimates"]) == model_card(two["facts"], two["estimates"])

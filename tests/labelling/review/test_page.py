import base64
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from medvision import compose, fit
from medvision.data.layouts.tables import manifest
from medvision.labelling.annotations import index_annotations
from medvision.labelling.review import page as review_page
from medvision.labelling.review.page import write_review

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
NAMES = ("no tumour", "<b>glioma</b>", "ménière")
HOSTILE = 'we"ird, na\nme <script>document.title="owned"<_script>.png'
STATUSES = ["review", "review", "rejected", "auto"]


@pytest.fixture
def make_page(tmp_path):
    """Annotations of so many images, and the page on them: `make_page(40)` is the folder."""

    def make(count=12, limit=2000, draw_maps=None, names=NAMES):
        rng = np.random.default_rng(0)
        lines = []
        for number in range(count):
            path = tmp_path / "in" / (HOSTILE if number == 0 else f"{number:05}.png")
            path.parent.mkdir(exist_ok=True)
            if number < 40:
                cv2.imwrite(str(path), rng.integers(0, 255, (50, 40), dtype=np.uint8))
            label = number % len(names)
            confidence = 0.4 + 0.001 * (number % 500)
            probs = dict.fromkeys(names, round((1 - confidence) / (len(names) - 1), 6)) | {names[label]: confidence}
            status = STATUSES[number % 4]
            lines.append(
                {
                    "image": str(path) if number < 40 else lines[number % 40]["image"],
                    "label": names[label],
                    "confidence": confidence,
                    "status": status,
                    "reason": "" if status == "auto" else f"low confidence {confidence:.2f}, below 0.8",
                    "set": [names[label]],
                    "probs": probs,
                }
            )
        broken = {"image": "/gone.png", "label": None, "confidence": None, "status": "rejected", "set": None}
        lines.append(broken | {"reason": "unreadable: file is <empty>", "probs": None})
        (tmp_path / "annotations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return write_review(
            tmp_path,
            index_annotations(tmp_path),
            names,
            {"size": (16, 16), "channels": 1, "resize": "letterbox"},
            title="scans </title><script>",
            written="medvision 0, today",
            key="a" * 64,
            limit=limit,
            draw_maps=draw_maps,
            no_map="No heat maps: <none>.",
        )

    return make


def data_of(page: Path) -> dict:
    text = page.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def test_the_page_is_one_file_that_asks_for_nothing(make_page):
    (page,) = make_page()
    text = page.read_text(encoding="utf-8")
    outside_data = re.sub(r'id="data">.*?</script>', "", text, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?!\{)[^"]*//', outside_data)
    assert "default-src 'none'" in text
    assert "unsafe-inline" not in text
    assert text.count("<script") == 2
    assert "scans &lt;/title&gt;&lt;script&gt;" in text
    assert "unreadable: file is &lt;empty&gt;" in text


def test_images_are_in_the_order_of_need_with_all_that_is_known(make_page):
    data = data_of(make_page()[0])
    assert [image["s"] for image in data["images"]] == ["review"] * 6 + ["rejected"] * 3 + ["auto"] * 3
    confidences = [max(image["p"]) for image in data["images"]]
    assert confidences[:6] == sorted(confidences[:6])
    first = data["images"][0]
    assert first["n"] == HOSTILE
    assert first["i"].endswith(HOSTILE)
    assert data["classes"] == list(NAMES)
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(first["t"]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels.shape == (96, 77)


def test_maps_are_drawn_for_the_first_and_what_is_left_out_is_said(make_page, monkeypatch):
    monkeypatch.setattr(review_page, "MAPS", 3)
    monkeypatch.setattr(review_page, "PREVIEWS", 5)
    seen = []

    def draw(images, classes):
        seen.append((images.shape, classes.tolist()))
        return [b"\x89PNG map", None, b"\x89PNG map"]

    (page,) = make_page(draw_maps=draw)
    images = data_of(page)["images"]
    assert seen[0][0] == (3, 1, 16, 16)
    assert seen[0][1] == [image["l"] for image in images[:3]]
    assert ["g" in image for image in images[:5]] == [True, False, True, False, False]
    assert ["b" in image for image in images] == [True] * 5 + [False] * 7
    text = page.read_text(encoding="utf-8")
    assert "Heat maps are in this page for the first 3 images." in text
    assert "Larger pictures are in this page for the first" in text


def test_more_images_than_a_page_takes_make_more_pages(make_page, monkeypatch):
    monkeypatch.setattr(review_page, "PER_PAGE", 5)
    pages = make_page(limit=11)
    assert [page.name for page in pages] == ["review.html", "review_2.html", "review_3.html"]
    parts = [data_of(page) for page in pages]
    assert [len(part["images"]) for part in parts] == [5, 5, 1]
    assert len({part["key"] for part in parts}) == 3
    assert parts[1]["csv"] == "annotations_corrected_2.csv"
    text = pages[0].read_text(encoding="utf-8")
    assert '<a href="review_3.html">' in text
    assert "1 image(s) that need a human less are on no page" in text


def test_a_file_that_has_gone_is_black(make_page, tmp_path):
    make_page()
    file = tmp_path / "in" / "00001.png"

    def brightest() -> int:
        thumbnail, _ = review_page._pictures(str(file), {"size": (8, 8), "channels": 1}, 320)
        encoded = np.frombuffer(base64.b64decode(thumbnail.rpartition(",")[2]), np.uint8)
        return int(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE).max())

    assert brightest() > 50
    file.unlink()
    assert brightest() < 5


# --- in a browser


@pytest.fixture
def browser():
    if not CHROMIUM.is_file():
        pytest.skip(f"there is no {CHROMIUM}")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def visit(browser):
    """Open a page; whatever the browser complains about fails the test."""
    complaints = []

    def open_page(path, **options):
        page = browser.new_page(**options)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        return page

    yield open_page
    assert complaints == []


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


@pytest.mark.browser
@pytest.mark.slow
def test_three_labels_are_corrected_by_keyboard_and_the_csv_trains(make_page, visit, tmp_path):
    (path,) = make_page(36)
    before = data_of(path)["images"]
    page = visit(path)
    assert page.title() == "Review of scans </title><script>"
    assert page.locator("#count").inner_text() == "0 of 36 reviewed"
    wrong = [str((image["l"] + 1) % 3 + 1) for image in before]
    press(page, wrong[0], wrong[1], "Enter", "j", "x", wrong[5], "u", "ArrowLeft", "k", "j", wrong[4], "ArrowRight")
    # 0 and 1 corrected, 2 confirmed, 3 passed over, 4 first excluded and then corrected, 5 corrected and undone
    assert page.locator("#count").inner_text() == "4 of 36 reviewed, 3 corrected"
    press(page, "ArrowLeft", *["Enter"] * 31)
    assert page.locator("#count").inner_text() == "35 of 36 reviewed, 3 corrected"
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "annotations_corrected.csv"
    table = tmp_path / "elsewhere" / "annotations_corrected.csv"
    download.value.save_as(table)
    read = manifest(table)
    kept = [row for row in range(36) if row != 3]
    assert read.ids.tolist() == [before[row]["i"] for row in kept]
    corrected = {row: NAMES[int(wrong[row]) - 1] for row in (0, 1, 4)}
    expected = [corrected.get(row, NAMES[before[row]["l"]]) for row in kept]
    assert [read.class_names[label] for label in read.labels] == expected
    assert read.frame["review"].tolist() == ["corrected" if row in corrected else "confirmed" for row in kept]
    settings = ["data.image_size=16", "trainer.max_epochs=1", "trainer.accelerator=cpu", "logger=none", "out=trained"]
    run = fit(compose("data=manifest", f"data.csv={table}", "data.channels=1", "data.batch_size=8", *settings))
    assert run.predictor().class_names == read.class_names


@pytest.mark.browser
def test_decisions_outlive_the_page(make_page, browser):
    (path,) = make_page()
    context = browser.new_context()
    page = context.new_page()
    page.goto(path.as_uri())
    press(page, "2", "Enter")
    page.close()
    again = context.new_page()
    again.goto(path.as_uri())
    assert again.locator("#count").inner_text().startswith("2 of 12 reviewed")
    assert "3 of 12" in again.locator("#position").inner_text()


@pytest.mark.browser
def test_map_invert_help_filter_and_clicks(make_page, visit):
    png = cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes()
    (path,) = make_page(draw_maps=lambda images, classes: [png, *[None] * (len(images) - 1)])
    page = visit(path)
    press(page, "g")
    assert page.locator("#picture").get_attribute("src").startswith("data:image/png")
    press(page, "g", "i")
    assert page.locator("#picture").get_attribute("class") == "inverted"
    press(page, "?")
    assert page.locator("#help").is_visible()
    press(page, "1", "Escape")
    assert page.locator("#count").inner_text() == "0 of 12 reviewed"
    page.locator("#classes button").nth(2).click()
    press(page, "Enter")  # confirms the second image, though a button was clicked before
    assert page.locator("#count").inner_text().startswith("2 of 12 reviewed")
    page.locator("#grid button").nth(7).click()
    assert "8 of 12" in page.locator("#position").inner_text()
    page.select_option("#filter", "rejected")
    assert page.locator("#grid button").count() == 3
    press(page, "u", "u")
    assert page.locator("#count").inner_text() == "0 of 12 reviewed"


@pytest.mark.browser
@pytest.mark.slow
def test_two_thousand_images_do_not_lag(make_page, visit):
    (path,) = make_page(2000)
    page = visit(path)
    loaded = page.evaluate("performance.timing.domContentLoadedEventEnd - performance.timing.navigationStart")
    assert loaded < 5000
    assert page.locator("#grid button").count() == 2000
    assert page.locator("#grid img[src]").count() < 300
    took = page.evaluate(
        """async () => {
          const begin = performance.now();
          for (let turn = 0; turn < 50; turn++) {
            document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
            await new Promise(requestAnimationFrame);
          }
          return (performance.now() - begin) / 50;
        }"""
    )
    assert page.locator("#count").inner_text().startswith("50 of 2000")
    assert took < 100  # ms a decision, drawing included


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_sideways_scrolling(make_page, visit, scheme):
    page = visit(make_page()[0], viewport={"width": 390, "height": 844}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    box = page.locator("#confirm").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390

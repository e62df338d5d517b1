from pathlib import Path

import pytest

from medvision.reports.report import report

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
HOSTILE = (
    "<script>document.title='taken'</script>",
    "'\"><img src=x onerror=document.title='taken'>",
    "x" * 120,
    "日本",
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def open_report(browser, make_report_case, tmp_path):
    """Open a report: `open_report(width=390, k=4)` gives the page and what its console and network said."""
    contexts = []

    def opened(width=390, scheme="light", **changes):
        file = tmp_path / "report.html"
        file.write_text(report(**make_report_case(**changes)), encoding="utf-8")
        contexts.append(browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme))
        page, said = contexts[-1].new_page(), []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        page.goto(file.as_uri())
        return page, said

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize(("k", "width", "scheme"), [(4, 390, "light"), (15, 390, "dark"), (10, 1280, "light")])
def test_nothing_goes_wrong_and_nothing_scrolls_sideways(open_report, k, width, scheme):
    page, said = open_report(width=width, scheme=scheme, n=40 * k, k=k)
    assert said == []
    for closed in page.query_selector_all("details:not([open]) > summary"):
        closed.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.evaluate(
        "[...document.querySelectorAll('img, svg')].map(x => x.getBoundingClientRect()).map(x => [x.width, x.height])"
    )
    assert len(sizes) > 10
    assert all(min(size) > 20 for size in sizes)
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_names_of_strangers_do_nothing_and_do_not_widen_the_page(open_report):
    page, said = open_report(class_names=HOSTILE, title=HOSTILE[0], command=HOSTILE[2])
    assert said == []
    assert page.title().startswith("<script>")
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_keyboard_reaches_links_details_and_tables(open_report):
    page, _ = open_report(width=1280)
    wanted = page.evaluate("document.querySelectorAll('a[href], summary, [tabindex=\"0\"]').length")
    focused = []
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        focused.append(
            page.evaluate(
                "(e => e === document.body ? null : [e.tagName, e.getAttribute('href'), "
                "getComputedStyle(e).outlineStyle])(document.activeElement)"
            )
        )
    assert focused[0][:2] == ["A", "#main"]
    reached = [one for one in focused if one is not None]
    assert {"A", "SUMMARY", "DIV"} <= {tag for tag, _, _ in reached}
    assert all(outline != "none" for _, _, outline in reached)
    page.locator("summary", has_text="Configuration").focus()
    page.keyboard.press("Enter")
    assert page.locator("details[open] > summary", has_text="Configuration").count() == 1


def test_text_stands_out_from_its_background_in_both_themes(open_report):
    """WCAG's contrast of 4.5 for text, for the colours that the style defines."""
    for scheme in ("light", "dark"):
        page, _ = open_report(scheme=scheme)
        ratios = page.evaluate(
            """() => {
            const probe = document.body.appendChild(document.createElement('i'));
            const light = name => {
                probe.style.color = `var(--${name})`;
                const parts = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255);
                const [r, g, b] = parts.map(x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
                return .2126 * r + .7152 * g + .0722 * b;
            };
            const ratio = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
            return [['text', 'card'], ['text', 'back'], ['dim', 'card'], ['dim', 'back'], ['dim', 'note-back'],
                    ['link', 'card'], ['link', 'back'], ['link', 'note-back'], ['bad', 'bad-back'], ['bad', 'back'],
                    ['bad', 'card']].map(([a, b]) => [a, b, ratio(light(a), light(b))]);
            }"""
        )
        assert [pair for pair in ratios if pair[2] < 4.5] == []
        assert len(ratios) == 11


def test_print_fits_the_paper_and_opens_what_is_folded(open_report):
    page, _ = open_report(n=400, k=10)
    page.set_viewport_size({"width": 680, "height": 1000})  # A4 less the margins of 15 mm, at 96 pixels per inch
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 680
    tables = page.evaluate("[...document.querySelectorAll('table')].map(x => x.getBoundingClientRect().right)")
    assert max(tables) <= 680
    assert not page.locator("nav").is_visible()

"""report.html in a real browser: on a screen, a phone and paper, light and dark."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from hepflow.system.files import read_json
from tests.support.browser import CHROMIUM, Page, browser
from tests.support.toy_runs import toy_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium (Debian: apt install chromium)"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_report(tmp_path_factory.getbasetemp()) / "report" / "report.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def test_it_opens_without_errors_and_without_network(page: Page, report: Path) -> None:
    page.open(report)
    assert page.run("document.readyState") == "complete"
    assert page.errors == []
    assert "ttbar and wjets" in page.run("document.querySelector('h1').textContent")


def test_every_figure_is_drawn_and_has_its_files(page: Page, report: Path) -> None:
    page.open(report)
    page.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    names = read_json(report.parent / "metrics.json")["figures"]
    for name in names:
        drawn = f"document.getElementById('fig-{name}')"
        assert page.run(f"{drawn} !== null"), name
        shape = f"({drawn}.querySelector('svg:not([hidden])') || {drawn}.querySelector('table'))"
        assert page.run(f"{shape}.getBoundingClientRect().width") > 200, name
    assert len(names) == page.run("document.querySelectorAll('figure').length")
    shapes = "[...document.querySelectorAll('svg path, svg circle, svg line')]"
    assert page.run(f"{shapes}.filter(n => /NaN|Infinity|undefined/.test(n.outerHTML)).length") == 0


def test_every_link_resolves(page: Page, report: Path) -> None:
    page.open(report)
    links = page.run("[...document.querySelectorAll('a[href]')].map(a => a.getAttribute('href'))")
    assert len(links) > 50
    for link in set(links):
        if link.startswith("#"):
            assert page.run(f"document.getElementById({link[1:]!r}) !== null"), link
        elif not link.startswith("https://"):
            assert (report.parent / link).is_file(), link


def test_a_click_on_a_heading_sorts_by_value_and_another_the_other_way(
    page: Page, report: Path
) -> None:
    page.open(report)
    rows = "[...document.querySelectorAll('#table-wp-headline tbody tr')]"
    column = f"{rows}.map(r => Number(r.cells[5].dataset.v))"
    head = "document.querySelectorAll('#table-wp-headline thead button')[5]"
    before = page.run(column)
    page.run(f"{head}.click()")
    falling = page.run(column)
    page.run(f"{head}.click()")
    rising = page.run(column)
    assert falling == sorted(before, reverse=True)
    assert rising == sorted(before)
    assert page.run(f"{head}.parentElement.getAttribute('aria-sort')") == "ascending"


def test_every_table_sorts_by_every_column_without_losing_a_row(page: Page, report: Path) -> None:
    page.open(report)
    tables = "[...document.querySelectorAll('table.sortable')]"
    counts = f"{tables}.map(t => [...t.tBodies[0].rows].map(r => r.textContent).sort().join())"
    before = page.run(counts)
    page.run("document.querySelectorAll('table.sortable thead button').forEach(b => b.click())")
    assert page.run(counts) == before
    assert page.errors == []


def place(page: Page, figure: str) -> dict[str, float]:
    middle = "{block: 'center', behavior: 'instant'}"
    page.run(f"document.getElementById({figure!r}).scrollIntoView({middle})")
    frame = f"document.querySelector('#{figure} svg:not([hidden]) .frame')"
    return page.run(
        f"(() => {{ const r = {frame}.getBoundingClientRect();"
        " return {x: r.x, y: r.y, w: r.width, h: r.height} })()"
    )


def test_hovering_shows_the_values_of_every_model(page: Page, report: Path) -> None:
    page.open(report)
    box = place(page, "fig-roc_qcd_vs_rest")
    page.mouse("mouseMoved", box["x"] + 0.6 * box["w"], box["y"] + 0.5 * box["h"])
    tip = page.run("document.querySelector('#fig-roc_qcd_vs_rest .tip').innerText")
    assert "signal efficiency (qcd) 0.6" in tip
    assert all(f"{name}: " in tip for name in ("hlf", "sequence", "inclusive"))


def test_dragging_zooms_and_a_double_click_resets(page: Page, report: Path) -> None:
    page.open(report)
    box = place(page, "fig-roc_ttbar_vs_rest")
    shown = "#fig-roc_ttbar_vs_rest svg:not([hidden])"
    curves = f"document.querySelector('{shown} .curves').getAttribute('transform')"
    ticks = f"[...document.querySelectorAll('{shown} .ticks text')].map(t => t.textContent)"
    before = page.run(ticks)
    x, y = box["x"] + 0.5 * box["w"], box["y"] + 0.3 * box["h"]
    page.mouse("mousePressed", x, y, button="left", clickCount=1)
    page.mouse("mouseMoved", x + 0.4 * box["w"], y + 0.4 * box["h"], button="left")
    page.mouse("mouseReleased", x + 0.4 * box["w"], y + 0.4 * box["h"], button="left", clickCount=1)
    scale = float(page.run(curves).removeprefix("matrix(").split()[0])
    assert scale == pytest.approx(2.5, rel=0.02)
    zoomed = page.run(ticks)
    assert zoomed != before
    numbers = [float(text) for text in zoomed if text.replace(".", "", 1).isdigit()]
    assert any(0.5 <= number <= 0.9 for number in numbers)
    for count in (1, 2):
        page.mouse("mousePressed", x, y, button="left", clickCount=count)
        page.mouse("mouseReleased", x, y, button="left", clickCount=count)
    assert page.run(ticks) == before
    assert float(page.run(curves).removeprefix("matrix(").split()[0]) == 1


def test_the_background_axis_turns_linear_and_back(page: Page, report: Path) -> None:
    page.open(report)
    shown = "document.querySelector('#fig-roc_headline svg.chart:not([hidden])').dataset.view"
    button = "[...document.querySelectorAll('#fig-roc_headline .tools button')].at(-1)"
    assert page.run(shown) == "log"
    page.run(f"{button}.click()")
    assert page.run(shown) == "linear"
    page.run(f"{button}.click()")
    assert page.run(shown) == "log"


def test_keys_move_the_cursor(page: Page, report: Path) -> None:
    page.open(report)
    chart = "document.querySelector('#fig-calibration svg')"
    key = "new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true})"
    page.run(f"{chart}.focus(); {chart}.dispatchEvent({key})")
    assert not page.run("document.querySelector('#fig-calibration .tip').hidden")


@pytest.mark.parametrize("width", [320, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_never_scrolls_sideways(page: Page, report: Path, width: int, dark: bool) -> None:
    page.open(report, width=width, height=844, dark=dark, touch=True)
    page.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.errors == []


@pytest.mark.parametrize("width", [390, 1000])
def test_a_table_wider_than_the_page_is_marked_until_its_end_is_visible(
    page: Page, report: Path, width: int
) -> None:
    page.open(report, width=width)
    page.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    page.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    hidden = (
        "[...document.querySelectorAll('.scroll')].filter(s => s.scrollWidth > s.clientWidth + 1)"
    )
    assert page.run(
        f"{hidden}.every(s => s.parentElement.classList.contains('more') && s.tabIndex === 0)"
    )
    assert (page.run(f"{hidden}.length") > 5) == (width == 390)
    assert page.run(f"document.querySelectorAll('.wide.more').length === {hidden}.length")
    page.run(f"{hidden}.forEach(s => {{ s.scrollLeft = s.scrollWidth }})")
    page.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.run("document.querySelectorAll('.wide.more').length") == 0


def test_the_table_of_contents_stays_visible(page: Page, report: Path) -> None:
    page.open(report)
    top = "{block: 'start', behavior: 'instant'}"
    page.run(f"document.getElementById('provenance').scrollIntoView({top})")
    assert page.run("document.querySelector('nav').getBoundingClientRect().top") == 0
    assert page.run("document.querySelector('#provenance').getBoundingClientRect().top") > 0


def contrast(page: Page, selector: str) -> float:
    """Return the contrast of a text with its background, after WCAG."""
    return page.run(
        f"""(() => {{
        const options = {{willReadFrequently: true}};
        const canvas = document.createElement('canvas').getContext('2d', options);
        const light = (colour) => {{
          canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
          const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(v => linear(v / 255));
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        }};
        const node = document.querySelector({selector!r});
        const paper = (n) => getComputedStyle(n).backgroundColor;
        let under = node;
        while (['rgba(0, 0, 0, 0)', 'transparent'].includes(paper(under))) {{
          under = under.parentElement;
        }}
        const [a, b] = [light(getComputedStyle(node).color), light(paper(under))];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    }})()"""
    )


@pytest.mark.parametrize("dark", [False, True])
def test_texts_have_enough_contrast(page: Page, report: Path, dark: bool) -> None:
    page.open(report, dark=dark)
    for selector in (
        "h1",
        ".lead",
        "section p",
        "figcaption",
        "nav a",
        "td.n",
        ".matrix td",
        ".matrix td.deep",
        ".note",
        "tr.best td",
    ):
        assert contrast(page, selector) >= 4.5, selector


def test_the_button_turns_light_to_dark_and_back(page: Page, report: Path) -> None:
    page.open(report)
    paper = "getComputedStyle(document.body).backgroundColor"
    before = page.run(paper)
    page.run("document.getElementById('theme').click()")
    dark = page.run(paper)
    page.run("document.getElementById('theme').click()")
    assert page.run(paper) == before != dark


def test_the_printed_report_is_complete(page: Page, report: Path, tmp_path: Path) -> None:
    page.open(report, dark=True, width=688)  # A4 between its margins
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run("document.querySelectorAll('details:not([open])').length") == 0
    page.send("Emulation.setEmulatedMedia", media="print")
    assert page.run("document.documentElement.scrollWidth") <= 688
    page.send("Emulation.setEmulatedMedia", media="")
    assert page.run("document.documentElement.dataset.theme") == "light"
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.run("document.querySelectorAll('details:not([open])').length") > 0
    page.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert page.errors == []


def test_a_page_with_a_stranger_s_markup_runs_and_loads_none_of_it(
    page: Page, report: Path, tmp_path: Path
) -> None:
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

    # with threads: Chromium opens connections ahead, and a single one would wait for their requests
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        there = f"http://127.0.0.1:{server.server_port}"
        evil = (
            f"<script>window.ran = 1; fetch('{there}/a')</script><script src='{there}/b'></script>"
            f"<img src='{there}/c' onerror='window.ran = 2'><iframe src='{there}/d'></iframe>"
            f"<p id='evil' style='color: rgb(1, 2, 3); background: url({there}/e)'>evil</p>"
            f"<style>#evil {{ background: url({there}/f) }}</style>"
            f"<link rel='stylesheet' href='{there}/g'><object data='{there}/h'></object>"
        )
        text = report.read_text().replace("<main>", f"<main>{evil}", 1)
        (tmp_path / "report.html").write_text(text)
        page.open(tmp_path / "report.html")
        server.shutdown()
    assert page.run("document.getElementById('evil').textContent") == "evil"
    assert page.run("window.ran === undefined")
    colour = "getComputedStyle(document.getElementById('evil')).color"
    assert page.run(colour) != "rgb(1, 2, 3)"
    refused, page.errors = page.errors, []
    assert len([error for error in refused if "Content Security Policy" in error]) >= 7
    assert asked == []

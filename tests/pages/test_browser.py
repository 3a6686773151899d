"""The page in a real browser: nothing fails, nothing is fetched, every plot is drawn, and a phone can show it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.support.pages import Written

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
SIZES = {"desktop": (1280, 900), "phone": (375, 720)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium here; on Debian: apt install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=[(size, scheme) for size in SIZES for scheme in ("light", "dark")], ids="-".join)
def opened(request: pytest.FixtureRequest, browser: Browser, written: Written) -> Iterator[tuple[Page, list[str]]]:
    """The page as opened, and everything that went wrong or was asked for."""
    size, scheme = request.param
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    log: list[str] = []
    page.on("console", lambda message: log.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: log.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (log.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on(
        "request", lambda request: None if request.url.startswith("data:") else log.append(f"request: {request.url}")
    )
    page.goto(written.result.page.as_uri())
    yield page, log
    page.close()


def test_nothing_fails_and_nothing_is_fetched(opened: tuple[Page, list[str]], written: Written) -> None:
    _, log = opened
    assert log == [f"request: {written.result.page.as_uri()}"]


def test_every_plot_is_drawn(opened: tuple[Page, list[str]], written: Written) -> None:
    page, _ = opened
    found = page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll('figure')].map(figure => {
            const svg = figure.querySelector('svg'), box = svg.getBoundingClientRect();
            const marks = [...svg.querySelectorAll('.nf-mark')];
            const drawn = marks.filter(mark => {
                const inside = mark.getBoundingClientRect();
                return inside.width > 0 && inside.height > 0 && inside.left >= box.left - 1 &&
                    inside.right <= box.right + 1 && inside.top >= box.top - 1 && inside.bottom <= box.bottom + 1;
            });
            return [figure.id, [box.width, box.height, marks.length, drawn.length]];
        }))"""
    )
    rows = [row for speed in written.result.speeds for row in speed.batches]
    marks = {
        "figure-top1": 2,
        "figure-difference": 1,
        "figure-noise-0": 15,
        "figure-gain-0": 15,
        "figure-latency": 2,
        "figure-throughput": 4,
        "figure-ratio": 2,
    }
    if shares := sum(row.peak_share is not None for row in rows):
        marks["figure-peak"] = shares
    assert {name: (row[2], row[3]) for name, row in found.items()} == {name: (n, n) for name, n in marks.items()}
    assert all(row[0] > 200 and row[1] > 80 for row in found.values())


def test_texts_of_plots_do_not_collide(opened: tuple[Page, list[str]]) -> None:
    page, _ = opened
    collisions = page.evaluate(
        """() => [...document.querySelectorAll('figure svg')].flatMap(svg => {
            const texts = [...svg.querySelectorAll('text')]
                .map(text => [text.textContent, text.getBoundingClientRect()]);
            return texts.flatMap(([a, one], place) => texts.slice(place + 1).filter(([b, two]) =>
                Math.min(one.right, two.right) - Math.max(one.left, two.left) > 1 &&
                Math.min(one.bottom, two.bottom) - Math.max(one.top, two.top) > 3).map(([b]) => `${a} | ${b}`));
        })"""
    )
    assert collisions == []


def test_images_are_shown(opened: tuple[Page, list[str]]) -> None:
    page, _ = opened
    widths = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth)")
    assert widths
    assert set(widths) == {56}


def test_no_sideways_scrolling_and_readable(opened: tuple[Page, list[str]]) -> None:
    page, _ = opened
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    width, inner = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= inner
    smallest = page.evaluate(
        """() => Math.min(...[...document.querySelectorAll('figure svg text')].map(text =>
            parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a))"""
    )
    assert smallest >= 8.5


def test_anchors_work(opened: tuple[Page, list[str]]) -> None:
    page, _ = opened
    page.emulate_media(reduced_motion="reduce")
    for place in range(page.locator("nav a").count()):
        page.evaluate("window.scrollTo(0, 0)")
        link = page.locator("nav a").nth(place)
        target = link.get_attribute("href")
        link.click()
        assert page.evaluate("location.hash") == target
        top, bottom, height = page.evaluate(
            f"(() => {{ const box = document.querySelector('{target}').getBoundingClientRect();"
            "return [box.top, box.bottom, window.innerHeight]; })()"
        )
        assert top < height
        assert bottom > 0


def test_light_and_dark(opened: tuple[Page, list[str]]) -> None:
    page, _ = opened
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    for selector, prop in (("body", "backgroundColor"), ("figure svg .nf-paper", "fill")):
        colour = page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{prop}")
        brightness = sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) / 3
        assert (brightness < 60) == dark

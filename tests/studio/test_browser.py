"""The Studio in Chromium: runs in 2D and 3D that are started, watched and compared by clicks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Studio

pytest.importorskip("playwright")
pytest.importorskip("viser")

from playwright.sync_api import Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium"),
]
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--use-gl=swiftshader", "--ignore-gpu-blocklist")
MINUTES = 60_000  #: milliseconds


@pytest.fixture
def page(studio_process: Studio) -> Iterator[Page]:
    """The page of the Studio; what goes wrong in the browser fails the test."""
    errors: list[Any] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(studio_process.address)
        yield page
        browser.close()
    assert errors == []


def choose(page: Page, label: str, name: str) -> None:
    field = page.get_by_label(label, exact=True).first
    field.click()
    field.fill(name)
    page.get_by_role("option", name=name, exact=True).click()


def start(page: Page, prompt: str, steps: int) -> None:
    page.get_by_label("Prompts, one per line").fill(prompt)
    page.get_by_label("steps", exact=True).first.fill(str(steps))
    expect(page.locator("code").first).to_contain_text(f"--steps {steps}")
    page.get_by_role("button", name="Start").click()


def test_an_image_run_is_stopped_continued_and_downloaded(page: Page) -> None:
    choose(page, "method", "vsd")
    start(page, "a striped red mug", 60)
    expect(page.get_by_text("running", exact=True)).to_be_visible(timeout=2 * MINUTES)
    expect(page.locator("canvas").first).to_be_visible(timeout=2 * MINUTES)  # a curve
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("stopped", exact=True)).to_be_visible(timeout=2 * MINUTES)
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("finished", exact=True)).to_be_visible(timeout=5 * MINUTES)
    expect(page.get_by_text("step 60 of 60")).to_be_visible()
    width = page.locator(".q-page .q-img img").first.evaluate("image => image.naturalWidth")
    assert width >= 64
    with page.expect_download() as download:
        page.get_by_role("button", name="Images").click()
    assert download.value.path().read_bytes()[:4] == b"\x89PNG"
    page.get_by_role("tab", name="Report").click()
    report = page.frame_locator("iframe[sandbox]").first
    expect(report.get_by_role("heading", name="striped red mug")).to_be_visible()


def test_an_asset_is_seen_in_3d_exported_and_compared(page: Page) -> None:
    choose(page, "preset", "dreamfusion")
    start(page, "a yellow duck", 20)
    expect(page.locator("iframe[src*='127.0.0.1']")).to_be_visible(timeout=4 * MINUTES)
    viewer = page.frame_locator("iframe[src*='127.0.0.1']")
    expect(viewer.locator("canvas").first).to_be_visible(timeout=2 * MINUTES)
    expect(viewer.get_by_text("a yellow duck").first).to_be_visible()
    expect(page.get_by_text("finished", exact=True)).to_be_visible(timeout=8 * MINUTES)
    with page.expect_download(timeout=4 * MINUTES) as download:
        page.get_by_role("button", name="Export").click()
    assert download.value.path().read_bytes()[:4] == b"glTF"
    page.get_by_role("tab", name="Runs").click()
    boxes = page.get_by_role("checkbox")
    expect(boxes).to_have_count(2)  # the other test has made the other
    for i in range(2):
        boxes.nth(i).click()
    page.get_by_role("button", name="Compare 2 runs").click()
    comparison = page.frame_locator("iframe[sandbox]")
    expect(comparison.get_by_text("Comparison of 2 runs")).to_be_visible(timeout=MINUTES)

"""The viewer in Chromium, against the real command."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.label_page.browser import Command, browser, needs_browser, watched
from tests.viewer.results import TISSUES, make_results, make_slide

from patch2tissue.viewer.server import STATIC

pytestmark = [
    needs_browser,
    pytest.mark.skipif(
        not (STATIC / "openseadragon" / "openseadragon.min.js").is_file(),
        reason="no OpenSeadragon (sh scripts/vendor_openseadragon.sh)",
    ),
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    folder = tmp_path_factory.mktemp("view")
    slide = make_slide(folder / "slides")
    make_slide(folder / "slides", "b")
    make_results(folder / "one", slide)
    make_results(folder / "two", slide, seed=1)
    server = Command("view", folder / "slides", "--maps", folder / "one", "--maps", folder / "two", "--no-browser")
    yield server
    server.kill()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A page on which failed requests fail the test, too."""
    failed: list[str] = []
    with watched(chromium) as context:
        context.on("response", lambda got: failed.append(f"{got.status} {got.url}") if got.status >= 400 else None)
        yield context.new_page()
    assert not failed


def opened(page: Any, address: str) -> Any:
    page.goto(address)
    page.wait_for_selector("#tissues input")
    page.wait_for_selector(".pane canvas")
    settled(page)
    return page


def settled(page: Any) -> np.ndarray:
    """The panes once they do not change any more."""
    before = None
    for _ in range(60):
        page.wait_for_timeout(250)
        now = np.asarray(Image.open(io.BytesIO(page.locator("#panes").screenshot())).convert("RGB")).astype(int)
        if before is not None and before.shape == now.shape and not np.abs(now - before).any():
            return now
        before = now
    raise AssertionError("the picture does not come to rest")


def colour_share(image: np.ndarray, colour: tuple[int, int, int]) -> float:
    return float((np.abs(image - np.array(colour)).max(axis=2) < 12).mean())


def test_layers_by_keyboard(page: Any, server: Command) -> None:
    opened(page, f"{server.address}#opacity=100")
    image = settled(page)
    shares = [colour_share(image, colour) for colour in TISSUES.colors]
    assert min(shares) > 0.02 and sum(shares) > 0.4
    page.keyboard.press("2")
    without = settled(page)
    assert colour_share(without, TISSUES.colors[1]) < 0.002
    assert colour_share(without, TISSUES.colors[0]) == pytest.approx(shares[0], abs=0.01)
    assert not page.is_checked("#tissues label:nth-child(2) input")
    page.keyboard.press("m")
    off = settled(page)
    assert all(colour_share(off, colour) < 0.01 for colour in TISSUES.colors)
    page.keyboard.press("m")
    page.keyboard.press("2")
    assert colour_share(settled(page), TISSUES.colors[1]) == pytest.approx(shares[1], abs=0.01)
    page.evaluate(
        "() => { const o = document.querySelector('#opacity'); o.value = 0; o.dispatchEvent(new Event('input')); }"
    )
    assert np.abs(settled(page) - off).mean() < 2


def test_legend_has_the_areas(page: Any, server: Command) -> None:
    opened(page, server.address)
    text = page.inner_text("#tissues")
    assert all(name in text for name in TISSUES.names) and text.count("mm²") == 4
    assert "mm² of tissue" in page.inner_text("#total")


def test_scale_bar_measures_what_it_says(page: Any, server: Command) -> None:
    opened(page, f"{server.address}#slide=a&x=400&y=300&zoom=2")
    settled(page)
    um = float(page.get_attribute(".scale", "data-um"))
    pixels = page.locator(".scale i").bounding_box()["width"]
    assert page.inner_text(".scale") == f"{um:g} µm"
    # 0.5 µm per pixel of the slide, two pixels of the screen each
    assert pixels * 0.25 == pytest.approx(um, rel=0.02)


def test_a_link_leads_to_the_same_view(page: Any, server: Command) -> None:
    opened(page, f"{server.address}#slide=a&x=200&y=150&zoom=1.5")
    page.keyboard.press("3")
    page.keyboard.press("+")
    image = settled(page)
    link = page.url
    assert "hidden=lymphocytic" in link and "slide=a" in link
    page.goto("about:blank")
    opened(page, link)
    assert np.abs(settled(page) - image).mean() < 2
    assert not page.is_checked("#tissues label:nth-child(3) input")


def test_two_maps_side_by_side_move_together(page: Any, server: Command) -> None:
    opened(page, f"{server.address}#slide=a&x=300&y=300&zoom=1&opacity=0")
    page.keyboard.press("s")
    assert page.locator(".pane").count() == 2
    assert page.locator(".from").all_inner_texts() == ["one", "two"]
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    image = settled(page)
    half = image.shape[1] // 2
    left, right = image[60:-90, 10 : half - 10], image[60:-90, half + 10 :][:, : half - 20]
    # without the maps both show the same place; panes may begin at another fraction of a pixel
    assert min(np.abs(left[:, 4 + k : -8 + k] - right[:, 4:-8]).mean() for k in range(-3, 5)) < 8
    page.keyboard.press("s")
    settled(page)
    assert page.locator(".pane").count() == 1


def test_a_slide_without_a_map(page: Any, server: Command) -> None:
    opened(page, server.address)
    page.select_option("#scene", label="b")
    page.wait_for_selector("#without:visible")
    settled(page)
    assert not page.is_visible("#layer") and "slide=b" in page.url

"""The viewer in Chromium, against the real command."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image
from tests.label_page.browser import TABLET, Command, Server, browser, nameless, needs_browser, too_wide, watched
from tests.viewer.results import TISSUES, make_results, make_slide

from patch2tissue.labelling.store import DATABASE, LabelStore
from patch2tissue.viewer.layers import heat_colours
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
    make_results(folder / "one", slide, probabilities=True)
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
    page.wait_for_selector("#tissues input", state="attached")
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
    page.wait_for_selector("#total:has-text('of tissue')")
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
    assert page.locator(".from").all_inner_texts() == ["one: tissue map", "two: tissue map"]
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


def test_probability_as_heat(page: Any, server: Command) -> None:
    opened(page, f"{server.address}#opacity=100&slide=a")
    page.keyboard.press("h")
    assert page.input_value("#heat") == "tumour" and page.is_visible("#heat-legend") and not page.is_visible("#tissues")
    first = settled(page)
    colours = heat_colours()
    # where it is likely the picture is as light as the end of the scale, elsewhere dark
    assert colour_share(first, tuple(colours[230].tolist())) > 0.01
    page.select_option("#heat", label="probability of necrosis")
    second = settled(page)
    assert np.abs(first - second).mean() > 5 and "heat=necrosis" in page.url
    link = page.url
    page.goto("about:blank")
    opened(page, link.replace("#", "#again=1&"))
    assert np.abs(settled(page) - second).mean() < 2
    page.keyboard.press("h")
    assert page.input_value("#heat") == "" and page.is_visible("#tissues")
    # the other map has no probabilities
    page.select_option("#which", label="two: tissue map")
    settled(page)
    assert not page.is_visible("#heat-label")


# --- runs and their patches -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_runs(trained_runs: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """Both runs, on a copy of the data that may be labelled."""
    data, *runs = trained_runs
    folder = tmp_path_factory.mktemp("viewed")
    shutil.copytree(data, folder / "data")
    for run in runs:
        shutil.copytree(run, folder / run.name)
        for file in (folder / run.name / "config.yaml", folder / run.name / "pseudo_labels" / "manifest.csv"):
            file.write_text(file.read_text(encoding="utf-8").replace(str(data), str(folder / "data")), encoding="utf-8")
    server = Command("view", folder / "one", folder / "two", "--no-browser")
    server.folder = folder / "data"
    yield server
    server.kill()


def test_two_runs_side_by_side(page: Any, of_runs: Command) -> None:
    opened(page, f"{of_runs.address}#opacity=100")
    page.wait_for_selector("#total:has-text('µm² of tissue')")
    assert [page.locator("#scene optgroup").nth(k).get_attribute("label") for k in (0, 1)] == [
        "training patches",
        "test patches",
    ]
    page.keyboard.press("s")
    page.wait_for_selector(".from:has-text('two: network')")
    assert page.locator(".from").all_inner_texts() == ["one: network", "two: network"]
    image = settled(page)
    assert sum(colour_share(image, colour) for colour in TISSUES.colors) > 0.3
    # the next patch, the same layers
    before = page.url
    page.keyboard.press("n")
    page.wait_for_selector("#total:has-text('µm² of tissue')")
    settled(page)
    assert page.locator(".from").all_inner_texts() == ["one: network", "two: network"]
    assert page.url.split("&")[0] != before.split("&")[0] and "beside=two%2Fnetwork" in page.url


def test_attention_epoch_by_epoch(page: Any, of_runs: Command) -> None:
    name = next(path.stem for path in sorted((of_runs.folder / "train").iterdir()) if path.stem.endswith("[0110]"))
    asked = {"slide": name, "opacity": 100, "layer": "two/epoch_attention", "heat": "stroma"}
    opened(page, f"{of_runs.address}#{urlencode(asked)}")
    assert page.inner_text("#epoch-told") == "4 of 4" and "attention of stroma" in page.inner_text("#heat-what")
    pictures = [settled(page)]
    for told in ("3 of 4", "2 of 4", "1 of 4"):
        page.keyboard.press(",")
        assert page.inner_text("#epoch-told") == told
        pictures.append(settled(page))
    assert all(np.abs(one - other).mean() > 0.05 for one, other in pairwise(pictures))
    assert "epoch=1" in page.url
    # the slider by keyboard, and all of them in turn
    page.focus("#epoch")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#epoch-told") == "2 of 4"
    page.click("#play")
    page.wait_for_selector("#epoch-told:has-text('4 of 4')")
    page.wait_for_selector("#play[aria-pressed='false']")
    assert np.abs(settled(page) - pictures[0]).mean() < 2
    # accumulated: nothing before it starts
    page.select_option("#which", label="two: attention, accumulated")
    page.select_option("#heat", "")
    for told, colours in (("1 of 4", False), ("3 of 4", True)):
        page.evaluate(
            "n => { const e = document.querySelector('#epoch'); e.value = n; e.dispatchEvent(new Event('input')); }",
            int(told[0]),
        )
        image = settled(page)
        assert (sum(colour_share(image, colour) for colour in TISSUES.colors) > 0.2) == colours


def test_all_patches_are_found_by_name(page: Any, of_runs: Command) -> None:
    opened(page, of_runs.address)
    page.keyboard.press("g")
    assert page.locator("#pictures button").count() == 16 and page.inner_text("#found") == "16 of 16"
    page.wait_for_selector("#pictures img >> nth=0")
    page.keyboard.type("xmin45751")
    page.wait_for_selector("#found:has-text('1 of 16')")
    page.keyboard.press("Tab")
    page.select_option("#group", label="test patches")
    assert page.inner_text("#found") == "0 of 16"
    page.select_option("#group", "")
    page.locator("#pictures button").click()
    page.wait_for_selector("#gallery", state="hidden")
    settled(page)
    assert "xmin45751" in page.url and "xmin45751" in page.locator("#scene option:checked").inner_text()


def test_wrong_here_is_asked_first_on_the_labelling_page(page: Any, chromium: Any, of_runs: Command) -> None:
    opened(page, of_runs.address)
    page.keyboard.press("n")
    settled(page)
    name = page.locator("#scene option:checked").inner_text()
    page.keyboard.press("w")
    box = page.locator(".pane canvas").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.55, box["y"] + box["height"] * 0.4)
    page.wait_for_selector(".mark")
    assert "asked about first" in page.inner_text("#place")
    assert f"patch2tissue label {of_runs.folder}" in page.inner_text("#label-command")
    # the same by keyboard takes it back, as does its button
    page.keyboard.press("Enter")
    page.wait_for_selector(".mark", state="detached")
    page.keyboard.press("Enter")
    page.wait_for_selector(".mark")
    page.click("#marked button")
    page.wait_for_selector(".mark", state="detached")
    page.mouse.click(box["x"] + box["width"] * 0.55, box["y"] + box["height"] * 0.4)
    page.wait_for_selector(".mark")
    labelling = Server(of_runs.folder)
    try:
        with watched(chromium) as context:
            asked = context.new_page()
            asked.goto(f"{labelling.address}?annotator=Ada")
            asked.wait_for_selector("#stage img")
            assert asked.get_attribute("#stage img", "alt") == f"patch {name[:-6]}"
            assert "found a tissue map wrong" in asked.inner_text("#why") and asked.locator(".ring").count() == 1
            for key in ("1", "4", " "):
                asked.keyboard.press(key)
            asked.wait_for_selector("#saving:has-text('all saved')")
    finally:
        labelling.kill()
    # it is answered, so the mark is gone
    page.keyboard.press("p")
    settled(page)
    page.keyboard.press("n")
    settled(page)
    assert page.locator(".mark").count() == 0
    with LabelStore(of_runs.folder / DATABASE, TISSUES) as store:
        (mine,) = store.answers("Ada")
        assert mine.chosen == "flagged" and mine.labels == (1, 0, 0, 1) and name in mine.patch


def test_what_is_tested_on_cannot_be_marked(page: Any, of_runs: Command) -> None:
    opened(page, of_runs.address)
    page.select_option("#scene", index=15)
    settled(page)
    assert page.is_disabled("#wrong")
    page.keyboard.press("w")
    assert not page.is_visible(".cross")


def test_on_a_tablet_by_touch(chromium: Any, of_runs: Command) -> None:
    with watched(chromium, **TABLET) as context:
        page = opened(context.new_page(), of_runs.address)
        assert not too_wide(page)
        page.tap("#after")
        settled(page)
        page.tap("#wrong")
        box = page.locator(".pane canvas").first.bounding_box()
        assert box["height"] > 300
        page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_selector(".mark")
        page.tap("#marked button")
        page.wait_for_selector(".mark", state="detached")
        page.tap("#all")
        page.wait_for_selector("#pictures button")
        assert not too_wide(page)


def test_everything_has_a_name_and_is_reached_by_tab(page: Any, of_runs: Command) -> None:
    opened(page, of_runs.address)
    page.keyboard.press("s")
    settled(page)
    assert nameless(page) == []
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("() => document.activeElement.id"))
    assert {"scene", "after", "all", "beside", "wrong", "which", "other", "map", "opacity", "heat"} <= reached
    page.keyboard.press("g")
    page.wait_for_selector("#pictures button")
    assert nameless(page) == []
    page.keyboard.press("Escape")
    page.wait_for_selector("#gallery", state="hidden")

"""The labelling page in Chromium, against the real command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.label_page.browser import TABLET, Server, browser, nameless, needs_browser, too_wide, watched
from tests.labelling.folders import data_folder

from patch2tissue.labelling.store import DATABASE, Answer, LabelStore
from patch2tissue.tissues import load_tissue_set

pytestmark = needs_browser

TISSUES = load_tissue_set("bcss-wsss")
SAVED = "#saving:text-is('all saved')"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return data_folder(tmp_path / "data", 20)


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    yield server
    server.kill()


@pytest.fixture
def context(chromium: Any) -> Iterator[Any]:
    with watched(chromium) as context:
        yield context


def opened(context: Any, address: str, name: str = "Ada") -> Any:
    page = context.new_page()
    page.goto(f"{address}?annotator={name}")
    page.wait_for_selector("#stage figure img")
    return page


def shown(page: Any) -> str:
    return page.get_attribute("#stage figure", "data-index")


def answers(folder: Path, name: str | None = None) -> list[Answer]:
    with LabelStore(folder / DATABASE, TISSUES) as store:
        return store.answers(name)


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def test_name_is_asked_for_and_kept(context: Any, server: Server, folder: Path) -> None:
    page = context.new_page()
    page.goto(server.address)
    page.wait_for_selector("dialog[open]")
    page.fill("#name", "Ada Lovelace")
    press(page, "Enter")
    page.wait_for_selector("#stage figure img")
    press(page, "1", "Space")
    page.wait_for_selector(SAVED)
    page.reload()
    page.wait_for_selector("#stage figure img")
    assert page.inner_text("#who") == "Ada Lovelace" and not page.is_visible("dialog")
    assert [one.annotator for one in answers(folder)] == ["Ada Lovelace"]


def test_labelling_by_keyboard(context: Any, server: Server, folder: Path) -> None:
    page = opened(context, server.address)
    seen = []
    for keys in (["1", "3"], ["2", "2", "4"], ["q"], ["x"], ["1", "2", "3", "4"]):
        seen.append(int(shown(page)))
        press(page, *keys, *(["Space"] if keys[0].isdigit() else []))
    page.wait_for_selector(SAVED)
    found = answers(folder)
    assert [one.kind for one in found] == ["labelled", "labelled", "unsure", "discard", "labelled"]
    assert [one.labels for one in found] == [(1, 0, 1, 0), (0, 0, 0, 1), None, None, (1, 1, 1, 1)]
    assert [one.patch for one in found] == [f"train/p{index:02}.png" for index in seen]
    assert len(set(seen)) == 5 and all(one.seconds is not None and one.seconds < 60 for one in found)
    page.wait_for_selector("#count:text-is('5 of 20')")
    assert page.inner_text("#shares").split("\n")[1].split("\t") == ["tumour", "67%"]


def test_a_patch_without_a_tick_is_not_passed_over(context: Any, server: Server, folder: Path) -> None:
    page = opened(context, server.address)
    first = shown(page)
    press(page, "Space")
    assert shown(page) == first and "Tick at least one tissue" in page.inner_text("#hint")
    assert answers(folder) == []


def test_undo_by_key_also_after_a_reload(context: Any, server: Server, folder: Path) -> None:
    page = opened(context, server.address)
    first = shown(page)
    press(page, "1", "4", "Space")
    second = shown(page)
    press(page, "2", "Space")
    page.wait_for_selector(SAVED)
    press(page, "u")
    page.wait_for_selector(f"figure[data-index='{second}']")
    page.reload()
    page.wait_for_selector("#stage figure img")
    press(page, "u")
    page.wait_for_selector(f"figure[data-index='{first}']")
    pressed = [page.get_attribute(f"#tissues button:nth-child({k})", "aria-pressed") for k in range(1, 5)]
    assert pressed == ["true", "false", "false", "true"]
    assert answers(folder) == []
    press(page, "2", "Space")
    page.wait_for_selector(SAVED)
    assert [one.labels for one in answers(folder)] == [(1, 1, 0, 1)]
    press(page, "u", "u")
    page.wait_for_selector("#hint:has-text('nothing to undo')")


def test_two_annotators(chromium: Any, context: Any, server: Server, folder: Path) -> None:
    ada = opened(context, server.address, "Ada")
    other = chromium.new_context()
    bea = opened(other, server.address, "Bea")
    assert shown(ada) == shown(bea)  # the same order, so that there is something to compare
    for k in range(4):
        press(ada, "1", *(["2"] if k % 2 else []), "Space")
        press(bea, "1", *(["2"] if k > 1 else []), "Space")
    for page in (ada, bea):
        page.wait_for_selector(SAVED)
    ada.wait_for_selector("#agreement:visible")
    ada.wait_for_selector("#agreement tr:first-child td:nth-child(3):text-is('4')")
    rows = [row.split("\t") for row in ada.inner_text("#agreement tbody").split("\n")]
    assert rows[0] == ["Ada, Bea", "tumour", "4", "100%", "–"]
    assert rows[1] == ["Ada, Bea", "stroma", "4", "50%", "0.00"]
    assert len(answers(folder, "Ada")) == len(answers(folder, "Bea")) == 4
    other.close()


def test_nothing_is_lost_when_the_server_is_killed(context: Any, folder: Path) -> None:
    server = Server(folder)
    page = opened(context, server.address)
    press(page, "1", "Space")
    page.wait_for_selector(SAVED)
    server.kill()
    for _ in range(3):
        press(page, "2", "Space")
    page.wait_for_selector("#saving.late")
    assert page.inner_text("#saving") == "3 not saved yet, trying again"
    # undo reaches what is not sent yet, too
    press(page, "u")
    page.wait_for_selector("#hint:has-text('Taken back')")
    assert page.inner_text("#saving").startswith("2 not saved")
    server = Server(folder, port=server.port)
    try:
        page.wait_for_selector("#notice:visible")
        assert "lacks the token" in page.inner_text("#notice")
        page.close(run_before_unload=False)
        page = opened(context, server.address)
        page.wait_for_selector(SAVED)
        found = answers(folder)
        assert [one.labels for one in found] == [(1, 0, 0, 0), (0, 1, 0, 0), (0, 1, 0, 0)]
        assert len({one.patch for one in found}) == 3
        assert f"train/p{int(shown(page)):02}.png" not in {one.patch for one in found}
    finally:
        server.kill()


def test_grid_by_keyboard(context: Any, server: Server, folder: Path) -> None:
    page = opened(context, server.address)
    press(page, "g")
    page.wait_for_selector("#stage.many")
    assert page.locator("#stage .patch").count() == 12
    press(page, "Space")
    assert "Tick at least one tissue" in page.inner_text("#hint")
    order = [int(one.get_attribute("data-index")) for one in page.locator("#stage .patch").all()]
    for place in range(12):
        press(page, "x" if place == 3 else "1" if place % 2 else "2", "ArrowRight")
    assert page.inner_text("#stage .patch:nth-child(4) figcaption") == "discarded"
    press(page, "Space")
    page.wait_for_selector(SAVED)
    assert page.locator("#stage .patch").count() == 8
    found = answers(folder)
    assert [one.patch for one in found] == [f"train/p{index:02}.png" for index in order]
    assert [one.labels for one in found[:4]] == [(0, 1, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), None]


def test_mouse_and_tab_work_alike(context: Any, server: Server, folder: Path) -> None:
    page = opened(context, server.address)
    first = shown(page)
    page.click("#tissues button:nth-child(1)")
    press(page, "Space")  # goes on, though the button was clicked last
    assert shown(page) != first
    second = shown(page)
    page.focus("#tissues button:nth-child(2)")
    press(page, "Space")  # presses the button that Tab led to
    assert shown(page) == second
    assert page.get_attribute("#tissues button:nth-child(2)", "aria-pressed") == "true"
    page.click("#next")
    page.wait_for_selector(SAVED)
    assert [one.labels for one in answers(folder)] == [(1, 0, 0, 0), (0, 1, 0, 0)]
    nameless = page.eval_on_selector_all(
        "button, input", "all => all.filter(e => !(e.textContent.trim() || e.labels?.length)).length"
    )
    assert nameless == 0


def test_end_of_the_queue_and_a_damaged_patch(context: Any, tmp_path: Path) -> None:
    folder = data_folder(tmp_path / "small", 3)
    (folder / "train" / "p01.png").write_bytes(b"no image")
    server = Server(folder)
    try:
        page = context.new_page()
        page.goto(f"{server.address}?annotator=Ada")
        damaged = 0
        for _ in range(3):
            page.wait_for_selector("#stage figure")
            if shown(page) == "1":
                page.wait_for_selector("#stage figure p:has-text('cannot be read')")
                damaged += 1
                press(page, "x")
            else:
                press(page, "1", "Space")
        page.wait_for_selector("#done")
        page.wait_for_selector(SAVED)
        assert damaged == 1 and "every patch" in page.inner_text("#done") and page.is_disabled("#next")
        assert len(answers(folder)) == 3
    finally:
        server.kill()


def test_suggestions_are_ticked_ahead(context: Any, tmp_path: Path) -> None:
    from tests.inference.tiny_run import real_run

    from patch2tissue.labelling.suggest import model_of

    folder = data_folder(tmp_path / "data", 6)
    run = real_run(tmp_path / "run", "bcss-wsss")
    probabilities = {f"train/p{k:02}.png": (0.9, 0.5 - 0.05 * k, 0.1, 0.0) for k in range(6)}
    with LabelStore(folder / DATABASE, TISSUES) as store:
        store.suggest(model_of(run), probabilities)
    server = Server(folder, "--run", run, "--random-share", 0)
    try:
        page = opened(context, server.address)
        assert shown(page) == "0" and "unsure of this one" in page.inner_text("#why")
        assert page.inner_text("#tissues button:nth-child(1) .share") == "90%"
        press(page, "Space")
        page.wait_for_selector(SAVED)
        (only,) = answers(folder)
        assert (only.labels, only.chosen, only.suggested) == ((1, 1, 0, 0), "model", (0.9, 0.5, 0.1, 0.0))
    finally:
        server.kill()


def test_on_a_tablet_by_touch(chromium: Any, server: Server, folder: Path) -> None:
    with watched(chromium, **TABLET) as context:
        page = opened(context, server.address)
        first = shown(page)
        assert not too_wide(page)
        page.tap("#tissues button >> nth=1")
        page.tap("#next")
        page.wait_for_selector(SAVED)
        assert shown(page) != first
        page.tap("#grid")
        page.tap("#stage figure >> nth=3")
        page.tap("#tissues button >> nth=0")
        assert "tumour" in page.locator("#stage figure").nth(3).inner_text() and not too_wide(page)
    assert [one.labels for one in answers(folder)] == [(0, 1, 0, 0)]


def test_everything_has_a_name_and_is_reached_by_tab(context: Any, server: Server) -> None:
    page = opened(context, server.address)
    assert nameless(page) == []
    reached = set()
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("() => document.activeElement.id || document.activeElement.textContent"))
    assert {"next", "undo", "unsure", "discard", "grid", "who", "theme"} <= reached
    assert any("tumour" in text for text in reached)
    page.click("#grid")
    assert nameless(page) == []
    page.evaluate("() => document.body.append(document.createElement('button'))")
    assert nameless(page) == ["<button></button>"]

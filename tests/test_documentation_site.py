"""The site as it is built: complete, and shown without asking any server for anything."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import patch2tissue

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("mkdocs", "mkdocstrings", "latex2mathml")),
    reason="the packages of the documentation are not installed: run make",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


class Loaded(HTMLParser):
    """Collects what a page loads by itself, and identifiers that a link may lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: set[str] = set()
        self.images_without_text = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids.add(values.get("id", ""))
        if tag == "a" or (tag == "link" and values.get("rel") in ("canonical", "prev", "next")):
            return
        self.addresses += [values[name] for name in ("src", "href", "srcset", "data", "action") if name in values]
        self.images_without_text += tag == "img" and not values.get("alt")


def pages(site: Path) -> dict[str, Loaded]:
    found = {}
    for path in sorted(site.rglob("*.html")):
        page = found[path.relative_to(site).as_posix()] = Loaded()
        page.feed(path.read_text(encoding="utf-8"))
    return found


def test_nothing_is_loaded_from_a_server(site: Path) -> None:
    for name, page in pages(site).items():
        outside = [address for address in page.addresses if re.match(r"(https?:)?//", address)]
        assert outside == [], name
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^)\"']*", styles) == []


def test_what_pages_load_is_there(site: Path) -> None:
    for name, page in pages(site).items():
        if name == "404.html":  # its addresses begin at the root of a server
            continue
        for address in page.addresses:
            file = address.split("#")[0].split("?")[0]
            if file and not file.startswith("data:"):
                assert (site / name).parent.joinpath(file).exists(), f"{name}: {address}"


def test_every_public_name_has_a_place_in_the_reference(site: Path) -> None:
    reference = {identifier for name, page in pages(site).items() if name.startswith("api/") for identifier in page.ids}
    missing = [name for name in patch2tissue.__all__ if f"patch2tissue.{name}" not in reference]
    assert missing == ["__version__"], "add it to a page of docs/api/ and to the table of docs/api/index.md"
    table = (ROOT / "docs" / "api" / "index.md").read_text(encoding="utf-8")
    assert [name for name in patch2tissue.__all__ if f"`{name}`" not in table] == []


def test_every_command_has_a_place_in_the_reference(site: Path) -> None:
    shown = pages(site)["commands.html"].ids
    listed = re.findall(r"^\| `(patch2tissue [a-z -]+)` \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert [command for command in listed if command.replace(" ", "-") not in shown] == []


def test_pages_of_the_root_are_included_with_links_that_hold(site: Path) -> None:
    changes = (site / "changelog.html").read_text(encoding="utf-8")
    assert "Unreleased" in changes and 'href="reliability.html#how-sure"' in changes
    assert "mypy --strict" in (site / "contributing.html").read_text(encoding="utf-8")


def test_formulas_and_marks_are_drawn(site: Path) -> None:
    method = (site / "method.html").read_text(encoding="utf-8")
    assert method.count("<math") > 5 and "```" not in method
    assert "mark--published" in method and "mark--reading" in method
    assert "[published" not in method.lower() and "[our reading" not in method.lower()


def test_pictures_have_a_description(site: Path) -> None:
    assert {name: page.images_without_text for name, page in pages(site).items() if page.images_without_text} == {}


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")
def test_search_works_in_a_folder_without_a_server(site: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((site / "index.html").as_uri())
        page.locator("input[data-md-component=search-query]").click()
        page.keyboard.type("permutohedral or dense energy", delay=10)
        page.locator(".md-search-result__item a").first.wait_for(timeout=20_000)
        assert "dense energy" in page.locator(".md-search-result__list").inner_text().lower()
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))] == []

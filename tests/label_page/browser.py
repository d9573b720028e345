"""A real browser, and the real command that it talks to."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


TABLET = {"viewport": {"width": 768, "height": 1024}, "has_touch": True}
"""Options of `watched`."""


@contextmanager
def watched(chromium: Any, **options: Any) -> Iterator[Any]:
    """One person's browser, in which errors of pages, and requests to elsewhere, fail the test."""
    context = chromium.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
    wrong: list[str] = []
    context.on("weberror", lambda error: wrong.append(str(error.error)))
    context.on("request", lambda request: None if "://127.0.0.1:" in request.url else wrong.append(request.url))
    yield context
    context.close()
    assert not wrong


def nameless(page: Any) -> list[str]:
    """Controls of a page that a screen reader could not name, and pictures without a text."""
    return page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, img, dialog")].filter((one) => {
            if (one.closest("[hidden], dialog:not([open]), .canvas")) return false;
            const ids = (one.getAttribute("aria-labelledby") ?? "").split(" ");
            const refers = ids.map((id) => document.getElementById(id)?.textContent ?? "");
            const labels = [...(one.labels ?? [])].map((label) => label.textContent);
            const inside = one.closest("button")?.textContent;
            const told = [one.getAttribute("aria-label"), one.textContent, one.alt, one.title, inside];
            return ![...told, ...refers, ...labels].some((text) => text?.trim());
        }).map((one) => one.outerHTML.slice(0, 120))"""
    )


def too_wide(page: Any) -> bool:
    """Whether one would have to scroll sideways."""
    return page.evaluate("() => document.documentElement.scrollWidth > window.innerWidth + 1")


class Command:
    """A `patch2tissue` command that serves a page, as a process.

    Attributes:
        folder: the data folder, where a test wants to remember it.
    """

    folder: Path

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "patch2tissue", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        self.port = int(self.address.split(":")[2].split("/")[0])

    def kill(self) -> None:
        """End it as the system does when memory is short."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Server(Command):
    """`patch2tissue label`."""

    def __init__(self, folder: Path, *options: object, port: int = 0) -> None:
        super().__init__("label", folder, "--tissues", "bcss-wsss", "--no-browser", "--port", port, *options)

"""What a page's server is sent by somebody else than its page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tests.viewer.results import make_results, make_slide

from patch2tissue.label_page.server import label_app
from patch2tissue.label_page.session import LabelSession
from patch2tissue.tissues import load_tissue_set
from patch2tissue.viewer.scenes import find_scenes
from patch2tissue.viewer.server import view_app
from patch2tissue.viewer.viewer import Viewer

ANSWER = {"key": "1", "patch": 0, "annotator": "Ada", "kind": "labelled", "labels": [1, 0, 0, 0]}

BODIES = [
    "",
    "{",
    "[]",
    "3",
    "[" * 60_000,
    '{"a":' * 9_000,
    "\xff\xfe",
    *(
        json.dumps(ANSWER | changes)
        for changes in (
            {"patch": 10**400},
            {"patch": -1},
            {"patch": True},
            {"patch": "0"},
            {"patch": None},
            {"labels": [float("inf"), 0, 0, 0]},
            {"labels": [float("nan"), 0, 0, 0]},
            {"labels": [10**30, 0, 0, 0]},
            {"labels": "1000"[:3]},
            {"labels": {"a": 1}},
            {"labels": 5},
            {"kind": ["labelled"]},
            {"kind": {}},
            {"chosen": "import"},
            {"chosen": 3},
            {"key": ""},
            {"key": "\ud800"},
            {"annotator": "\ud800"},
            {"annotator": "a\nb"},
            {"annotator": "x" * 65},
            {"annotator": ""},
            {"seconds": "long"},
            {"seconds": [1]},
            {"suggested": [10**400]},
            {"suggested": "abcd"},
        )
    ),
]


@pytest.mark.parametrize("number", range(len(BODIES)))
def test_answers_that_are_none(number: int, labelling: TestClient) -> None:
    body = BODIES[number].encode("latin-1" if number == 6 else "utf-8")
    answer = labelling.post("api/answers", content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500 and answer.json()["error"]
    assert labelling.get("api/progress").json()["answered"] == 0


@pytest.fixture
def labelling(data: Path) -> Iterator[TestClient]:
    """A labelling page's server."""
    session = LabelSession(data, load_tissue_set("bcss-wsss"))
    yield TestClient(label_app(session, "secret"), base_url="http://127.0.0.1/secret/", follow_redirects=False)
    session.close()


@pytest.fixture
def viewing(tmp_path: Path) -> Iterator[TestClient]:
    """A viewer's server."""
    make_results(tmp_path / "maps", make_slide(tmp_path / "slides", "a", 120, 160), 60, 80)
    viewer = Viewer(find_scenes([tmp_path / "maps"]))
    yield TestClient(view_app(viewer, "secret"), base_url="http://127.0.0.1/secret/", follow_redirects=False)
    viewer.close()


@pytest.mark.parametrize(
    "path",
    [
        "patches/99999999999999999999/picture",
        "patches/-1/picture",
        "patches/..%2f..%2fsecret/picture",
        "patches/0/context",
        "api/next?annotator=Ada&count=x",
        "api/next?annotator=Ada&waiting=1,x",
        "api/next",
        "static/../server.py",
        "static/%2e%2e/server.py",
        "static/..%5c..%5cserver.py",
        "static//etc/passwd",
        "shared/%00",
    ],
)
def test_addresses_of_nothing(labelling: TestClient, path: str) -> None:
    answer = labelling.get(path)
    assert 400 <= answer.status_code < 500 and b"LabelSession" not in answer.content


@pytest.mark.parametrize(
    "place", ['{"x": 1e999, "y": 0}', '{"x": NaN, "y": 0}', '{"x": "a"}', "{}", '{"x": [1], "y": 0}']
)
def test_places_that_are_none(viewing: TestClient, place: str) -> None:
    for body in (place, place.replace("1e999", "9" * 400)):
        answer = viewing.post("api/scenes/0/wrong", content=body, headers={"content-type": "application/json"})
        assert 400 <= answer.status_code < 500 and answer.json()["error"]


@pytest.mark.parametrize(
    "path", ["scenes/0/slide/99999999999/0_0", "scenes/0/layers/0/3/0_0?heat=-1", "scenes/9/thumbnail"]
)
def test_tiles_of_nothing(viewing: TestClient, path: str) -> None:
    assert 400 <= viewing.get(path).status_code < 500

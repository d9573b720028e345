"""The viewer's server, asked as a browser (or somebody else) would ask."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tests.viewer.results import make_results, make_slide

from patch2tissue.viewer.scenes import Viewer, find_scenes
from patch2tissue.viewer.server import view_app


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    make_results(tmp_path / "maps", make_slide(tmp_path / "slides"))
    viewer = Viewer(find_scenes([tmp_path / "maps"]))
    yield TestClient(view_app(viewer, "secret"), base_url="http://127.0.0.1/secret/", follow_redirects=False)
    viewer.close()


def test_tiles_and_descriptions(client: TestClient) -> None:
    assert client.get("api/scenes").json()["scenes"] == [{"name": "a", "maps": 1}]
    scene = client.get("api/scenes/0").json()
    assert scene["deepest"] == 10 and scene["maps"][0]["deepest"] == 9
    tile = client.get("scenes/0/slide/10/3_2")
    assert tile.status_code == 200 and tile.headers["content-type"] == "image/jpeg"
    shown, hidden = (client.get(f"scenes/0/maps/0/9/0_0?shown={bits}").content for bits in ("1111", "0000"))
    assert shown[:4] == hidden[:4] == b"\x89PNG" and shown != hidden
    assert "static/openseadragon" in client.get("").text and "http://" not in client.get("").text


@pytest.mark.parametrize(
    "path",
    [
        "scenes/0/slide/10/4_0",
        "scenes/0/slide/99/0_0",
        "scenes/1/slide/0/0_0",
        "scenes/0/maps/1/0/0_0",
        "scenes/-1/slide/0/0_0",
        "scenes/0/slide/10/../../../a.tif",
        "scenes/0/slide/..%2F..%2Fa.tif/0_0",
        "static/..%2Fserver.py",
        "slides/a.tif",
        "api/scenes/7",
    ],
)
def test_what_is_not_there_is_404_and_no_path_leads_to_a_file(client: TestClient, path: str) -> None:
    sent = client.get(f"http://127.0.0.1/secret/{path}")
    assert sent.status_code in (307, 404) and b"import " not in sent.content and sent.content[:2] not in (b"II", b"MM")
    assert client.get(f"http://127.0.0.1/{path}").status_code == 403


def test_many_at_a_time_get_what_one_gets(client: TestClient) -> None:
    places = [f"scenes/0/slide/10/{x}_{y}" for x in range(4) for y in range(3)]
    places += [f"scenes/0/maps/0/9/{x}_{y}" for x in range(2) for y in range(2)]
    alone = [client.get(place).content for place in places]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda place: client.get(place).content, places * 3))
    assert together == alone * 3

"""The viewer's server, asked as a browser (or somebody else) would ask."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tests.viewer.results import TISSUES, make_results, make_slide

from patch2tissue.labelling.corrections import Corrections
from patch2tissue.labelling.store import DATABASE
from patch2tissue.slides.cut_tiles import TileSettings, cut_tiles
from patch2tissue.slides.opening import SlideFile
from patch2tissue.viewer.scenes import find_scenes
from patch2tissue.viewer.server import view_app
from patch2tissue.viewer.viewer import Viewer


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    make_results(tmp_path / "maps", make_slide(tmp_path / "slides"), probabilities=True)
    viewer = Viewer(find_scenes([tmp_path / "maps"]))
    yield TestClient(view_app(viewer, "secret"), base_url="http://127.0.0.1/secret/", follow_redirects=False)
    viewer.close()


def test_tiles_and_descriptions(client: TestClient) -> None:
    assert client.get("api/scenes").json()["scenes"] == [{"name": "a", "group": "slide"}]
    scene = client.get("api/scenes/0").json()
    assert scene["deepest"] == 10 and scene["layers"][0]["deepest"] == 9 and scene["wrong"] is None
    tile = client.get("scenes/0/slide/10/3_2")
    assert tile.status_code == 200 and tile.headers["content-type"] == "image/jpeg"
    shown, hidden = (client.get(f"scenes/0/layers/0/9/0_0?shown={bits}").content for bits in ("1111", "0000"))
    assert shown[:4] == hidden[:4] == b"\x89PNG" and shown != hidden
    heat = client.get("scenes/0/layers/0/9/0_0?heat=1")
    assert heat.status_code == 200 and heat.content not in (shown, hidden)
    small = client.get("scenes/0/thumbnail")
    assert small.headers["content-type"] == "image/jpeg" and small.content == client.get("scenes/0/slide/8/0_0").content
    shares = client.get("api/scenes/0/layers/0/shares").json()["tissues"]
    assert len(shares) == 4 and all(0 < one["share"] < 1 and one["area_mm2"] > 0 for one in shares)
    assert "static/openseadragon" in client.get("").text and "http://" not in client.get("").text


@pytest.mark.parametrize(
    "path",
    [
        "scenes/0/slide/10/4_0",
        "scenes/0/slide/99/0_0",
        "scenes/1/slide/0/0_0",
        "scenes/0/layers/1/0/0_0",
        "scenes/-1/slide/0/0_0",
        "scenes/0/slide/10/../../../a.tif",
        "scenes/0/slide/..%2F..%2Fa.tif/0_0",
        "static/..%2Fserver.py",
        "slides/a.tif",
        "api/scenes/7",
        "scenes/7/thumbnail",
        "scenes/0/layers/0/9/0_0?heat=4",
        "scenes/0/layers/0/9/0_0?epoch=1",
        "api/scenes/0/layers/0/shares?epoch=3",
        "api/scenes/0/layers/2/shares",
    ],
)
def test_what_is_not_there_is_404_and_no_path_leads_to_a_file(client: TestClient, path: str) -> None:
    sent = client.get(f"http://127.0.0.1/secret/{path}")
    assert sent.status_code in (307, 404) and b"import " not in sent.content and sent.content[:2] not in (b"II", b"MM")
    assert client.get(f"http://127.0.0.1/{path}").status_code == 403


def test_many_at_a_time_get_what_one_gets(client: TestClient) -> None:
    places = [f"scenes/0/slide/10/{x}_{y}" for x in range(4) for y in range(3)]
    places += [f"scenes/0/layers/0/9/{x}_{y}" for x in range(2) for y in range(2)]
    alone = [client.get(place).content for place in places]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda place: client.get(place).content, places * 3))
    assert together == alone * 3


@pytest.mark.parametrize("question", ["heat=x", "epoch=-1", "epoch=", "heat=1e3", "epoch=99999999999"])
def test_what_is_no_number_is_400(client: TestClient, question: str) -> None:
    assert client.get(f"scenes/0/layers/0/9/0_0?{question}").status_code == 400


@pytest.fixture
def marking(tmp_path: Path) -> Iterator[tuple[TestClient, Path]]:
    slide = make_slide(tmp_path / "slides")
    make_results(tmp_path / "maps", slide)
    data = tmp_path / "data"
    cut_tiles([SlideFile(slide)], data, TileSettings(size=200, stride=200, tissue="everywhere", sample=3))
    viewer = Viewer(find_scenes([tmp_path / "maps"]), corrections=[Corrections(data, TISSUES)])
    yield TestClient(view_app(viewer, "secret"), base_url="http://127.0.0.1/secret/"), data
    viewer.close()


def test_marking_and_taking_back(marking: tuple[TestClient, Path]) -> None:
    client, data = marking
    before = client.get("api/scenes/0").json()["wrong"]
    assert before == {"folder": str(data), "tissues": "bcss-wsss", "marks": []}
    assert not (data / DATABASE).exists()  # looking leaves nothing behind
    answer = client.post("api/scenes/0/wrong", json={"x": 410, "y": 390}).json()
    assert answer["marked"]["box"] == [400, 200, 200, 200] and answer["marked"]["point"] == [410, 390]
    assert answer["wrong"]["marks"] == client.get("api/scenes/0").json()["wrong"]["marks"] == [answer["marked"]]
    back = client.post("api/scenes/0/right", json={"patch": answer["marked"]["patch"]}).json()
    assert back["done"] and back["wrong"]["marks"] == []
    assert not client.post("api/scenes/0/right", json={"patch": "../../etc/passwd"}).json()["done"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"x": "here", "y": 1}, 400),
        ({"x": None, "y": 1}, 400),
        ({"x": 5000, "y": 1}, 422),
        ({"x": -1, "y": 1}, 422),
        ({"x": "nan", "y": 1}, 422),
    ],
)
def test_marks_that_make_no_sense(marking: tuple[TestClient, Path], body: dict[str, object], status: int) -> None:
    client, data = marking
    tiles = sorted((data / "train").iterdir())
    sent = client.post("api/scenes/0/wrong", json=body)
    assert sent.status_code == status and sent.json()["error"]
    assert client.get("api/scenes/0").json()["wrong"]["marks"] == []
    assert sorted((data / "train").iterdir()) == tiles


def test_nothing_is_marked_where_no_folder_is_labelled(client: TestClient) -> None:
    sent = client.post("api/scenes/0/wrong", json={"x": 1, "y": 1})
    assert sent.status_code == 422 and "--label-into" in sent.json()["error"]
    # a form of another site cannot mark anything
    assert client.post("api/scenes/0/wrong", data={"x": "1", "y": "1"}).status_code == 415
    assert client.get("api/scenes/0/wrong").status_code == 405

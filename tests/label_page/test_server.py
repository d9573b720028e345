"""The labelling page's server, asked as a browser (or somebody else) would ask."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from PIL import Image
from starlette.testclient import TestClient
from tests.labelling.folders import data_folder
from tests.slides.pictures import picture, write_tiled

from patch2tissue.errors import ConfigError, DataError
from patch2tissue.label_page.server import label_app
from patch2tissue.label_page.session import LabelSession
from patch2tissue.tissues import load_tissue_set
from patch2tissue.web.serving import listening_socket, new_token

TISSUES = load_tissue_set("bcss-wsss")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return data_folder(tmp_path / "data", 12)


@pytest.fixture
def session(folder: Path) -> Iterator[LabelSession]:
    session = LabelSession(folder, TISSUES)
    yield session
    session.close()


@pytest.fixture
def client(session: LabelSession) -> TestClient:
    return TestClient(label_app(session, "secret"), base_url="http://127.0.0.1/secret/", follow_redirects=False)


@pytest.fixture
def served(session: LabelSession) -> Iterator[tuple[str, int]]:
    """The address of a real server."""
    listener = listening_socket("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(label_app(session, "secret"), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield listener.getsockname()
    server.should_exit = True
    thread.join()


def answer(key: str, patch: int, **more: object) -> dict[str, object]:
    plain = {"key": key, "patch": patch, "annotator": "Ada", "kind": "labelled", "labels": [1, 0, 0, 1]}
    return plain | {"seconds": 1.5, "chosen": "order", "suggested": None} | more


def test_labelling_from_the_first_patch_to_the_last(client: TestClient, session: LabelSession) -> None:
    about = client.get("api/about").json()
    assert about["patches"] == 12 and [tissue["name"] for tissue in about["tissues"]] == list(TISSUES.names)
    seen = []
    while patches := client.get("api/next", params={"annotator": "Ada", "count": 5}).json()["patches"]:
        assert len(patches) <= 5 and patches[0]["labels"] == [0, 0, 0, 0] and not patches[0]["context"]
        seen.append(patches[0]["index"])
        assert client.post("api/answers", json=answer(str(len(seen)), seen[-1])).json() == {"new": True}
    assert sorted(seen) == list(range(12))
    found = client.get("api/progress", params={"annotator": "Ada"}).json()
    assert (found["answered"], found["labelled"], found["seconds_per_patch"]) == (12, 12, 1.5)
    assert found["share"] == {"tumour": 1, "stroma": 0, "lymphocytic infiltrate": 0, "necrosis": 1}
    assert client.get("api/next", params={"annotator": "Bea", "count": 100}).json()["patches"][0]["index"] == seen[0]


def test_patches_that_wait_in_the_page_are_not_given_again(client: TestClient) -> None:
    first = [one["index"] for one in client.get("api/next?annotator=Ada&count=4").json()["patches"]]
    waiting = ",".join(map(str, first))
    more = client.get(f"api/next?annotator=Ada&count=100&waiting={waiting}").json()["patches"]
    assert len(more) == 8 and not {one["index"] for one in more} & set(first)


def test_undo_gives_the_patch_back_with_its_labels(client: TestClient) -> None:
    client.post("api/answers", json=answer("1", 3))
    client.post("api/answers", json=answer("2", 5, kind="unsure", labels=None))
    assert client.post("api/undo", json={"annotator": "Ada"}).json()["patch"]["index"] == 5
    back = client.post("api/undo", json={"annotator": "Ada"}).json()["patch"]
    assert back["index"] == 3 and back["labels"] == [1, 0, 0, 1]
    assert client.post("api/undo", json={"annotator": "Ada"}).json() == {"patch": None}


def test_two_annotators_are_compared(client: TestClient) -> None:
    for patch in range(4):
        client.post("api/answers", json=answer(f"a{patch}", patch, labels=[1, patch % 2, 0, 0]))
        client.post("api/answers", json=answer(f"b{patch}", patch, annotator="Bea", labels=[1, patch // 2, 0, 0]))
    found = client.get("api/progress?annotator=Ada").json()
    stroma = next(one for one in found["agreement"] if one["tissue"] == "stroma")
    assert stroma["annotators"] == ["Ada", "Bea"] and stroma["patches"] == 4
    assert stroma["same"] == 0.5 and stroma["kappa"] == 0
    assert next(one for one in found["agreement"] if one["tissue"] == "tumour")["kappa"] is None
    assert found["annotators"] == {"Ada": 4, "Bea": 4}


@pytest.mark.parametrize(
    "wrong",
    [
        {"patch": 12},
        {"patch": -1},
        {"patch": "../../etc/passwd"},
        {"patch": True, "labels": [0, 0, 0, 0]},
        {"labels": [1, 0]},
        {"labels": [1, 0, 0, "x"]},
        {"labels": "none"},
        {"annotator": ""},
        {"kind": "import"},
        {"chosen": "whatever"},
        {"chosen": "import"},
        {"seconds": "long"},
        {"seconds": float("inf"), "labels": []},
    ],
)
def test_what_is_no_answer_is_refused_and_not_kept(
    client: TestClient, session: LabelSession, wrong: dict[str, object]
) -> None:
    content = json.dumps(answer("1", 0) | wrong)
    sent = client.post("api/answers", content=content, headers={"Content-Type": "application/json"})
    assert sent.status_code == 400 and sent.json()["error"]
    assert session.store.answers() == []


def test_pictures_are_the_files_and_others_become_png(folder: Path, client: TestClient) -> None:
    sent = client.get("patches/3/picture")
    assert sent.content == (folder / "train" / "p03.png").read_bytes() and sent.headers["content-type"] == "image/png"
    Image.open(folder / "train" / "p00.png").save(folder / "train" / "q.tif")
    (folder / "train" / "r.tif").write_bytes(b"no image")
    session = LabelSession(folder, TISSUES)
    try:
        own = TestClient(label_app(session, "secret"), base_url="http://127.0.0.1/secret/")
        shown = Image.open(io.BytesIO(own.get("patches/12/picture").content))
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(Image.open(folder / "train" / "p00.png")))
        damaged = own.get("patches/13/picture")
        assert damaged.status_code == 422 and "r.tif: cannot be read" in damaged.json()["error"]
    finally:
        session.close()
    assert client.get("patches/99/picture").status_code == 404


def test_context_is_the_slide_around_the_patch(tmp_path: Path) -> None:
    image = picture(300, 400)
    slides = tmp_path / "slides"
    slides.mkdir()
    write_tiled(slides / "a.tif", image, (0.5, 0.5))
    folder = data_folder(tmp_path / "data", 2)
    Image.fromarray(image[100:160, 120:180]).save(folder / "train" / "p00.png")
    header = "path,slide,x,y,width,height,size,um_per_pixel,tissue_share\n"
    (folder / "tiles.csv").write_text(header + "train/p00.png,a.tif,120,100,60,60,60,0.5,1\n", encoding="utf-8")
    session = LabelSession(folder, TISSUES, slides={"a.tif": slides / "a.tif"})
    try:
        client = TestClient(label_app(session, "secret"), base_url="http://127.0.0.1/secret/")
        shown = {one["index"]: one["context"] for one in client.get("api/next?annotator=A").json()["patches"]}
        assert shown == {0: True, 1: False}
        around = np.asarray(Image.open(io.BytesIO(client.get("patches/0/context").content))).astype(int)
        assert around.shape == (180, 180, 3)
        assert np.abs(around - image[40:220, 60:240]).mean() < 6  # JPEG
        assert client.get("patches/1/context").status_code == 404
        # places are the file's own pixels also where the scanned area does not begin at the file's corner
        session._opened(slides / "a.tif").origin = (30, 10)
        same = np.asarray(Image.open(io.BytesIO(client.get("patches/0/context").content))).astype(int)
        np.testing.assert_array_equal(same, around)
    finally:
        session.close()


def test_nothing_is_answered_without_the_token(client: TestClient, folder: Path) -> None:
    for path in ("/", "/api/about", "/wrong/", "/secre/api/about", "/secret2/api/about", "//secret/", "/%73ecre/"):
        sent = client.get(f"http://127.0.0.1{path}")
        assert sent.status_code in (400, 403), path
        assert "secret" not in sent.text and str(folder) not in sent.text
    assert client.post("http://127.0.0.1/api/answers", json=answer("1", 0)).status_code == 403
    assert len({new_token() for _ in range(50)}) == 50 and len(new_token()) >= 32


SECRETS = (b"import ", b"root:", b"SQLite")
PATHS = [
    "static/../server.py",
    "static/..%2Fserver.py",
    "static/%2e%2e/session.py",
    "static/....//server.py",
    "static//etc/passwd",
    "static/%2Fetc%2Fpasswd",
    "static/..%5Cserver.py",
    "patches/../labels.sqlite",
    "patches/..%2F..%2Flabels.sqlite/picture",
    "patches/0/../../labels.sqlite",
    "patches/-1/picture",
    "patches/0%00/picture",
    "labels.sqlite",
    "train/p00.png",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_to_a_file_that_is_not_meant(client: TestClient, path: str) -> None:
    sent = client.get(f"http://127.0.0.1/secret/{path}")
    assert sent.status_code in (307, 400, 403, 404), sent.status_code
    assert not any(secret in sent.content for secret in SECRETS)


@pytest.mark.parametrize("path", PATHS)
def test_no_path_as_it_is_sent_leads_to_a_file_that_is_not_meant(served: tuple[str, int], path: str) -> None:
    # through a socket, since client libraries tidy paths up
    with socket.create_connection(served, timeout=10) as connection:
        connection.sendall(f"GET /secret/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert int(answer.split()[1]) in (307, 400, 403, 404), answer[:200]
    assert not any(secret in answer for secret in SECRETS)


def test_other_names_of_the_server_are_refused(client: TestClient) -> None:
    assert client.get("static/label.js").status_code == 200
    assert client.get("api/about", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("api/about", headers={"Host": "localhost:8765"}).status_code == 200


def test_another_sites_form_is_refused_and_bodies_are_bounded(client: TestClient, session: LabelSession) -> None:
    form = client.post("api/answers", content=b"{}", headers={"Content-Type": "text/plain"})
    assert form.status_code == 415
    large = client.post("api/answers", content=b" " * 70_000, headers={"Content-Type": "application/json"})
    assert large.status_code == 413
    for content in (b"", b"[]", b"{", b"\xff"):
        sent = client.post("api/answers", content=content, headers={"Content-Type": "application/json"})
        assert sent.status_code == 400
    assert session.store.answers() == []


def test_headers_keep_the_token_to_the_page(client: TestClient) -> None:
    for path in ("", "api/about", "static/label.css", "patches/0/picture", "nothing"):
        headers = client.get(path).headers
        assert headers["referrer-policy"] == "no-referrer" and headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in headers["content-security-policy"]
    page = client.get("").text
    assert "http://" not in page and "https://" not in page  # nothing from elsewhere


def test_a_taken_port_is_an_error_or_another_one() -> None:
    first = listening_socket("127.0.0.1", 0)
    try:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port} cannot be listened on"):
            listening_socket("127.0.0.1", port)
        other = listening_socket("127.0.0.1", port, or_any=True)
        assert other.getsockname()[1] != port
        other.close()
    finally:
        first.close()


def test_a_run_without_a_network_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no trained CRAANet"):
        LabelSession(folder, TISSUES, run=tmp_path)

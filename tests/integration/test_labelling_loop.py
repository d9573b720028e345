"""From patches nobody has labelled to a run that asks for the next labels, and back, as a lab goes through it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from starlette.testclient import TestClient

from conftest import RECIPES, TINY
from patch2tissue.config import load_config
from patch2tissue.data.labels import parse_label
from patch2tissue.label_page.server import label_app
from patch2tissue.label_page.session import LabelSession
from patch2tissue.labelling.exchange import export_table
from patch2tissue.labelling.store import DATABASE, LabelStore
from patch2tissue.labelling.suggest import suggest
from patch2tissue.pipeline import run_training
from patch2tissue.tissues import load_tissue_set
from patch2tissue.training_data import training_patches
from patch2tissue.viewer.runs import ViewedRun, corrections_of
from patch2tissue.viewer.scenes import find_scenes
from patch2tissue.viewer.server import view_app
from patch2tissue.viewer.viewer import Viewer

TISSUES = load_tissue_set("bcss-wsss")


def test_label_train_look_correct_train_again(tmp_path: Path, fabricate: Callable[..., Path]) -> None:
    named = fabricate(tmp_path / "named", "bcss-wsss", train=16, test=0)
    folder = tmp_path / "data"
    (folder / "train").mkdir(parents=True)
    truth = {}
    for number, path in enumerate(sorted((named / "train").glob("*.png"))):
        truth[f"p{number:02}"] = parse_label(path.stem, "bcss-wsss", TISSUES)
        path.rename(folder / "train" / f"p{number:02}.png")

    mistaken: dict[str, tuple[int, ...]] = {}

    def label(count: int, run: Path | None) -> list[tuple[str, str]]:
        """Answer so many patches on the page; returns which, and why each was asked for."""
        session = LabelSession(folder, TISSUES, run=run, random_share=0.25)
        try:
            client = TestClient(label_app(session, "t"), base_url="http://127.0.0.1/t/")
            chosen = []
            for _ in range(count):
                patch = client.get("api/next", params={"annotator": "Ada", "count": 1}).json()["patches"][0]
                # she is mistaken about one, until she is asked again
                if not mistaken:
                    mistaken[patch["name"]] = (0, 0, 1, 1)
                flagged = patch["chosen"] == "flagged"
                labels = list(truth[patch["name"]] if flagged else mistaken.get(patch["name"], truth[patch["name"]]))
                answer = {key: patch[key] for key in ("chosen", "suggested")}
                answer |= {
                    "key": f"{patch['name']} {patch['chosen']}",
                    "patch": patch["index"],
                    "annotator": "Ada",
                    "kind": "labelled",
                }
                assert client.post("api/answers", json=answer | {"labels": labels}).json()["new"]
                chosen.append((patch["name"], patch["chosen"]))
            export_table(session.store, folder, session.patches)
            return chosen
        finally:
            session.close()

    def train(name: str) -> tuple[Path, dict[str, tuple[int, ...] | None]]:
        changes = [
            f"output={tmp_path / name}",
            f"data.path={folder}",
            "data.layout=csv",
            *TINY,
            "craanet.epochs=2",
            "pfscnet.epochs=2",
        ]
        config = load_config(RECIPES / "bcss-wsss.yaml", changes)
        run_training(config, progress=False)
        return tmp_path / name, {patch.name: patch.labels for patch in training_patches(config)}

    assert [why for _, why in label(8, None)] == ["order"] * 8
    first, used = train("first")
    ((wrong, said),) = mistaken.items()
    assert len(used) == 8 and used == {name: truth[name] for name in used} | {wrong: said}

    # looking at what the network made of it, somebody sees that it is wrong
    known: dict[Path, ViewedRun] = {}
    viewer = Viewer(find_scenes([first], runs=known), corrections=corrections_of(known.values()))
    client = TestClient(view_app(viewer, "t"), base_url="http://127.0.0.1/t/")
    names = [scene["name"] for scene in client.get("api/scenes").json()["scenes"]]
    number = names.index(wrong)
    layers = client.get(f"api/scenes/{number}").json()["layers"]
    assert [layer["kind"] for layer in layers] == ["network", "pseudo_label", "attention", "epoch_attention"]
    assert client.get(f"scenes/{number}/layers/0/5/0_0").status_code == 200
    assert client.post(f"api/scenes/{number}/wrong", json={"x": 10, "y": 20}).json()["marked"]["name"] == wrong

    with LabelStore(folder / DATABASE, TISSUES) as store:
        assert suggest(first, folder, store) == 16
    (asked, why), *others = label(4, first)
    assert (asked, why) == (wrong, "flagged") and {why for _, why in others} <= {"model", "random"}
    assert client.get(f"api/scenes/{number}").json()["wrong"]["marks"] == []
    viewer.close()
    _, more = train("second")
    assert len(more) == 11 and more == {name: truth[name] for name in more}

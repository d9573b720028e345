"""`patch2tissue label` and `labels …` as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.labelling.folders import data_folder

from patch2tissue.cli.app import main
from patch2tissue.labelling.store import DATABASE, Answer, Flag, LabelStore
from patch2tissue.tissues import load_tissue_set


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_labels_go_in_and_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = data_folder(tmp_path / "data", 4, labels=True)
    tissues = ("--tissues", "bcss-wsss")
    assert call("labels", "import", folder, *tissues, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"new": 4, "known": 0, "without": 0}
    with LabelStore(folder / DATABASE, load_tissue_set("bcss-wsss")) as store:
        store.add([Answer("1", "train/p00-[0 1 0 0].png", "Ada", "labelled", (1, 1, 0, 0))])
        store.flag(Flag("train/p02-[0 1 0 0].png", 0.5, 0.5))
    assert call("labels", "status", folder, *tissues) == 0
    text = capsys.readouterr().out
    assert "1 were marked as wrong" in text
    assert "4 of 4 patches have answers" in text and "Ada, file names" in text and "kappa" in text
    assert call("labels", "status", folder, *tissues, "--json") == 0
    assert json.loads(capsys.readouterr().out)["annotators"] == {"Ada": 1, "file names": 4}
    assert call("labels", "export", folder, *tissues, "--json") == 0
    done = json.loads(capsys.readouterr().out)
    assert done["labelled"] == 3 and done["left_out"] == {"disagreement": 1}
    assert len((folder / "labels.csv").read_text(encoding="utf-8").splitlines()) == 4
    assert call("labels", "export", folder, *tissues, "--annotator", "Ada") == 0
    assert "1 labels in" in (shown := capsys.readouterr().err) and "what was there before" in shown


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("labels", "status", "{data}"), "was not labelled yet"),
        (("labels", "export", "{data}"), "was not labelled yet"),
        (("labels", "import", "{data}"), "no file name carries a label"),
        (("label", "{data}/nowhere", "--no-browser"), "there is no such folder"),
        (("label", "{data}", "--host", "0.0.0.0", "--no-browser"), "--allow-other-hosts"),
        (("label", "{data}", "--run", "{data}", "--no-browser"), "holds no trained CRAANet"),
        (("label", "{data}", "--slides", "{data}/nowhere", "--no-browser"), "nowhere"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    folder = data_folder(tmp_path / "data", 2)
    assert call(*(part.format(data=folder) for part in arguments), "--tissues", "bcss-wsss") == 2
    error = capsys.readouterr().err
    assert told in error.replace("\n", " ") and "Traceback" not in error


def test_without_the_extra_the_message_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    folder = data_folder(tmp_path / "data", 2)
    for name in [name for name in sys.modules if name.startswith(("patch2tissue.label_page", "patch2tissue.web"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert call("label", folder, "--tissues", "bcss-wsss", "--no-browser") == 2
    assert "patch2tissue[viewer]" in capsys.readouterr().err.replace("\n", "")
    assert not (folder / DATABASE).exists()


def test_other_hosts_are_let_in_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from patch2tissue.web import serving

    folder = data_folder(tmp_path / "data", 2)
    served = []
    monkeypatch.setattr(
        serving, "serve", lambda app, listener: (served.append(listener.getsockname()), listener.close())
    )
    options = ("--tissues", "bcss-wsss", "--no-browser", "--port", 0)
    assert call("label", folder, *options, "--host", "0.0.0.0", "--allow-other-hosts", "--annotator", "A B") == 0
    out, error = capsys.readouterr()
    assert "Warning" in error and "not encrypted" in error.replace("\n", " ")
    assert out.strip().endswith("/?annotator=A%20B") and f"http://localhost:{served[0][1]}/" in out
    assert call("label", folder, *options) == 0
    assert "Warning" not in capsys.readouterr().err and served[1][0] == "127.0.0.1"

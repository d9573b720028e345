"""`patch2tissue view` as it is typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.test_label_command import call
from tests.labelling.folders import data_folder
from tests.viewer.results import make_results, make_slide

from patch2tissue.viewer.server import STATIC

pytestmark = pytest.mark.skipif(
    not (STATIC / "openseadragon" / "openseadragon.min.js").is_file(),
    reason="no OpenSeadragon (sh scripts/vendor_openseadragon.sh)",
)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What would be served."""
    from patch2tissue.web import serving

    applications: list[object] = []
    monkeypatch.setattr(serving, "serve", lambda app, listener: (applications.append(app), listener.close()))
    return applications


def test_runs_slides_and_maps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], served: list[object], trained_runs: tuple[Path, Path, Path]
) -> None:
    slide = make_slide(tmp_path / "slides")
    make_results(tmp_path / "maps", slide)
    for arguments, told in (
        ((tmp_path / "maps",), "a. Ctrl-C"),
        ((trained_runs[1], trained_runs[2], slide, "--maps", tmp_path / "maps"), "17 slides and patches"),
        ((slide, "--label-into", data_folder(tmp_path / "data"), "--tissues", "bcss-wsss"), "a. Ctrl-C"),
    ):
        assert call("view", *arguments, "--no-browser") == 0
        out, error = capsys.readouterr()
        assert out.startswith("http://127.0.0.1:") and told in error
    assert len(served) == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("{folder}/nowhere.svs",), "no such file or folder"),
        (("{folder}/empty",), "holds no slides"),
        (("{folder}/a.tif", "--maps", "{folder}/nowhere"), "no such folder of maps"),
        (("{folder}/a.tif", "--label-into", "{folder}/data"), "name it with --tissues"),
        (("{folder}/a.tif", "--label-into", "{folder}/nowhere", "--tissues", "bcss-wsss"), "there is no such folder"),
        (("{folder}/a.tif", "--tissues", "nonsense"), "nonsense"),
        (("{folder}/a.tif", "--host", "0.0.0.0"), "--allow-other-hosts"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], served: list[object], arguments: tuple[str, ...], told: str
) -> None:
    make_slide(tmp_path)
    data_folder(tmp_path / "data", 2)
    (tmp_path / "empty").mkdir()
    assert call("view", *(part.format(folder=tmp_path) for part in arguments), "--no-browser") == 2
    error = capsys.readouterr().err
    assert told in error.replace("\n", " ") and "Traceback" not in error and not served

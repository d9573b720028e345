"""Links are read where a user put them, never written through, and not served unasked."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.bad_input.bad_images import PICTURE, encoded
from tests.bad_input.bad_links import LINKED, NOT_READ, OUTPUTS
from tests.bad_input.faults import Commands, Fault, unchanged
from tests.slides.pictures import picture, write_tiled

from patch2tissue.config import load_config
from patch2tissue.data.layouts import refuse_bad_name
from patch2tissue.errors import DataError
from patch2tissue.label_page.session import LabelSession
from patch2tissue.links import leads_out
from patch2tissue.tissues import load_tissue_set
from patch2tissue.training_data import training_patches
from patch2tissue.viewer.scenes import find_scenes

SET = ("--tissues", "bcss-wsss")
TISSUES = load_tissue_set("bcss-wsss")


@pytest.mark.parametrize("fault", NOT_READ, ids=str)
def test_what_is_no_file_is_passed_over_with_a_warning(
    commands: Commands, data: Path, recipe: Path, whole_run: Path, tmp_path: Path, fault: Fault
) -> None:
    path = data / "train" / fault.file
    fault.make(path)
    outcome = commands.accepts("check", data, *SET)
    assert all(words in outcome.said for words in (*fault.says, path.name, "1 warning"))
    assert len(training_patches(load_config(recipe))) == 4
    commands.accepts("predict", whole_run, data / "train", "--out", tmp_path / "out", "--no-overlay")
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == 4
    session = LabelSession(data, TISSUES)
    assert len(session.patches) == 4
    session.close()


@pytest.mark.parametrize("fault", LINKED, ids=str)
def test_linked_pictures_are_read_and_only_served_if_asked(
    commands: Commands, data: Path, whole_run: Path, tmp_path: Path, fault: Fault
) -> None:
    path = data / "train" / fault.file
    fault.make(path)
    with unchanged(data, tmp_path / "outside"):
        if fault.accepted:
            commands.accepts("check", data, *SET)
            commands.accepts("predict", whole_run, path, "--out", tmp_path / "out")
        else:
            commands.refuses(fault, path, "check", data, *SET)
            commands.refuses(fault, path, "predict", whole_run, path, "--out", tmp_path / "out")
        words = Fault("", "", "", fault.make, ("lies outside of", "Pass --follow-links if it is meant"))
        commands.refuses(words, path, "label", data, *SET, "--no-browser")
        commands.refuses(words, path, "view", data / "train", *SET, "--no-browser")
    assert not (data / "labels.sqlite").exists()
    assert len(find_scenes([data / "train"], follow_links=True)) == 5
    session = LabelSession(data, TISSUES, follow_links=True)
    index = next(i for i, patch in enumerate(session.patches) if patch.path.endswith(fault.file))
    try:
        if fault.accepted:
            with Image.open(io.BytesIO(session.picture(index)[0])) as shown:
                assert np.array_equal(np.asarray(shown), PICTURE)
        else:
            # what is no picture is not sent, whatever was asked for
            with pytest.raises(DataError, match="cannot be read as an image"):
                session.picture(index)
    finally:
        session.close()


def test_a_link_that_is_put_there_later_is_not_served(data: Path, tmp_path: Path) -> None:
    session = LabelSession(data, TISSUES)
    (tmp_path / "secret.png").write_bytes(encoded("PNG"))
    path = data / session.patches[0].path
    path.unlink()
    path.symlink_to(tmp_path / "secret.png")
    try:
        with pytest.raises(DataError, match="lies outside of"):
            session.picture(0)
    finally:
        session.close()


def test_links_within_a_folder_and_to_a_whole_folder_are_no_matter(data: Path, tmp_path: Path) -> None:
    (data / "train" / "x[1000].png").symlink_to("p1[0100].png")
    (tmp_path / "by another name").symlink_to(data)
    for folder in (data, tmp_path / "by another name"):
        session = LabelSession(folder, TISSUES)
        assert len(session.patches) == 5
        session.close()
        assert len(find_scenes([folder / "train"])) == 5
    assert leads_out(tmp_path / "by another name", tmp_path / "run") and not leads_out(data / "train", data)


@pytest.mark.parametrize("fault", OUTPUTS, ids=str)
def test_nothing_is_written_through_a_link(
    commands: Commands, data: Path, recipe: Path, whole_run: Path, tmp_path: Path, fault: Fault
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "f").write_bytes(b"somebody's file")
    link = tmp_path / fault.file
    link.parent.mkdir(parents=True, exist_ok=True)
    fault.make(link)
    slide = write_tiled(tmp_path / "a.tif", picture())
    arguments = {
        "tiles": ("slide", "tiles", slide, "--out", tmp_path / "tiles"),
        "maps": ("slide", "predict", whole_run, slide, "--out", tmp_path / "maps", "--model-mpp", "0.5"),
        "run": ("train", recipe),
        "data": ("labels", "import", data, *SET),
    }[fault.file.split("/")[0]]
    with unchanged(tmp_path / "elsewhere"):
        commands.refuses(fault, link, *arguments)


def test_a_result_replaces_a_link_and_not_what_it_names(
    commands: Commands, data: Path, whole_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").write_bytes(b"somebody's file")
    (tmp_path / "out").mkdir()
    for name in ("t0_mask.png", "areas.csv"):
        (tmp_path / "out" / name).symlink_to(tmp_path / "elsewhere")
    commands.accepts("predict", whole_run, data / "test", "--out", tmp_path / "out")
    assert (tmp_path / "elsewhere").read_bytes() == b"somebody's file"
    assert not (tmp_path / "out" / "t0_mask.png").is_symlink()


def test_a_name_that_is_no_text(commands: Commands, data: Path, recipe: Path, whole_run: Path, tmp_path: Path) -> None:
    import os

    name = os.fsdecode(b"caf\xe9[1000].png")
    (data / "train" / name).write_bytes(encoded("PNG"))
    fault = Fault("", "", "", lambda path: None, ("its name is not UTF-8 text", "Rename the file"))
    shown = data / "train" / "caf\\udce9[1000].png"
    with unchanged(data):
        commands.refuses(fault, shown, "check", data, *SET)
        commands.refuses(fault, shown, "train", recipe)
        commands.refuses(fault, shown, "predict", whole_run, data / "train", "--out", tmp_path / "out")
        commands.refuses(fault, shown, "label", data, *SET, "--no-browser")
        commands.refuses(fault, shown, "slide", "tiles", data / "train" / name, "--out", tmp_path / "tiles", "--mpp", 1)
    with pytest.raises(DataError):
        refuse_bad_name(data / "train" / name)


def test_what_a_terminal_would_obey_is_shown_and_not_obeyed(commands: Commands, data: Path) -> None:
    outcome = commands("check", data / "\x1b[31mred\x07", *SET)
    assert outcome.code == 2 and "\\x1b[31mred\\x07" in outcome.said and "\x1b[31mred" not in outcome.said


def test_a_file_that_may_not_be_read(commands: Commands, data: Path) -> None:
    import os

    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        pytest.skip("whoever runs this may read everything")
    path = data / "train" / "p0[1000].png"
    path.chmod(0)
    fault = Fault("", "", "", lambda path: None, ("Permission denied",))
    commands.refuses(fault, path, "check", data, *SET)

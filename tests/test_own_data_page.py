"""What docs/your-own-data.md tells a user to write down is what the program reads."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from patch2tissue.cli.app import app
from patch2tissue.config import load_config
from patch2tissue.data.layouts import load_split
from patch2tissue.tissues import load_tissue_set

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "your-own-data.md").read_text(encoding="utf-8")


def write_picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(100, 220, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def tissues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`my-tissues.yaml` of the page, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    Path("my-tissues.yaml").write_text(example, encoding="utf-8")
    return Path("my-tissues.yaml")


def test_the_table_of_the_page_can_be_checked_by_its_command(tissues: Path) -> None:
    (table,) = re.findall(r"^```\n(path,.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    for seed, line in enumerate(table.splitlines()[1:]):
        write_picture(Path("mine") / line.split(",")[0], seed)
    (Path("mine") / "labels.csv").write_text(table, encoding="utf-8")
    (command,) = re.findall(r"^patch2tissue (check mine .*)$", PAGE, flags=re.MULTILINE)
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 0, done.output
    patches = load_split(Path("mine"), "train", load_tissue_set(tissues))
    assert [patch.labels for patch in patches] == [(1, 1, 0), (0, 1, 1)]


@pytest.mark.parametrize("layout", ["luad-histoseg", "wsss4luad", "bcss-wsss"])
def test_names_of_the_page_are_read(layout: str, tmp_path: Path) -> None:
    (name,) = re.findall(rf"^train/(.+\.png) +layout {layout}$", PAGE, flags=re.MULTILINE)
    write_picture(tmp_path / "train" / name, 0)
    (patch,) = load_split(tmp_path, "train", load_tissue_set(layout), layout)
    digits = tuple(map(int, re.findall(r"[01]", re.findall(r"\[(.+?)\]", name)[0])))
    assert patch.labels == digits


def test_the_recipe_to_copy_takes_the_changes_that_the_page_names(tissues: Path) -> None:
    (source,) = re.findall(r"^cp (\S+) mine.yaml$", PAGE, flags=re.MULTILINE)
    changed = yaml.safe_load((ROOT / source).read_text(encoding="utf-8"))
    changed |= {"output": "runs/mine", "tissues": str(tissues)}
    changed["data"]["path"] = "mine"
    Path("mine.yaml").write_text(yaml.safe_dump(changed), encoding="utf-8")
    config = load_config(Path("mine.yaml"))
    assert config.tissue_set().names == ("tumour", "stroma", "lymphocytes")

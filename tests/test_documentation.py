from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

import patch2tissue
from patch2tissue.tissues import BUILT_IN, tissue_set_from_dict

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_the_configuration_page_is_what_the_program_does() -> None:
    spec = importlib.util.spec_from_file_location("configuration_table", ROOT / "scripts" / "configuration_table.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    written = script.PAGE.read_text(encoding="utf-8")
    assert written == script.page(), "run `.venv/bin/python scripts/configuration_table.py`"


def test_the_readme_lists_every_command() -> None:
    from patch2tissue.cli.app import app

    listed = re.findall(r"^\| `patch2tissue ([a-z -]+)` \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    commands = [str(command.name) for command in app.registered_commands]
    for group in app.registered_groups:
        assert group.typer_instance is not None
        name = group.name if isinstance(group.name, str) else group.typer_instance.info.name
        commands += [f"{name} {command.name}" for command in group.typer_instance.registered_commands]
    assert "slide predict" in commands
    assert sorted(listed) == sorted(commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def menu_pages(menu: object) -> list[str]:
    """Pages that an entry of the menu leads to, sections included."""
    if isinstance(menu, str):
        return [menu]
    entries = menu.values() if isinstance(menu, dict) else menu
    return [page for entry in entries for page in menu_pages(entry)]  # type: ignore[attr-defined]


def test_pages_of_the_documentation_are_in_its_menu() -> None:
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    docs = ROOT / "docs"
    assert sorted(menu_pages(menu)) == sorted(path.relative_to(docs).as_posix() for path in docs.rglob("*.md"))


def test_built_in_tissue_sets_are_named() -> None:
    text = (ROOT / "docs" / "your-own-data.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in BUILT_IN)


def test_the_example_tissue_set_is_valid() -> None:
    (example,) = blocks(ROOT / "docs" / "your-own-data.md", "yaml")
    assert len(tissue_set_from_dict(yaml.safe_load(example))) == 3


def test_python_examples_run() -> None:
    import torch

    first, second = blocks(ROOT / "docs" / "quickstart.md", "python")
    names: dict[str, object] = {}
    exec(first, names)
    assert names["output"].logits.shape == (2, 4, 128, 128)  # type: ignore[attr-defined]
    assert names["output"].embedding.shape == (2, 128, 32, 32)  # type: ignore[attr-defined]
    assert all(hasattr(patch2tissue, name) for name in re.findall(r"import (\w+), (\w+)", second)[0])
    (readme,) = blocks(ROOT / "README.md", "python")
    names = {"images": torch.rand(2, 3, 64, 64)}
    exec(readme, names)
    assert names["attention"].shape == (2, 4, 8, 8)  # type: ignore[attr-defined]


def test_the_example_of_slides_names_what_there_is() -> None:
    (example,) = blocks(ROOT / "docs" / "slides.md", "python")
    compile(example, "docs/slides.md", "exec")
    names = re.findall(r"^from patch2tissue import (.+)$", example, re.MULTILINE)[0].split(", ")
    assert all(hasattr(patch2tissue, name) for name in names)
    from patch2tissue.inference.slides.result import SlideArea

    assert set(re.findall(r"area\.(\w+)", example)) <= set(SlideArea.__dataclass_fields__)

"""What a release is made of: the check of a release, the Dockerfile, and the citation."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
CHECK = runpy.run_path(str(ROOT / "scripts" / "check_release.py"))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A checkout that is ready to be released as 1.2.0, but for its tag."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n## 1.2.0 (2027-01-31)\n\n- All.\n")
    (tmp_path / "CITATION.cff").write_text("version: 1.2.0\ndate-released: 2027-01-31\n")
    (tmp_path / ".gitignore").write_text("dist/\n")
    (tmp_path / "dist").mkdir()
    for name in ("patch2tissue-1.2.0.tar.gz", "patch2tissue-1.2.0-py3-none-any.whl"):
        (tmp_path / "dist" / name).touch()
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "all")
    return tmp_path


def git(folder: Path, *command: str) -> None:
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *command], cwd=folder, check=True, capture_output=True)


def test_a_release_whose_parts_agree(release: Path) -> None:
    git(release, "tag", "v1.2.0")
    assert CHECK["problems"]("1.2.0", release) == []


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("CHANGELOG.md", "## Unreleased\n\n- More.\n\n## 1.2.0 (2027-01-31)\n", "under Unreleased"),
        ("CHANGELOG.md", "## 1.1.0 (2026-12-31)\n", "no section '## 1.2.0"),
        ("CHANGELOG.md", "## 1.2.0 (2027-02-01)\n", "date-released 2027-01-31, CHANGELOG.md 2027-02-01"),
        ("CITATION.cff", "version: 1.1.0\ndate-released: 2027-01-31\n", "version 1.1.0"),
    ],
)
def test_a_release_whose_parts_differ(release: Path, file: str, text: str, said: str) -> None:
    (release / file).write_text(text)
    git(release, "add", ".")
    git(release, "commit", "--quiet", "--message", "other")
    git(release, "tag", "v1.2.0")
    (problem,) = CHECK["problems"]("1.2.0", release)
    assert said in problem


def test_a_release_without_tag_or_files(release: Path) -> None:
    (release / "new.txt").touch()
    shutil.rmtree(release / "dist")
    problems = CHECK["problems"]("1.2.0", release)
    assert len(problems) == 4 and "git tag v1.2.0" in problems[0] and "not committed" in problems[1]
    assert CHECK["problems"]("1.2", release)[0].startswith("1.2 is not a version")


def stages() -> dict[str, str]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    parts = re.split(r"^FROM (\S+) AS (\S+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[2::3], parts[3::3], strict=True))


def test_the_images_are_made_from_the_lock_alone() -> None:
    found = stages()
    assert {"cpu", "cuda"} <= found.keys()
    commands = [line for text in found.values() for line in text.replace("\\\n", "").split("&&") if " pip " in line]
    assert len(commands) == 3
    for command in commands:
        hashed = "--require-hashes" in command and "--requirement /build/requirements.lock" in command
        assert hashed or ("--no-index" in command and "--find-links /packages" in command), command
    assert not re.search(r"curl|wget|apt-get|://(?!\$)", "".join(found.values())), "something from elsewhere"


def test_what_the_dockerfile_copies_is_there_and_not_left_out() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    copied: list[Any] = []
    for text in stages().values():
        for line in re.findall(r"^COPY (?!--from)(.*)$", text, flags=re.MULTILINE):
            copied += line.split()[:-1]
    assert copied and all((ROOT / name).exists() for name in copied)
    assert {name.split("/")[0] for name in copied} == kept


def test_the_citation_names_the_software_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "title", "message", "type", "license", "authors", "abstract"} <= citation.keys()
    (paper,) = citation["references"]
    assert paper["doi"] == "10.1088/1361-6560/acaeee" and paper["doi"] in citation["message"]
    for author in [*citation["authors"], *paper["authors"]]:
        assert "name" in author or "family-names" in author

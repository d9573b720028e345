"""The script behind `make`, with pretended Pythons: what it chooses, and what it says when there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(shutil.which("sh") is None or os.name == "nt", reason="needs a POSIX shell")

OLD = "#!/bin/sh\nexit 1\n"  # fails every question, like Python 3.10 or a shim without a Python behind it
BARE = '#!/bin/sh\ncase "$2" in *ensurepip*) exit 1 ;; *executable*) echo "$0" ;; esac\n'
COMPLETE = (
    '#!/bin/sh\ncase "$2" in *executable*) echo "$0" ;; esac\n[ "$2" = venv ] && echo "chosen: $0" && exit 9\nexit 0\n'
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "make_venv.sh", tmp_path / "scripts")
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("sh", "dirname", "rm"):
        found = shutil.which(tool)
        assert found is not None
        (tools / tool).symlink_to(found)
    return tmp_path


def add(checkout: Path, name: str, text: str) -> None:
    path = checkout / "bin" / name
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def run(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "scripts/make_venv.sh", ".venv"],
        cwd=checkout,
        env={"PATH": str(checkout / "bin")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_python_it_says_what_to_install(checkout: Path) -> None:
    add(checkout, "python3", OLD)
    done = run(checkout)
    assert done.returncode == 1
    assert "found no Python 3.11 or newer" in done.stderr
    assert "uv" in done.stderr


def test_without_ensurepip_it_says_which_package(checkout: Path) -> None:
    add(checkout, "python3.12", OLD)
    add(checkout, "python3", BARE)
    done = run(checkout)
    assert done.returncode == 1
    assert f"{checkout}/bin/python3 is new enough" in done.stderr
    assert "apt install python3-venv" in done.stderr


def test_it_takes_the_first_python_that_can_make_environments(checkout: Path) -> None:
    add(checkout, "python3.13", OLD)
    add(checkout, "python3.12", BARE)
    add(checkout, "python3.11", COMPLETE)
    add(checkout, "python3", COMPLETE)
    done = run(checkout)
    assert f"chosen: {checkout}/bin/python3.11" in done.stdout


def test_a_broken_environment_is_made_again(checkout: Path) -> None:
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to("/nowhere/python")
    add(checkout, "python3", COMPLETE)
    assert "Making .venv with" in run(checkout).stdout
    assert not (checkout / ".venv").exists()


def test_with_uv_hashes_are_required(checkout: Path) -> None:
    add(checkout, "uv", '#!/bin/sh\necho "uv $*"\n')
    add(checkout, "python3", COMPLETE)
    lines = [line for line in run(checkout).stdout.splitlines() if line.startswith("uv")]
    assert lines[0] == f"uv venv --quiet --clear --python {checkout}/bin/python3 .venv"
    assert "--require-hashes -r requirements.lock" in lines[1]
    assert "--no-deps --no-build-isolation --editable ." in lines[2]


def test_make_help_lists_the_targets() -> None:
    if shutil.which("make") is None:
        pytest.skip("there is no make here")
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("help", "demo", "test", "lint", "format", "types", "bench", "docs", "clean"):
        assert f"make {target} " in done.stdout

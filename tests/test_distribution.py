"""What is in the wheel and in the source distribution, built from a checkout in which other things lie about."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
JUNK = [
    "src/patch2tissue/notes.ipynb",
    "src/patch2tissue/weights.safetensors",
    "src/patch2tissue/data/real/slide.png",
    "src/patch2tissue/data/labels.csv",
    "src/patch2tissue/viewer/__pycache__/server.cpython-311.pyc",
    "src/patch2tissue/.env",
    "configs/mine.txt",
    "configs/data/labels.yaml",
    "tests/__pycache__/conftest.cpython-311.pyc",
    "tests/slide.svs",
    "benchmarks/notes.ipynb",
    "runs/demo/report.html",
    ".env",
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("distribution")
    # not what may be large: environments, data, runs, results of benchmarks
    kept = {"src", "configs", "tests", "benchmarks", "scripts", "docs", "docker", ".ci"}
    others = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in kept}
    left = shutil.ignore_patterns("__pycache__", "results")
    checkout = shutil.copytree(
        ROOT, folder / "checkout", ignore=lambda place, names: others if Path(place) == ROOT else left(place, names)
    )
    for name in JUNK:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("secret", encoding="utf-8")
    return _build(checkout, "wheel", folder / "dist"), _build(checkout, "sdist", folder / "dist")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_version_comes_from_the_tag(built: tuple[Path, Path], tmp_path: Path) -> None:
    checkout = built[0].parents[1] / "checkout"
    assert "-0.1.0.dev0-" in built[0].name, "without git"
    _git(checkout, "init", "--quiet")
    _git(checkout, "add", "pyproject.toml")
    _git(checkout, "commit", "--quiet", "--message", "released")
    _git(checkout, "tag", "v1.2.3")
    assert built[0].name.replace("0.1.0.dev0", "1.2.3") == _build(checkout, "wheel", tmp_path / "tagged").name
    _git(checkout, "commit", "--quiet", "--allow-empty", "--message", "after it")
    assert "-1.2.4.dev1+g" in _build(checkout, "wheel", tmp_path / "after").name


def _git(folder: Path, *command: str) -> None:
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *command], cwd=folder, check=True, capture_output=True)


def _build(checkout: Path, kind: str, out: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return found


def _names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


def _wanted() -> set[str]:
    """Files of the package and recipes, by their names in a wheel."""
    package = ROOT / "src" / "patch2tissue"
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    shown = {"static", "templates"}
    kept = [path for path in files if path.suffix == ".py" or path.name == "py.typed" or shown & set(path.parts)]
    recipes = {f"patch2tissue/recipes/{path.name}" for path in (ROOT / "configs").glob("*.yaml")}
    return {f"patch2tissue/{path.relative_to(package).as_posix()}" for path in kept} | recipes


def test_the_wheel_holds_the_package_and_nothing_else(built: tuple[Path, Path]) -> None:
    about = "-".join(built[0].name.split("-")[:2]) + ".dist-info"
    metadata = {f"{about}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    found, wanted = _names(built[0]), _wanted() | metadata
    assert found - wanted == set(), "should not be in it"
    assert wanted - found == set(), "is missing"
    assert len([name for name in found if name.endswith(".py")]) > 100
    kinds = {Path(name).suffix for name in found - metadata}
    assert kinds <= {".py", ".yaml", ".typed", ".css", ".html", ".js", ".svg", ".j2", ".txt", ""}


def test_the_source_distribution_is_enough_to_build_the_wheel_and_to_test_it(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    with tarfile.open(built[1]) as file:
        file.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    names = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    assert not [name for name in names if (source / name).read_bytes() == b"secret"]
    needed = [
        *("pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "CITATION.cff"),
        *("Makefile", "requirements.lock", "mkdocs.yml", ".ci/run", "scripts/make_venv.sh", "docs/index.md"),
        *("Dockerfile", ".dockerignore", "docker/drop_gpu_libraries.py", "scripts/check_distribution.sh"),
        *(
            "benchmarks/soak.py",
            "tests/readers.txt",
            "tests/ecosystem.txt",
            "tests/tiatoolbox.txt",
            "scripts/audit.txt",
            "tests/conftest.py",
            "docs/images/viewer.jpg",
        ),
        *(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")),
    ]
    assert [name for name in needed if name not in names] == []
    assert _names(_build(source, "wheel", tmp_path / "dist")) == _names(built[0])

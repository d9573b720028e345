from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import patch2tissue
from patch2tissue import builtin_recipes
from patch2tissue.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")

PUBLIC = {
    "__version__",
    "Annotations",
    "AttentionMemory",
    "BoundaryFScore",
    "CRAANet",
    "ClusterOptions",
    "DenseEnergyLoss",
    "PFSCNet",
    "PixelContrastLoss",
    "RunConfig",
    "RunFolder",
    "SlideOptions",
    "SlideResult",
    "SlideScores",
    "TissueScores",
    "TissueSet",
    "annotate_tissue",
    "areas_table",
    "comparison_table",
    "curves_table",
    "evaluate",
    "export_run",
    "evaluate_slides",
    "image_scores_table",
    "load_config",
    "load_tissue_set",
    "predict",
    "predict_cohort",
    "predict_slide",
    "predict_slides",
    "scores_table",
    "slides_table",
    "tissue_at",
    "tissue_scores_table",
    "to_spatialdata",
    "train",
}


def test_the_public_api_is_frozen() -> None:
    assert set(patch2tissue.__all__) == PUBLIC
    assert set(patch2tissue.__dir__()) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_can_be_imported(name: str) -> None:
    value = getattr(patch2tissue, name)
    assert isinstance(value, str) or callable(value)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = patch2tissue.nonsense


def test_importing_the_package_is_light() -> None:
    code = "import sys, patch2tissue; sys.exit(len({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_lock_holds_hashes_and_no_addresses() -> None:
    assert "://" not in LOCK
    entries = re.split(r"\n(?=\S)", LOCK)
    pins = [entry for entry in entries if not entry.startswith("#")]
    assert len(pins) > 50
    assert all("==" in pin and "--hash=sha256:" in pin for pin in pins)
    assert "/tmp" not in LOCK
    assert not [line for line in LOCK.splitlines() if re.match(r"(-|.*\B-(e|i|f|r)\b)", line)], "an option of pip"


@pytest.mark.parametrize(
    "file", ["tests/readers.txt", "tests/ecosystem.txt", "tests/tiatoolbox.txt", "scripts/audit.txt"]
)
def test_what_has_an_environment_of_its_own_is_pinned(file: str) -> None:
    lines = [line for line in (ROOT / file).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert lines and all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", line) for line in lines)


EXTRAS = PROJECT["project"]["optional-dependencies"]
OPTIONAL = EXTRAS.keys() - {"viewer"}
"""Extras that the lock leaves out: nothing else needs them, and most are large. Tests have them from
tests/ecosystem.txt."""


def test_every_extra_is_told_of() -> None:
    page = (ROOT / "docs" / "installing.md").read_text(encoding="utf-8")
    assert [extra for extra in EXTRAS if f"| `{extra}` |" not in page] == []


def test_optional_packages_are_neither_locked_nor_needed() -> None:
    packages = {Requirement(line).name for extra in OPTIONAL for line in EXTRAS[extra]}
    needed = {Requirement(line).name for line in PROJECT["project"]["dependencies"]}
    assert not packages & needed
    assert not [package for package in packages if locked(package)]


def locked(name: str) -> list[str]:
    return re.findall(rf"^{re.escape(name.lower())}==([^ ]+)", LOCK, flags=re.MULTILINE)


@pytest.mark.parametrize(
    "line",
    [
        *PROJECT["project"]["dependencies"],
        *(line for extra, lines in EXTRAS.items() if extra not in OPTIONAL for line in lines),
        *(line for group in PROJECT["dependency-groups"].values() for line in group),
        *PROJECT["build-system"]["requires"],
    ],
)
def test_the_lock_fits_the_declared_ranges(line: str) -> None:
    requirement = Requirement(line)
    versions = locked(requirement.name)
    assert versions, f"{requirement.name} is not in requirements.lock; run `make lock`"
    assert all(requirement.specifier.contains(version) for version in versions)


def test_torch_and_torchvision_are_left_to_the_resolver_together() -> None:
    pinned = [
        line for line in PROJECT["project"]["dependencies"] if re.match(r"torch(vision)?\b", line) and "==" in line
    ]
    assert pinned == []


def test_the_version_is_that_of_the_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "version" not in PROJECT["project"]
    try:
        installed = importlib.metadata.version("patch2tissue")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("patch2tissue is not installed here, only on the path")
    assert installed == patch2tissue.__version__
    Version(installed)
    monkeypatch.setattr(importlib.metadata, "version", _not_installed)
    assert patch2tissue.__version__ == "0+unknown"


def _not_installed(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)


def test_recipes_of_an_installed_package_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "patch2tissue"
    (package / "recipes").mkdir(parents=True)
    (package / "recipes" / "demo.yaml").touch()
    monkeypatch.setattr(builtin_recipes, "__file__", str(package / "builtin_recipes.py"))
    assert builtin_recipes.recipe("demo") == package / "recipes" / "demo.yaml"
    with pytest.raises(ConfigError, match=r"no recipe 'other'.*: demo"):
        builtin_recipes.recipe("other")


def test_recipes_of_a_checkout_are_its_configs() -> None:
    assert builtin_recipes.recipe_folder() == ROOT / "configs"


def test_missing_recipes_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin_recipes, "__file__", str(tmp_path / "a" / "b" / "builtin_recipes.py"))
    with pytest.raises(ConfigError, match="install patch2tissue again"):
        builtin_recipes.recipe("demo")

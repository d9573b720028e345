from __future__ import annotations

import json
import os
import sys
import types
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from patch2tissue import doctor
from patch2tissue.cli.app import app
from patch2tissue.doctor import GIB, Check, Status

REQUIRED = ["numpy>=1.26", "pillow>=10.3", "colorama>=0.4 ; sys_platform == 'none'", "torch>=2.6 ; extra == 'other'"]


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch):
    """Pretend that patch2tissue is installed and declares these requirements."""
    version = metadata.version

    def declare(lines: list[str], versions: dict[str, str] | None = None) -> None:
        known = {"patch2tissue": "9.9", **(versions or {})}
        monkeypatch.setattr(doctor.metadata, "requires", lambda _: lines)
        monkeypatch.setattr(doctor.metadata, "version", lambda name: known.get(name) or version(name))

    return declare


def test_this_machine_is_usable(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--folder", str(tmp_path), "--json"])
    answer = json.loads(result.stdout)
    failed = [check for check in answer["checks"] if check["status"] == "FAIL"]
    assert answer["usable"] is True, failed
    assert result.exit_code == 0
    names = {check["name"] for check in answer["checks"]}
    assert {"Python", "torch + torchvision", "OpenSlide", "processor", "memory", "working folder"} <= names
    assert all(check["advice"] for check in answer["checks"] if check["status"] != "OK")


def test_a_failure_is_shown_with_advice_and_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [
        Check("Python", Status.OK, "3.11"),
        Check("numpy", Status.OK, "2.0", package=True),
        Check("scipy", Status.OK, "1.0", package=True),
        Check("OpenSlide", Status.FAIL, "no library", "install it [now]"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda folder: checks)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "install it [now]" in " ".join(result.stdout.split())
    assert "2 importable" in result.stdout
    assert "numpy" not in result.stdout
    assert "numpy" in CliRunner().invoke(app, ["doctor", "--all"]).stdout


def test_old_python_fails() -> None:
    assert doctor.check_python((3, 10, 4)).status is Status.FAIL
    assert doctor.check_python((3, 14, 0)).status is Status.OK


def test_packages_in_range(declared) -> None:
    declared(REQUIRED)
    checks = doctor.check_packages()
    assert [check.name for check in checks] == ["patch2tissue", "numpy", "pillow"]
    assert all(check.status is Status.OK for check in checks)


def test_a_missing_package_fails(declared) -> None:
    declared(["surely-not-installed>=1"])
    check = doctor.check_packages()[1]
    assert (check.status, check.found) == (Status.FAIL, "missing")
    assert "surely-not-installed>=1" in check.advice


def test_a_version_outside_the_range_fails(declared) -> None:
    declared(["numpy>=1.26"], {"numpy": "1.20"})
    check = doctor.check_packages()[1]
    assert check.status is Status.FAIL
    assert check.found == "1.20, but >=1.26 is needed"


def test_a_package_that_does_not_import_fails(declared, monkeypatch: pytest.MonkeyPatch) -> None:
    declared(["pillow>=10.3"])
    monkeypatch.setitem(sys.modules, "PIL", None)
    check = doctor.check_packages()[1]
    assert check.status is Status.FAIL
    assert "cannot be imported: ModuleNotFoundError" in check.found


def test_without_metadata_it_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", absent)
    (check,) = doctor.check_packages()
    assert check.status is Status.WARN


def test_torchvision_of_another_build_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def broken(*_: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist\nand more")

    monkeypatch.setattr(torchvision.ops, "nms", broken)
    check = doctor.check_torchvision()
    assert check.status is Status.FAIL
    assert check.found == "RuntimeError: operator torchvision::nms does not exist"
    assert "different builds" in check.advice


def test_openslide_without_its_library_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openslide", types.ModuleType("openslide"))
    check = doctor.check_openslide()
    assert check.status is Status.FAIL
    assert "openslide-bin" in check.advice


def test_a_graphics_card_that_does_not_compute_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a graphics card that computes")
    properties = types.SimpleNamespace(name="Old card", total_memory=2 * GIB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    check = doctor.check_accelerator()
    assert check.status is Status.WARN
    assert "Old card, 2 GiB, but it does not compute" in check.found


@pytest.mark.parametrize(
    ("total", "free", "status"),
    [
        (16 * GIB, 8 * GIB, Status.OK),
        (2 * GIB, 1 * GIB, Status.WARN),
        (16 * GIB, GIB, Status.WARN),
        (None, None, Status.OK),
    ],
)
def test_memory(monkeypatch: pytest.MonkeyPatch, total: int | None, free: int | None, status: Status) -> None:
    monkeypatch.setattr(doctor, "memory", lambda: (total, free))
    assert doctor.check_memory().status is status


def test_memory_of_this_machine_is_plausible() -> None:
    total, free = doctor.memory()
    if total is not None and free is not None:
        assert 0 <= free <= total


@pytest.mark.parametrize(("free", "status"), [(100 * GIB, Status.OK), (GIB, Status.WARN), (GIB // 10, Status.FAIL)])
def test_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, status: Status) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=free))
    assert doctor.check_folder(tmp_path / "not" / "yet" / "there").status is status
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_write_permission_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", refuse)
    check = doctor.check_folder(tmp_path)
    assert check.status is Status.FAIL
    assert "Permission denied" in check.found


def test_a_check_that_breaks_is_a_failure_not_a_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ImportError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr("torch.nn.Conv2d", broken)
    checks = {check.name: check for check in doctor.examine(tmp_path)}
    assert checks["training step"].status is Status.FAIL
    assert "libgomp" in checks["training step"].found
    assert not doctor.usable(list(checks.values()))

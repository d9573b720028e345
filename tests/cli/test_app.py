from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable

import pytest
import typer
from typer.testing import CliRunner

import patch2tissue
from patch2tissue.cli import app as app_module
from patch2tissue.errors import ConfigError, DataError, Patch2TissueError, TrainingError
from patch2tissue.progress import console as progress_console

COMMANDS = {
    "doctor",
    "demo",
    "synthetic",
    "check",
    "patches",
    "label",
    "view",
    "train",
    "calibrate",
    "pseudo-labels",
    "predict",
    "export",
    "evaluate",
    "score",
    "compare",
    "rerun",
    "report",
}


class OutOfMemoryError(RuntimeError):
    """Stands for torch's error of this name."""


def run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as left:
        app_module.main(arguments)
    code = left.value.code
    assert isinstance(code, int)
    return code


@pytest.fixture(autouse=True)
def _leave_global_state_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(app_module.DEBUG_VARIABLE, "0")
    root, ours = logging.getLogger(), logging.getLogger("patch2tissue")
    before = root.handlers[:], root.level, ours.level, progress_console.quiet
    yield
    root.handlers[:], progress_console.quiet = before[0], before[3]
    root.setLevel(before[1])
    ours.setLevel(before[2])
    logging.captureWarnings(False)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], list[str]]:
    """An app with one more command, which raises what it is told to."""

    def make(error: BaseException) -> list[str]:
        small = typer.Typer(pretty_exceptions_enable=False)
        small.callback()(app_module._options)

        @small.command()
        def fail() -> None:
            raise error

        monkeypatch.setattr(app_module, "app", small)
        return ["fail"]

    return make


def test_every_command_is_there_with_help() -> None:
    names = {command.name for command in app_module.app.registered_commands}
    assert names == COMMANDS
    for name in sorted(COMMANDS):
        result = CliRunner().invoke(app_module.app, [name, "--help"])
        assert result.exit_code == 0, result.output
        assert "Usage" in result.output


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys\n"
        "from patch2tissue.cli.app import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit as left:\n"
        "    assert left.code in (0, None)\n"
        "heavy = {'torch', 'torchvision', 'timm', 'lightning', 'matplotlib', 'numpy', 'skimage', 'openslide'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"patch2tissue {patch2tissue.__version__}"


@pytest.mark.parametrize("arguments", [["nonsense"], ["doctor", "--nonsense"], ["--quiet", "--verbose", "doctor"]])
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    assert run(arguments) == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("a.png: is broken [not markup]."), 2),
        (ConfigError("wrong."), 2),
        (TrainingError("no longer a number."), 1),
        (Patch2TissueError("failed."), 1),
    ],
)
def test_our_errors_are_one_message(
    failing: Callable[[BaseException], list[str]],
    capsys: pytest.CaptureFixture[str],
    error: Patch2TissueError,
    code: int,
) -> None:
    assert run(failing(error)) == code
    captured = capsys.readouterr()
    assert captured.err.strip() == f"Error: {error}"
    assert captured.out == ""


def test_an_interrupt_is_130(failing: Callable[[BaseException], list[str]]) -> None:
    assert run(failing(KeyboardInterrupt())) == 130


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ZeroDivisionError("division by zero"), "This is a bug in patch2tissue (ZeroDivisionError: division by zero)"),
        (OSError(28, "No space left on device", "run/config.yaml"), "run/config.yaml: No space left on device."),
        (MemoryError(), "Out of memory"),
        (OutOfMemoryError("CUDA out of memory. Tried ..."), "Out of memory"),
    ],
)
def test_other_errors_are_1_without_a_traceback(
    failing: Callable[[BaseException], list[str]], capsys: pytest.CaptureFixture[str], error: Exception, text: str
) -> None:
    assert run(failing(error)) == 1
    shown = capsys.readouterr().err
    assert text in shown
    assert "Traceback" not in shown


def test_debug_shows_the_traceback(
    failing: Callable[[BaseException], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--debug", *failing(ZeroDivisionError("division by zero"))]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_levels(failing: Callable[[BaseException], list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("patch2tissue.somewhere")
    for level, shown in (
        (logging.DEBUG, "debug info warning"),
        (logging.INFO, "info warning"),
        (logging.WARNING, "warning"),
    ):
        app_module.set_up_logging(level)
        for word in ("debug", "info", "warning"):
            getattr(log, word)("said %s", word)
        words = capsys.readouterr().err
        assert [word for word in ("debug", "info", "warning") if f"said {word}" in words] == shown.split()


def test_quiet_silences_progress_but_not_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--quiet", "demo", "--set", "nonsense"]) == 2
    assert "Error" in capsys.readouterr().err
    assert progress_console.quiet
    logging.getLogger("patch2tissue.somewhere").warning("heard")
    assert "heard" in capsys.readouterr().err

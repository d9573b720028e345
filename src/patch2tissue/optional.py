"""Packages that are not among the dependencies: imported where they are asked for, missed in words."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from patch2tissue.errors import ConfigError


def optional_import(
    name: str, purpose: str, extra: str | None = None, install: str | None = None, otherwise: str = ""
) -> ModuleType:
    """Import a package, or a module of it, that patch2tissue does not depend on.

    Args:
        name: of the module.
        purpose: what needs it, the beginning of the message's sentence, for example "loggers.wandb".
        extra: of patch2tissue, which brings it; None: none does.
        install: what to install instead of an extra; None: the package itself.
        otherwise: what else can be done, the end of the message's sentence, for example ", or use the engine torch".

    Raises:
        ConfigError: if it is not installed, or cannot be loaded.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == package
        what = "is not installed" if missing else f"cannot be loaded ({error})"
        install = install or package if extra is None else f"'patch2tissue[{extra}]'"
        raise ConfigError(
            f"{purpose} needs the package {package}, which {what}. Install it with `pip install {install}`{otherwise}."
        ) from None


def require_package(name: str, purpose: str, extra: str) -> None:
    """Say that a package is missing without importing one that is not, which can take seconds.

    Raises:
        ConfigError: see `optional_import`.
    """
    if importlib.util.find_spec(name) is None:
        optional_import(name, purpose, extra)

"""Where the recipes that come with patch2tissue are: `configs/` of a checkout, `recipes/` of an installed package."""

from __future__ import annotations

from pathlib import Path

from patch2tissue.errors import ConfigError


def recipe_folder() -> Path:
    """Folder with the recipes.

    Raises:
        ConfigError: if there is none, which means that the installation is incomplete.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "recipes", package.parents[1] / "configs"):
        if folder.is_dir():
            return folder
    raise ConfigError(f"{package}: the recipes are missing; install patch2tissue again.")


def recipe(name: str) -> Path:
    """File of a recipe by its name without extension, for example `demo`.

    Raises:
        ConfigError: naming the recipes there are.
    """
    folder = recipe_folder()
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml"))) or "none"
        raise ConfigError(f"There is no recipe '{name}'. Recipes that come with patch2tissue: {known}.")
    return path

"""The model card: README.md with the front matter that Hugging Face reads, made from what the run folder holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

UNSPECIFIED = "other"
"""Licence of a model for which none was named."""

_OF_THE_HUB = frozenset(
    {
        *("apache-2.0", "mit", "isc", "bsd-2-clause", "bsd-3-clause", "mpl-2.0", "unlicense", "cc0-1.0"),
        *("cc-by-4.0", "cc-by-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"),
        *("gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "agpl-3.0"),
    }
)
"""Licences that Hugging Face knows by these names; it calls all others `other` and takes their name beside."""

_SCORES = {
    "miou": "mean IoU",
    "fwiou": "frequency-weighted IoU",
    "acc": "pixel accuracy",
    "dice": "mean Dice",
    "boundary_f_2px": "boundary F, 2 px",
    "boundary_f_5px": "boundary F, 5 px",
    "ece": "expected calibration error",
}


def model_card(description: Mapping[str, Any], facts: Mapping[str, Any], files: Mapping[str, Any]) -> str:
    """Text of README.md.

    Args:
        description: see `describe_model`.
        facts: see `run_facts`; what is None there is said to be unknown.
        files: of each format, what was written and measured.
    """
    environment = Environment(
        loader=PackageLoader("patch2tissue.export"),
        autoescape=False,  # Markdown; what users named goes through `cell`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = cell
    environment.filters["percent"] = _percent
    scores = facts["scores"]
    shown = {label: scores[key] for key, label in _SCORES.items() if key in scores} if scores else {}
    text = environment.get_template("model_card.md.j2").render(
        model=description,
        facts=facts,
        files=files,
        scores=scores,
        shown=shown,
        unspecified=description["licence"] == UNSPECIFIED,
    )
    return f"---\n{_front_matter(description, files, scored=scores is not None)}---\n\n{text}"


def _front_matter(description: Mapping[str, Any], files: Mapping[str, Any], *, scored: bool) -> str:
    """YAML that Hugging Face reads; `metrics` only where scores are told."""
    licence = description["licence"]
    known = re.sub("-(only|or-later)$", "", licence.lower())
    plain: dict[str, Any] = {"license": known if known in _OF_THE_HUB else UNSPECIFIED}
    if plain["license"] == UNSPECIFIED:
        plain["license_name"] = "unspecified" if licence == UNSPECIFIED else licence.lower()
    plain |= {"library_name": "patch2tissue", "pipeline_tag": "image-segmentation"}
    tags = ["histopathology", "pathology", "semantic-segmentation", "weakly-supervised", "h-and-e"]
    plain["tags"] = tags + [name for name in ("onnx", "monai", "tiatoolbox") if any(name in key for key in files)]
    if scored:
        plain["metrics"] = ["mean_iou"]
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def cell(value: object) -> str:
    """A text of a user's as Markdown that shows it, in one line of a table."""
    text = re.sub(r"\s+", " ", str(value))
    return re.sub(r"([\\`*_{}\[\]<>#|~&!$])", r"\\\1", text)


def _percent(value: object) -> str:
    """A fraction in percent, `–` where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–"
    return f"{100 * value:.1f} %"

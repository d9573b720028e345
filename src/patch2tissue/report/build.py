"""Writing the report: one HTML file with everything in it, readable without a network."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape
from markupsafe import Markup

from patch2tissue import __version__
from patch2tissue.atomic import write_text
from patch2tissue.config import RegionSource, SyntheticSource
from patch2tissue.report.accumulation import accumulation_view
from patch2tissue.report.curves import curve_groups
from patch2tissue.report.gallery import prediction_gallery, pseudo_label_gallery
from patch2tissue.report.names import STAGES
from patch2tissue.report.overview import cards, interval_note, overview_chart
from patch2tissue.report.record import RunRecord, read_run
from patch2tissue.report.style import series_variable
from patch2tissue.report.tables import confusions, data_summary, score_tables, tissue_areas, tissue_tables
from patch2tissue.run_folder import RunFolder


def build_report(run: RunFolder) -> Path:
    """Write `report.html` of a run.

    Args:
        run: a run folder; whatever part of it is there is shown, and what is missing is named.

    Returns:
        The file.

    Raises:
        DataError: if it is no run folder, or a file in it is damaged.
    """
    record = read_run(run)
    page = _template().render(_context(record))
    write_text(run.report_file, page)
    return run.report_file


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("patch2tissue.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def _context(record: RunRecord) -> dict[str, Any]:
    """Everything the template names."""
    config = record.config
    style = (resources.files("patch2tissue.report") / "templates" / "report.css").read_text(encoding="utf-8")
    return {
        "run_name": record.run.path.resolve().name,
        "record": record,
        "config": config,
        "tissues": record.tissues,
        "style": Markup(style),
        "version": __version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "synthetic": isinstance(config.data.source, SyntheticSource),
        "regions": isinstance(config.data.source, RegionSource),
        "cards": cards(record),
        "interval_note": interval_note(record),
        "areas": tissue_areas(record),
        "overview": overview_chart(record),
        "data": data_summary(record),
        "curves": curve_groups(record),
        "accumulation": accumulation_view(record),
        "pseudo": pseudo_label_gallery(record),
        "predictions": prediction_gallery(record),
        "score_tables": score_tables(record),
        "tissue_tables": tissue_tables(record),
        "confusions": confusions(record),
        "config_text": yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        "environment_rows": _environment_rows(record),
        "command": _command(record),
        "series_variable": series_variable,
        "supervision": str(record.scores.get("supervision", "image-level labels")),
    }


def _environment_rows(record: RunRecord) -> list[tuple[str, str]]:
    """Versions and machine, flattened."""
    rows: list[tuple[str, str]] = []
    for key, value in record.environment.items():
        if key == "command":
            continue
        if key == "resumed":
            rows.append(("went on in other environments", f"{len(value)}, see environment.json"))
        elif isinstance(value, dict):
            rows.extend((str(name), str(version)) for name, version in value.items())
        else:
            rows.append((str(key).replace("_", " "), value if isinstance(value, str) else json.dumps(value)))
    for stage, curves in record.curves.items():
        speeds = sorted(value for _, value in curves.get("patches_per_second", []))
        if speeds:
            rows.append(
                (f"{STAGES[stage]}, patches per second", f"{speeds[len(speeds) // 2]:.1f} (median of the epochs)")
            )
    return rows


def _command(record: RunRecord) -> str | None:
    """The command that made the run, as typed."""
    words = record.environment.get("command")
    if not isinstance(words, list) or not words:
        return None
    # started as `python -m patch2tissue`
    name = "patch2tissue" if words[0] == "__main__.py" else str(words[0])
    return shlex.join([name, *(str(word) for word in words[1:])])

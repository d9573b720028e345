"""What comes out of a slide."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from patch2tissue.atomic import write_text
from patch2tissue.data.tables import write_table
from patch2tissue.inference.familiarity import Familiarity, unlike_training

COLUMNS = ("slide", "tissue", "pixels", "share", "area_mm2", "perimeter_mm", "pieces")


@dataclass(frozen=True)
class SlideArea:
    """One tissue on one slide.

    Attributes:
        tissue: its name.
        pixels: of the map.
        share: of all map pixels that hold a tissue, 0..1.
        area_mm2: counted on the map's pixels.
        perimeter_mm: length of the outlines as they are in the GeoJSON, holes included; None if none was written.
        pieces: connected regions; None likewise.
    """

    tissue: str
    pixels: int
    share: float
    area_mm2: float
    perimeter_mm: float | None = None
    pieces: int | None = None


@dataclass(frozen=True)
class SlideResult:
    """What became of one slide.

    Attributes:
        slide: the file.
        status: `done`, `failed`, or `busy` if another process works on it.
        error: why it failed, None if it did not.
        files: what was written, by kind: `classes`, `geojson`, `overlay`, `tissue`, `areas_csv`, `areas_json`,
            `confidence`, `probabilities`.
        areas: one per tissue.
        size: (width, height) of the map in pixels.
        um_per_pixel: (x, y) of the map.
        tiles: tiles that went through the network.
        seconds: of this call.
        map_seconds: of them, until the map was drawn; polygons and other files come after. None if nothing was
            predicted.
        waiting_share: share of the network's time in which it waited for pixels; None if nothing was predicted.
        no_room: whether it failed for want of room on the disk, and so is no fault of the slide.
        familiarity: whether it looks like the training patches; None if that is not known.
    """

    slide: Path
    status: str
    error: str | None = None
    files: dict[str, Path] | None = None
    areas: tuple[SlideArea, ...] = ()
    size: tuple[int, int] | None = None
    um_per_pixel: tuple[float, float] | None = None
    tiles: int = 0
    seconds: float = 0.0
    map_seconds: float | None = None
    waiting_share: float | None = None
    no_room: bool = False
    familiarity: Familiarity | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain form for JSON; `from_dict` reads it back."""
        plain = asdict(self)
        plain["slide"] = str(self.slide)
        plain["familiarity"] = None if self.familiarity is None else self.familiarity._asdict()
        plain["files"] = {kind: str(path) for kind, path in (self.files or {}).items()}
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> SlideResult:
        """Read the plain form.

        Raises:
            KeyError, TypeError, ValueError: if it is not one.
        """
        kept = dict(plain)
        kept["slide"] = Path(plain["slide"])
        kept["files"] = {kind: Path(path) for kind, path in plain["files"].items()}
        kept["areas"] = tuple(SlideArea(**area) for area in plain["areas"])
        known = plain.get("familiarity")
        kept["familiarity"] = None if known is None else Familiarity(**known)
        for name in ("size", "um_per_pixel"):
            kept[name] = None if plain[name] is None else tuple(plain[name])
        return cls(**kept)


def write_slide_areas(path: Path, results: Iterable[SlideResult]) -> None:
    """Write areas as CSV, one row per slide and tissue."""

    def row(result: SlideResult, area: SlideArea) -> list[object]:
        perimeter = "" if area.perimeter_mm is None else f"{area.perimeter_mm:.6f}"
        pieces = "" if area.pieces is None else area.pieces
        shares = (area.pixels, f"{area.share:.6f}", f"{area.area_mm2:.8f}")
        return [result.slide.name, area.tissue, *shares, perimeter, pieces]

    write_table(path, COLUMNS, (row(result, area) for result in results for area in result.areas))


def write_areas_json(path: Path, result: SlideResult) -> None:
    """Write one slide's areas with the map's size and resolution."""
    plain = {
        "slide": result.slide.name,
        "width": None if result.size is None else result.size[0],
        "height": None if result.size is None else result.size[1],
        "um_per_pixel": result.um_per_pixel,
        "familiarity": None if result.familiarity is None else result.familiarity._asdict(),
        "tissues": {area.tissue: {k: v for k, v in asdict(area).items() if k != "tissue"} for area in result.areas},
    }
    write_text(path, json.dumps(plain, indent=2, ensure_ascii=False) + "\n")


def write_summary(path: Path, results: Iterable[SlideResult], tissues: Iterable[str]) -> None:
    """Write a table of all slides as Markdown."""
    names = list(tissues)
    lines = [
        "# Slides",
        "",
        "| slide | state | map | tiles | minutes | " + " | ".join(f"{name} (mm²)" for name in names) + " |",
        "|---|---|---|---:|---:|" + "---:|" * len(names),
    ]
    failed: list[str] = []
    unlike: list[str] = []
    for result in results:
        by_name = {area.tissue: area for area in result.areas}
        found = [by_name.get(name) for name in names]
        areas = ["" if area is None else f"{area.area_mm2:.3f} ({area.share:.0%})" for area in found]
        size = "" if result.size is None else f"{result.size[0]} × {result.size[1]}"
        lines.append(
            f"| {_cell(result.slide.name)} | {result.status} | {size} | {result.tiles or ''} | "
            f"{result.seconds / 60:.1f} | " + " | ".join(areas) + " |"
        )
        if result.error:
            failed.append(f"- {result.error}")
        if result.familiarity is not None:
            unlike += [f"- {text}" for text in unlike_training([result.familiarity], result.slide.name, None)]
    if unlike:
        lines += ["", "## Unlike the training patches", "", *unlike]
    if failed:
        lines += ["", "## What went wrong", "", *failed]
    write_text(path, "\n".join(lines) + "\n")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")

"""Opening slides of any format, and finding them in folders, patterns and lists."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from patch2tissue.data.images import IMAGE_EXTENSIONS
from patch2tissue.data.layouts import refuse_bad_name
from patch2tissue.data.tables import shortened, table_rows
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.slides.resolution import given_resolution, missing_resolution
from patch2tissue.slides.slide import Slide, slide_name

SLIDE_EXTENSIONS = frozenset(
    {".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu", ".czi", ".dcm", ".avs", ".tif", ".tiff"}
)
"""File extensions (lower case) that are taken for slides in a folder."""

MAP_ENDINGS = ("_classes.tif", "_classes.ome.tif", "_probabilities.ome.tif", "_truth.tif")
"""Files of a folder that patch2tissue wrote about slides."""


MOST_PIXELS = 2**38
"""Most pixels of a slide's full size: four times 260,000 squared; what states more is damaged."""


@dataclass(frozen=True)
class SlideFile:
    """A slide by name: its file, and µm per pixel where a user states them."""

    path: Path
    um_per_pixel: float | None = None


def open_slide(path: Path | str, um_per_pixel: float | None = None, *, needs_resolution: bool = True) -> Slide:
    """Open a slide or a picture.

    Args:
        path: the file.
        um_per_pixel: of its full size; None: as the file tells.
        needs_resolution: whether a slide without one is an error.

    Raises:
        DataError: if the file is missing, damaged, of an unknown format, or does not tell its resolution.
        ConfigError: if the resolution that is given is none.
    """
    path = Path(path)
    given = None if um_per_pixel is None else given_resolution(um_per_pixel)
    if not path.is_file():
        what = "is a folder; name the slides in it" if path.is_dir() else "there is no such file"
        raise DataError(f"{path}: {what}.")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: is empty (0 bytes). Copy it again.")
    slide = _opened(path)
    if slide.size[0] * slide.size[1] > MOST_PIXELS:
        slide.close()
        raise DataError(
            f"{path}: states {slide.size[0]} × {slide.size[1]} pixels, which no slide has. It is damaged; copy it "
            "again."
        )
    if given is not None:
        slide.resolution = given
    if needs_resolution and slide.resolution is None:
        slide.close()
        raise missing_resolution(path)
    return slide


def _opened(path: Path) -> Slide:
    # here, so that a broken installation of one library does not hinder the others
    from patch2tissue.slides.ome_slide import OmeSlide, is_ome_tiff
    from patch2tissue.slides.openslide_slide import OpenSlideSlide, openslide_reads
    from patch2tissue.slides.picture_slide import PictureSlide

    suffix = path.suffix.lower()
    if suffix in (".tif", ".tiff") and is_ome_tiff(path):
        return OmeSlide(path)
    if openslide_reads(path):
        return OpenSlideSlide(path)
    if suffix in IMAGE_EXTENSIONS:
        return PictureSlide(path)
    raise DataError(
        f"{path}: is no slide that can be read (it is damaged, or of a format that OpenSlide does not know). Copy it "
        "again, or export it as a tiled TIFF."
    )


def find_slides(inputs: Sequence[Path | str], um_per_pixel: float | None = None) -> list[SlideFile]:
    """Expand files, folders, glob patterns and CSV lists (`wsi,mpp`); each slide once, in order.

    Args:
        inputs: what a user names. Of a folder its slides are taken, not those of folders inside, and no pictures.
        um_per_pixel: resolution of all of them; None: as a list or the file tells.

    Raises:
        DataError: if an input matches nothing, a list is wrong, or two slides have the same name.
    """
    found: dict[Path, SlideFile] = {}
    for item in inputs:
        for slide in _expanded(item):
            refuse_bad_name(slide.path)
            kept = slide if um_per_pixel is None else replace(slide, um_per_pixel=um_per_pixel)
            found.setdefault(Path(kept.path).absolute(), kept)
    if not found:
        raise DataError("No slides were given. Name files, folders, quoted patterns such as 'slides/*.svs', or a CSV.")
    names: dict[str, Path] = {}
    for slide in found.values():
        other = names.setdefault(slide_name(slide.path), slide.path)
        if other != slide.path:
            raise DataError(
                f"{slide.path}: has the same name as {other}, so that one result would replace the other. Process them "
                "into different folders."
            )
    return list(found.values())


def _expanded(item: Path | str) -> list[SlideFile]:
    path = Path(item)
    if path.is_dir():
        return [SlideFile(file) for file in _slides_in(path)]
    if path.suffix.lower() == ".csv":
        return _listed(path)
    if path.exists():
        return [SlideFile(path)]
    # not Path.glob, which takes no absolute pattern
    matches = sorted(Path(match) for match in glob.glob(str(item)) if Path(match).is_file())  # noqa: PTH207
    if not matches:
        raise DataError(f"{item}: there is no such file or folder, and no slide matches it as a pattern.")
    return [SlideFile(match) for match in matches]


def _slides_in(folder: Path) -> list[Path]:
    files = sorted(
        file
        for file in folder.iterdir()
        if file.is_file() and not file.name.startswith(".") and file.suffix.lower() in SLIDE_EXTENSIONS
    )
    # our own maps, and the truth of synthetic slides, are no slides
    files = [file for file in files if not file.name.endswith(MAP_ENDINGS)]
    # the files of one folder are one DICOM slide, which any of them opens
    dicom = [file for file in files if file.suffix.lower() == ".dcm"]
    files = [file for file in files if file not in dicom[1:]]
    if not files:
        raise DataError(f"{folder}: holds no slides ({', '.join(sorted(SLIDE_EXTENSIONS))}).")
    return files


def _listed(path: Path) -> list[SlideFile]:
    """Slides of a CSV with the columns wsi and, if it is known, mpp."""
    rows = table_rows(path)
    header = [cell.strip().lower() for cell in next(rows, (1, []))[1]]
    if header.count("wsi") != 1 or header.count("mpp") > 1:
        raise DataError(f"{path}, line 1: has no column 'wsi'. The first line must read wsi,mpp (mpp is optional).")
    found = []
    for number, row in rows:
        cells = dict(zip(header, (cell.strip() for cell in row), strict=False))
        name, value = cells.get("wsi", ""), cells.get("mpp", "")
        if not name:
            continue
        if "\0" in name:
            raise DataError(f"{path}, line {number}: holds a NUL character. Save it as 'CSV UTF-8' again.")
        try:
            um_per_pixel = float(value.replace(",", ".")) if value else None
        except ValueError:
            raise DataError(
                f"{path}, line {number}: '{shortened(value)}' is no number of µm per pixel. Leave it empty if you do "
                "not know it."
            ) from None
        if um_per_pixel is not None:
            try:
                given_resolution(um_per_pixel)
            except ConfigError as error:
                raise ConfigError(f"{path}, line {number}: {error}") from None
        found.append(SlideFile(path.parent / name, um_per_pixel))
    if not found:
        raise DataError(f"{path}: lists no slides. Below wsi,mpp comes a line for each slide.")
    return found

"""One function per parser: takes any bytes, and raises if the parser does anything but read them or refuse them.

To refuse is to raise one of the program's own errors, with a text. What was read must come back the same from what is
written of it, where there is a writer.
"""

from __future__ import annotations

import atexit
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from patch2tissue.config import config_from_dict, load_config
from patch2tissue.data.labels import NAME_LAYOUTS, format_name, layout_of, parse_label, patient_of, slide_of
from patch2tissue.data.labels_csv import scan_labels_csv
from patch2tissue.data.tables import TableWriter
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.plain_yaml import parse_yaml
from patch2tissue.slides.geojson import read_geojson, validate_qupath
from patch2tissue.slides.opening import find_slides
from patch2tissue.tissues import load_tissue_set, tissue_set_from_dict

GLAS = load_tissue_set("glas")

_FOLDER = Path(tempfile.mkdtemp(prefix="patch2tissue-fuzz-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


def _file(name: str, content: bytes) -> Path:
    path = _FOLDER / name
    path.write_bytes(content)
    return path


def _refused(error: Exception, path: Path) -> None:
    if str(path) not in str(error):
        raise AssertionError(f"the message does not name the file: {error}")


def label_names(content: bytes) -> None:
    """Labels, patients and slides in file names."""
    stem = content.decode("utf-8", errors="surrogateescape")
    for layout in NAME_LAYOUTS:
        try:
            labels = parse_label(stem, layout, GLAS)
        except DataError as error:
            assert stem in str(error)
            continue
        if labels is not None:
            assert len(labels) == len(GLAS) and set(labels) <= {0, 1}
            assert layout_of(stem) == layout
            assert parse_label(format_name(stem, labels, layout), layout, GLAS) == labels
    for told in (patient_of(stem), slide_of(stem)):
        assert told is None or (told and stem.startswith(told))


def label_table(content: bytes) -> None:
    """Tables of labels; a table that can be read is read the same when it is written anew."""
    path = _file("labels.csv", content)
    try:
        labels, problems = scan_labels_csv(path, GLAS)
    except DataError as error:
        _refused(error, path)
        return
    assert all(problem.startswith(f"{path}, line ") for problem in problems)
    buffer = io.StringIO()
    writer = TableWriter(buffer)
    writer.writerow(["path", *GLAS.names])
    writer.writerows([str(image), *values] for image, values in labels.items())
    again, problems = scan_labels_csv(_file("again.csv", buffer.getvalue().encode()), GLAS)
    assert again == labels and not problems


def slide_list(content: bytes) -> None:
    """Lists of slides with their resolution."""
    path = _file("slides.csv", content)
    try:
        found = find_slides([path])
    except (ConfigError, DataError) as error:
        assert str(_FOLDER) in str(error)
        return
    assert found and all(slide.um_per_pixel is None or 0 < slide.um_per_pixel < 1000 for slide in found)


def configuration(content: bytes) -> None:
    """Recipes; one that is valid is the same when it is written and read."""
    path = _file("config.yaml", content)
    try:
        config = load_config(path)
    except ConfigError as error:
        assert str(error)
        return
    assert config_from_dict(parse_yaml(config.to_yaml())) == config


def tissue_set(content: bytes) -> None:
    """Tissue sets; likewise."""
    path = _file("tissues.yaml", content)
    try:
        found = load_tissue_set(path)
    except ConfigError as error:
        _refused(error, path)
        return
    assert tissue_set_from_dict(json.loads(json.dumps(found.to_dict()))) == found


def geojson(content: bytes) -> None:
    """Annotations."""
    path = _file("a.geojson", content)
    try:
        found = read_geojson(path)
    except DataError as error:
        _refused(error, path)
        return
    assert all(shape.is_valid and shape.area > 0 for _, shape in found)
    validate_qupath(path)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (label_names, label_table, slide_list, configuration, tissue_set, geojson)
}
"""Targets by name."""

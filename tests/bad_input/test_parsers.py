"""Any text is read or refused by the program's own errors, and what is written is read back."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from fuzz.seeds import CORPUS as SEEDS
from fuzz.seeds import seeds, words, write_seeds, write_words
from fuzz.targets import TARGETS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.bad_input.bad_images import encoded

from patch2tissue.config import RunConfig, config_from_dict
from patch2tissue.data.labels_csv import read_labels_csv
from patch2tissue.data.tables import TableWriter
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.labelling.exchange import export_table
from patch2tissue.labelling.pool import find_pool
from patch2tissue.labelling.store import DATABASE, Answer, LabelStore
from patch2tissue.plain_yaml import MOST_VALUES, parse_yaml
from patch2tissue.slides.geojson import read_geojson
from patch2tissue.tissues import BUILT_IN, tissue_set_from_dict

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def _texts(target: str) -> st.SearchStrategy[bytes]:
    """Any bytes, words of the language in any order, and seeds of which a part is something else."""
    part = st.sampled_from(words()[target]) | st.sampled_from(["\n", ",", ";", ":", " ", "{", "}", "[", "]", '"', "\\"])
    mixed = st.lists(part, max_size=30).map(lambda parts: "".join(parts).encode("utf-8", "surrogatepass"))

    def damaged(drawn: tuple[bytes, int, int, bytes]) -> bytes:
        seed, start, length, new = drawn
        start %= len(seed)
        return seed[:start] + new + seed[start + length :]

    cut = st.tuples(st.sampled_from(seeds()[target]), st.integers(0, 5000), st.integers(0, 40), st.binary(max_size=12))
    return st.binary(max_size=60) | mixed | cut.map(damaged)


@pytest.mark.parametrize("target", sorted(TARGETS))
@QUICK
@given(data=st.data())
def test_any_text_is_read_or_refused(target: str, data: st.DataObject) -> None:
    TARGETS[target](data.draw(_texts(target)))


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_seeds_of_the_fuzzer(target: str, tmp_path: Path) -> None:
    committed = sorted((SEEDS / target).iterdir())
    write_seeds(tmp_path)
    assert [file.read_bytes() for file in committed] == [
        file.read_bytes() for file in sorted((tmp_path / target).iterdir())
    ], "run `python -m fuzz.seeds`"
    for file in committed:
        TARGETS[target](file.read_bytes())
    write_words(tmp_path / "words", target)
    assert len((tmp_path / "words").read_text("utf-8").splitlines()) == len(words()[target])


@settings(max_examples=50, deadline=None)
@given(plain=_PLAIN)
def test_yaml_of_plain_values_is_read_back(plain: Any) -> None:
    text = yaml.safe_dump(plain, allow_unicode=True)
    try:
        found = parse_yaml(text)
    except ValueError as error:
        assert "NUL" in str(error) or "half a character" in str(error) or "twice" in str(error), text
    else:
        assert yaml.safe_dump(found) == yaml.safe_dump(yaml.safe_load(text))


@settings(max_examples=40, deadline=None)
@given(levels=st.integers(1, 8), width=st.integers(1, 12))
def test_anchors_are_counted_as_what_they_stand_for(levels: int, width: int) -> None:
    lines = ["a0: &a0 [x]"]
    lines += [f"a{k}: &a{k} [{','.join([f'*a{k - 1}'] * width)}]" for k in range(1, levels)]
    size, total = 2, 1 + 1 + 2  # of a list; of the mapping, its first key and that list
    for _ in range(1, levels):
        size = 1 + width * size
        total += 1 + size
    if total <= MOST_VALUES:
        assert len(parse_yaml("\n".join(lines))) == levels
    else:
        with pytest.raises(ValueError, match="more than 20000 values"):
            parse_yaml("\n".join(lines))


_OPTIONS = st.dictionaries(st.from_regex("[ab]{1,3}"), _PLAIN, max_size=2)
_FIELDS = {
    "seed": st.integers(0, 2**63 - 1),
    "craanet": st.fixed_dictionaries(
        {},
        optional={
            "epochs": st.integers(1, 10**9),
            "learning_rate": st.floats(1e-9, 1e9),
            "temperatures": st.lists(st.floats(0.5, 8) | st.just(float("inf")), min_size=1, max_size=3),
            "encoder": st.fixed_dictionaries(
                {"options": st.dictionaries(st.from_regex("[a-b]{1,3}"), _PLAIN, max_size=2)}
            ),
        },
    ),
    "tissues": st.sampled_from([*BUILT_IN, *(tissues.to_dict() for tissues in BUILT_IN.values())]),
}


@QUICK
@given(given=st.fixed_dictionaries({}, optional=_FIELDS))
def test_a_valid_recipe_is_read_back(given: dict[str, Any]) -> None:
    try:
        config = config_from_dict({"output": "o", "tissues": "glas", "data": {"path": "d"}, **given})
    except ConfigError:
        return
    try:
        again = config_from_dict(parse_yaml(config.to_yaml()))
    except ValueError as error:  # of what is written of options that nobody can have written
        assert "NUL" in str(error) or "half a character" in str(error)
    else:
        assert again.model_dump(mode="json") == config.model_dump(mode="json")


@QUICK
@given(plain=_PLAIN | st.dictionaries(st.sampled_from(sorted(RunConfig.model_fields)), _PLAIN, max_size=4))
def test_any_plain_value_is_a_recipe_or_none(plain: Any) -> None:
    for build in (config_from_dict, tissue_set_from_dict):
        try:
            build(plain)
        except ConfigError as error:
            assert str(error)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=2), min_size=1))
def test_tables_that_are_written_are_read_back(rows: list[list[str]]) -> None:
    buffer = io.StringIO(newline="")
    TableWriter(buffer).writerows(rows)
    assert list(csv.reader(io.StringIO(buffer.getvalue(), newline=""), strict=True)) == rows


@pytest.mark.parametrize(
    "name", ["a\rb.png", "a\nb.png", " a.png", 'a"b.png', "a,b;c.png", "a\\b.png", "a\u2028b.png", "=1+1.png"]
)
def test_labels_of_any_name_come_back_from_an_export(tmp_path: Path, name: str) -> None:
    # a carriage return in a name was found by fuzzing
    (tmp_path / name).write_bytes(encoded("PNG"))
    pool = find_pool(tmp_path)
    with LabelStore(tmp_path / DATABASE, BUILT_IN["glas"]) as store:
        store.add([Answer("1", pool[0].path, "Ada", "labelled", (1, 0))])
        export_table(store, tmp_path, pool)
    assert read_labels_csv(tmp_path / "labels.csv", BUILT_IN["glas"]) == {tmp_path / name: (1, 0)}


@QUICK
@given(plain=_PLAIN, kind=st.sampled_from(["Polygon", "MultiPolygon", "GeometryCollection", "Point", "Circle"]))
def test_any_geometry_is_an_area_or_none(tmp_path: Path, plain: Any, kind: str) -> None:
    path = tmp_path / "a.geojson"
    for geometry in ({"type": kind, "coordinates": plain}, {"type": kind, "geometries": plain}, plain):
        path.write_text(json.dumps({"type": "Feature", "geometry": geometry, "properties": plain}))
        try:
            found = read_geojson(path)
        except DataError as error:
            assert str(path) in str(error)
        else:
            assert all(shape.is_valid and shape.area > 0 for _, shape in found)

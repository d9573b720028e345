from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patch2tissue.errors import ConfigError
from patch2tissue.inference.slides.parts import Part
from patch2tissue.slides.opening import SlideFile


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[SlideFile]:
    folder = tmp_path_factory.mktemp("parts")
    found = []
    for number, size in enumerate([900, 10, 20, 30, 500, 10, 10, 400, 20]):
        path = folder / f"{number}.svs"
        path.write_bytes(bytes(size))
        found.append(SlideFile(path))
    return [*found, SlideFile(folder / "missing.svs")]


@given(of=st.integers(1, 14))
def test_parts_hold_each_slide_once_and_in_order(files: list[SlideFile], of: int) -> None:
    parts = [Part(number, of).of_slides(files) for number in range(1, of + 1)]
    assert sorted(file.path for part in parts for file in part) == sorted(file.path for file in files)
    for part in parts:
        places = [files.index(file) for file in part]
        assert places == sorted(places)


def test_parts_have_about_as_many_bytes(files: list[SlideFile]) -> None:
    def held(number: int) -> int:
        return sum(file.path.stat().st_size for file in Part(number, 2).of_slides(files) if file.path.exists())

    assert {held(1), held(2)} == {950}


def test_slides_of_one_size_are_dealt_out(tmp_path: Path) -> None:
    files = [SlideFile(tmp_path / f"{number}.svs") for number in range(10)]
    assert [len(Part(number, 4).of_slides(files)) for number in range(1, 5)] == [3, 3, 2, 2]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "-1/3", "1/0", "1/3/5", ""])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(ConfigError, match="--part"):
        Part.parse(text)


def test_names_sort_like_their_numbers() -> None:
    assert Part.parse("7/100") == Part(7, 100) and Part(7, 100).name == "part-007-of-100"

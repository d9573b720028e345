"""Maps drawn in strips against maps drawn in one piece."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.inference.slides.test_mapping import TISSUES, in_batches, noise, tiles_of

from patch2tissue.errors import DataError
from patch2tissue.inference.cohort.strips import (
    Strip,
    draw_strip,
    halo_start,
    is_drawn,
    join_strips,
    pixel_rows,
    split,
)
from patch2tissue.inference.familiarity import Familiarity
from patch2tissue.inference.slides.mapping import MapFiles, map_slide
from patch2tissue.inference.slides.outputs import OutputOptions
from patch2tissue.inference.slides.plan import TilePlan, plan_tiles
from patch2tissue.inference.slides.steps import raster_shapes
from patch2tissue.slides.rows import RowFile
from patch2tissue.slides.tissue_mask import TissueMask
from patch2tissue.tissues import Background, TissueSet

WHITE = TissueSet("white", TISSUES.tissues, Background(3, white_above=140))
KINDS = {"classes.raw": "classes", "probabilities.raw": "probabilities", "confidence.raw": "confidence"}


def planned(image: np.ndarray, tile: int, overlap: float, seed: int | None) -> tuple[TilePlan, TissueMask]:
    height, width = image.shape[:2]
    mask = np.ones((1, 1), bool) if seed is None else np.random.default_rng(seed).random((9, 7)) < 0.35
    tissue = TissueMask(mask, (width / mask.shape[1], height / mask.shape[0]), "drawn")
    return plan_tiles((width, height), tile, overlap, tissue, (1.0, 1.0)), tissue


def drawn_whole(folder: Path, image: np.ndarray, plan: TilePlan, tissue: TissueMask, batch: int) -> dict[str, bytes]:
    shapes = raster_shapes(*image.shape[:2], 3, OutputOptions(probabilities=True))
    folder.mkdir(parents=True)
    files = {name: RowFile(folder / name, shape, create=True) for name, shape in shapes.items()}
    rasters = MapFiles(folder, files["classes.raw"], files["probabilities.raw"], files["confidence.raw"])
    map_slide(
        tiles_of(image, plan), in_batches, plan, rasters, WHITE, tissue, (1.0, 1.0), batch_size=batch, temperature=1.3
    )
    return {name: file.read(0, image.shape[0]).tobytes() for name, file in files.items()}


def draw(folder: Path, strip: Strip, image: np.ndarray, plan: TilePlan, tissue: TissueMask, batch: int, **options):
    shapes = raster_shapes(*image.shape[:2], 3, OutputOptions(probabilities=True))
    network = options.pop("network", in_batches)
    return draw_strip(strip, folder, shapes, tiles_of(image, plan), network, plan, WHITE, tissue, (1.0, 1.0),
                      batch_size=batch, temperature=1.3, **options)  # fmt: skip


def joined(folder: Path, strips: list[Strip], image: np.ndarray, plan: TilePlan):
    shapes = raster_shapes(*image.shape[:2], 3, OutputOptions(probabilities=True))
    return join_strips(folder, strips, plan, shapes)


@settings(max_examples=6, deadline=None)
@example(height=90, width=70, tile=16, overlap=0.25, batch=5, seed=None, tiles=6, backwards=False)
@example(height=90, width=50, tile=20, overlap=0.7, batch=4, seed=3, tiles=8, backwards=True)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 70),
    tile=st.integers(12, 40),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.7]),
    batch=st.integers(1, 7),
    seed=st.one_of(st.none(), st.integers(0, 99)),
    tiles=st.integers(2, 12),
    backwards=st.booleans(),
)
def test_strips_give_the_map_of_one_piece_to_the_byte(
    tmp_path_factory: pytest.TempPathFactory,
    height: int,
    width: int,
    tile: int,
    overlap: float,
    batch: int,
    seed: int | None,
    tiles: int,
    backwards: bool,
) -> None:
    image, folder = noise(height, width), tmp_path_factory.mktemp("map")
    plan, tissue = planned(image, tile, overlap, seed)
    expected = drawn_whole(folder / "whole", image, plan, tissue, batch)
    strips = split(plan, tiles, least_rows=1)
    for strip in reversed(strips) if backwards else strips:
        draw(folder / "strips", strip, image, plan, tissue, batch)
    found, records = joined(folder / "strips", strips, image, plan)
    assert len(records) == len(strips)
    for name, kind in KINDS.items():
        rows = getattr(found, kind)
        assert rows.read(0, height).tobytes() == expected[name], name
        # in pieces that do not end where strips do
        pieces = [rows.read(top, min(height, top + 7)) for top in range(0, height, 7)]
        assert np.concatenate(pieces).tobytes() == expected[name], name


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 70), columns=st.integers(1, 30), tiles=st.integers(1, 200), least=st.integers(1, 9),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_split_covers_every_row_once_in_parts_of_like_work(
    rows: int, columns: int, tiles: int, least: int, seed: int
) -> None:
    present = np.random.default_rng(seed).random((rows, columns)) < 0.6
    plan = TilePlan(rows * 10, columns * 10, (10, 10), tuple(range(0, rows * 10, 10)),
                    tuple(range(0, columns * 10, 10)), present)  # fmt: skip
    strips = split(plan, tiles, least)
    assert [row for strip in strips for row in range(strip.first, strip.end)] == list(range(rows))
    work = [int(present[strip.first : strip.end].sum()) for strip in strips]
    per_row = present.sum(axis=1)
    for strip, count in zip(strips, work, strict=True):
        assert len(strips) == 1 or strip.end - strip.first >= least
        # at most one and a half times what was asked for, the row that reached it, rows that must be in it, and those
        # left over that are too few for a strip
        assert count < 1.5 * tiles + per_row.max() + 2 * least * columns
    assert all(count >= tiles for count in work[:-1])


def test_halo_holds_the_rows_that_reach_into_a_strip() -> None:
    image = noise(200, 30)
    for overlap, above in ((0.0, 0), (0.25, 1), (0.5, 1), (0.75, 3)):
        plan, _ = planned(image, 16, overlap, None)
        strip = Strip(5, 7)
        assert halo_start(plan, strip) == 5 - above, overlap
        assert halo_start(plan, Strip(0, 5)) == 0
        assert pixel_rows(plan, strip) == (plan.tops[5], plan.tops[7])


def test_only_the_tiles_of_a_strip_and_its_halo_are_drawn(tmp_path: Path) -> None:
    image = noise(200, 60)
    plan, tissue = planned(image, 16, 0.25, None)
    strip = Strip(6, 9)
    asked: list[tuple[int, int]] = []

    def tiles(start: int, stop: int):
        asked.append((start, stop))
        return tiles_of(image, plan)(start, stop)

    shapes = raster_shapes(200, 60, 3, OutputOptions())
    draw_strip(strip, tmp_path, shapes, tiles, in_batches, plan, WHITE, tissue, (1.0, 1.0), batch_size=4)
    across = len(plan.lefts)
    ((start, stop),) = asked
    assert 5 * across - 4 < start <= 5 * across and 9 * across <= stop < 9 * across + 4
    assert start % 4 == 0


def test_a_strip_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    image = noise(80, 60)
    plan, tissue = planned(image, 16, 0.25, None)
    strips = split(plan, 8, least_rows=1)

    def dies(tiles: np.ndarray) -> np.ndarray:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        draw(tmp_path, strips[1], image, plan, tissue, 3, network=dies)
    assert not is_drawn(tmp_path, strips[1]) and list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="is no raster"):
        joined(tmp_path, strips, image, plan)
    known = Familiarity(0.25, 0.5)
    record = draw(tmp_path, strips[1], image, plan, tissue, 3, worker="here:1", attempts=2, familiarity=known)
    assert is_drawn(tmp_path, strips[1])
    # another that was slower finds it there and leaves it
    draw(tmp_path, strips[1], image, plan, tissue, 3, worker="there:2")
    for strip in (strips[0], *strips[2:]):
        draw(tmp_path, strip, image, plan, tissue, 3)
    _, records = joined(tmp_path, strips, image, plan)
    assert records[1] == record and records[1].worker == "here:1" and records[1].familiarity == known
    assert sorted(path.name for path in tmp_path.iterdir()) == [strip.name for strip in strips]
    (tmp_path / strips[1].name / "strip.json").write_text("[]")
    with pytest.raises(DataError, match="does not describe a strip"):
        joined(tmp_path, strips, image, plan)

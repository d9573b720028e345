"""Maps of slides against whole-image prediction, and after interruptions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patch2tissue.inference.slides.mapping import MapFiles, map_slide
from patch2tissue.inference.slides.plan import TilePlan, plan_tiles
from patch2tissue.inference.tiling import predict_tiled
from patch2tissue.slides.rows import RowFile
from patch2tissue.slides.tissue_mask import TissueMask
from patch2tissue.tissues import IGNORE_INDEX, Background, Tissue, TissueSet

K = 3
TISSUES = TissueSet("abc", tuple(Tissue(name, name.upper(), (40 * k, 0, 0)) for k, name in enumerate("abc")))


def network(images: torch.Tensor) -> torch.Tensor:
    """Probabilities that depend on a pixel's place in its tile, as those of a network with padding do."""
    height, width = images.shape[-2:]
    y = torch.linspace(-1, 1, height)[:, None].square()
    x = torch.linspace(-1, 1, width)[None].square()
    logits = torch.cat([images, images.flip(1)], dim=1)[:, :K] * 6 + 0.5 * (x + y)
    logits[:, 1] -= 2 * x * y
    return torch.softmax(logits, dim=1)


def in_batches(tiles: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network(torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255).numpy()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def everywhere(image: np.ndarray) -> TissueMask:
    return TissueMask(np.ones((1, 1), bool), (float(image.shape[1]), float(image.shape[0])), "everywhere")


def tiles_of(image: np.ndarray, plan: TilePlan):
    def tiles(start: int, stop: int = 2**62):
        number = 0
        for row, top in enumerate(plan.tops):
            for column in np.flatnonzero(plan.present[row]):
                if start <= number < stop:
                    left = plan.lefts[column]
                    yield number, row, int(column), image[top : top + plan.tile[0], left : left + plan.tile[1]]
                number += 1

    return tiles


def make_map(folder: Path, image: np.ndarray, tile: int, overlap: float, tissue: TissueMask, **options):
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan_tiles((image.shape[1], image.shape[0]), tile, overlap, tissue, (1.0, 1.0))
    tissues = options.pop("tissues", TISSUES)
    files = MapFiles(
        folder,
        RowFile(folder / "classes.raw", image.shape[:2], create=True),
        RowFile(folder / "probabilities.raw", (*image.shape[:2], K), create=True),
    )
    batch_size = options.pop("batch_size", 3)
    map_slide(tiles_of(image, plan), options.pop("network", in_batches), plan, files, tissues, tissue, (1.0, 1.0),
              batch_size=batch_size, **options)  # fmt: skip
    assert files.probabilities is not None
    return files.classes.read(0, image.shape[0]), files.probabilities.read(0, image.shape[0]), plan


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    tile=st.integers(8, 40),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.7]),
    batch_size=st.integers(1, 7),
)
def test_map_equals_the_prediction_of_one_picture(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, tile: int, overlap: float, batch_size: int
) -> None:
    image = noise(height, width)
    whole = predict_tiled(network, image, tile=tile, overlap=overlap, multiple=1)
    found, probabilities, _ = make_map(
        tmp_path_factory.mktemp("map"), image, tile, overlap, everywhere(image), batch_size=batch_size
    )
    # the order of additions is the same, so that the map is, too
    np.testing.assert_array_equal(found, whole.argmax(axis=0))
    assert np.abs(probabilities / 255 - whole.transpose(1, 2, 0)).max() <= 0.5 / 255 + 1e-6


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), overlap=st.sampled_from([0.0, 0.25, 0.6]))
def test_tiles_without_tissue_are_left_out(tmp_path_factory: pytest.TempPathFactory, seed: int, overlap: float) -> None:
    image = noise(70, 83, seed)
    rng = np.random.default_rng(seed)
    mask = rng.random((7, 8)) < 0.3
    tissue = TissueMask(mask, (83 / 8, 10.0), "drawn")
    found, _, plan = make_map(tmp_path_factory.mktemp("map"), image, 16, overlap, tissue)
    inside = tissue.region((0, 70), (0, 83), (1.0, 1.0))
    assert (found[~inside] == IGNORE_INDEX).all()
    assert (found[inside] < K).all()
    # against a slow reference that adds the same tiles into arrays of the whole size
    total, weights = np.zeros((K, 70, 83), np.float32), np.zeros((70, 83), np.float32)
    from patch2tissue.inference.tiling import blending_window

    window = blending_window(16, 16).numpy()
    for _, row, column, pixels in tiles_of(image, plan)(0):
        place = (slice(plan.tops[row], plan.tops[row] + 16), slice(plan.lefts[column], plan.lefts[column] + 16))
        total[(slice(None), *place)] += in_batches(pixels[None])[0] * window
        weights[place] += window
    expected = np.where(inside & (weights > 0), total.argmax(axis=0), IGNORE_INDEX)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("fail_at", [1, 4, 8])
def test_interrupted_map_goes_on_to_the_same_bytes(tmp_path: Path, fail_at: int) -> None:
    image = noise(100, 90)
    batches: list[np.ndarray] = []

    def kept(tiles: np.ndarray) -> np.ndarray:
        batches.append(tiles)
        return in_batches(tiles)

    whole, probabilities, _ = make_map(tmp_path / "whole", image, 24, 0.25, everywhere(image), network=kept)
    done: list[int] = []
    calls = 0

    def failing(tiles: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls > fail_at:
            raise RuntimeError("the lights went out")
        return in_batches(tiles)

    with pytest.raises(RuntimeError, match="lights"):
        make_map(tmp_path / "cut", image, 24, 0.25, everywhere(image), network=failing, row_done=done.append)
    assert done == list(range(len(done)))
    again: list[np.ndarray] = []

    def watched(tiles: np.ndarray) -> np.ndarray:
        again.append(tiles)
        return in_batches(tiles)

    resumed, resumed_probabilities, _ = make_map(
        tmp_path / "cut", image, 24, 0.25, everywhere(image), network=watched, start_row=len(done)
    )
    np.testing.assert_array_equal(resumed, whole)
    np.testing.assert_array_equal(resumed_probabilities, probabilities)
    # batches hold what they held without the interruption
    for mine, theirs in zip(again[::-1], batches[::-1], strict=False):
        np.testing.assert_array_equal(mine, theirs)


def test_error_in_the_writing_thread_reaches_the_caller(tmp_path: Path) -> None:
    image = noise(60, 60)

    def full(row: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        make_map(tmp_path, image, 16, 0.25, everywhere(image), row_done=full)


def test_constant_texture_shows_no_grid(tmp_path: Path) -> None:
    image = np.full((150, 170, 3), 127, np.uint8)
    _, probabilities, plan = make_map(tmp_path, image, 32, 0.25, everywhere(image))
    inner = probabilities[32:-32, 32:-32].astype(float)
    # the network itself differs between the middle and the border of a tile by far more than neighbouring map pixels
    border = in_batches(image[None, :32, :32])[0]
    assert np.ptp(border, axis=(1, 2)).max() > 0.25
    for axis in (0, 1):
        assert np.abs(np.diff(inner, axis=axis)).max() <= 0.05 * 255
    seams = [top - 32 for top in plan.tops[1:-1] if 33 <= top < 150 - 33]
    steps = np.abs(np.diff(inner, axis=0)).mean(axis=(1, 2))
    assert steps[[seam - 1 for seam in seams]].mean() <= 2 * steps.mean() + 0.5


def test_white_background_rule(tmp_path: Path) -> None:
    tissues = TissueSet("white", TISSUES.tissues, Background(K, white_above=220))
    image = noise(80, 80) // 2
    image[:, 40:] = 250
    found, _, _ = make_map(tmp_path, image, 32, 0.25, everywhere(image), tissues=tissues)
    assert (found[:, 42:] == IGNORE_INDEX).all()
    assert (found[:, :38] < K).all()


def test_slide_without_tissue_is_empty(tmp_path: Path) -> None:
    image = noise(50, 50)
    found, probabilities, plan = make_map(
        tmp_path, image, 16, 0.25, TissueMask(np.zeros((5, 5), bool), (10.0, 10.0), "drawn")
    )
    assert plan.tiles == 0 and (found == IGNORE_INDEX).all() and not probabilities.any()

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_run import ColourNetwork, coloured, real_run, write_config

from patch2tissue.config import InferenceConfig
from patch2tissue.data.images import read_mask
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.inference import predict as module
from patch2tissue.inference import predictor as predictor_module
from patch2tissue.inference.predict import ImageResult, find_images, predict_images
from patch2tissue.inference.predictor import Predictor
from patch2tissue.tissues import load_tissue_set

BCSS = load_tissue_set("bcss-wsss")


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> ColourNetwork:
    """The network that `colour_run` predicts with."""
    found = ColourNetwork()
    monkeypatch.setattr(predictor_module, "load_pfscnet", lambda folder, device: found)
    return found


@pytest.fixture
def colour_run(tmp_path: Path, network: ColourNetwork) -> Path:
    run = write_config(tmp_path / "run", "bcss-wsss")
    (run / "pfscnet").mkdir()
    (run / "pfscnet" / "network.json").write_text("{}")
    return run


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., dict[str, np.ndarray]]:
    """Write coloured images into a folder; returns the right mask of each by name."""

    def write(folder: Path, sizes: dict[str, tuple[int, int]]) -> dict[str, np.ndarray]:
        folder.mkdir(parents=True, exist_ok=True)
        masks = {}
        for seed, (name, size) in enumerate(sizes.items()):
            image, masks[Path(name).stem] = coloured(*size, seed)
            Image.fromarray(image).save(folder / name)
        return masks

    return write


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


SIZES = {"a.png": (40, 40), "b.tif": (40, 40), "c.bmp": (40, 40), "d.png": (150, 100), "e[1 0 0 1].png": (9, 70)}


def test_masks_overlays_and_areas(
    colour_run: Path, pictures: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    masks = pictures(tmp_path / "images", SIZES)
    results = predict_images(colour_run, [tmp_path / "images"], tmp_path / "out", um_per_pixel=0.26, progress=False)
    assert [result.image.name for result in results] == sorted(SIZES)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    kinds = ("mask", "confidence", "overlay")
    assert written == {f"{stem}_{kind}.png" for stem in masks for kind in kinds} | {"areas.csv", "images.csv"}
    table = rows_of(tmp_path / "out" / "areas.csv")
    assert len(table) == 4 * len(masks)
    for result in results:
        stem = result.image.stem
        assert result.error is None
        assert result.mask == tmp_path / "out" / f"{stem}_mask.png"
        assert Image.open(result.mask).mode == "P"
        assert Image.open(result.mask).getpalette() == BCSS.palette()
        np.testing.assert_array_equal(read_mask(result.mask, BCSS), masks[stem])
        counts = np.bincount(masks[stem].ravel(), minlength=4)
        assert [area.pixels for area in result.areas] == counts.tolist()
        rows = [row for row in table if row["image"] == result.image.name]
        assert [row["tissue"] for row in rows] == list(BCSS.names)
        assert [float(row["area_um2"]) for row in rows] == pytest.approx(0.26**2 * counts, abs=0.01)


def test_resolution_of_the_tissue_set_is_the_default(
    colour_run: Path, pictures: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    pictures(tmp_path, {"a.png": (16, 16)})
    result = predict_images(colour_run, [tmp_path / "a.png"], tmp_path / "out", progress=False)[0]
    assert sum(area.area_um2 or 0 for area in result.areas) == pytest.approx(16 * 16 * 0.25**2)


def test_images_of_one_size_go_through_together(
    colour_run: Path, network: ColourNetwork, pictures: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    masks = pictures(tmp_path / "images", {f"{i}.png": (32, 48) for i in range(9)})
    results = predict_images(colour_run, [tmp_path / "images"], tmp_path / "out", progress=False)
    assert [shape[0] for shape in network.seen] == [4, 4, 1]
    for result in results:
        assert result.mask is not None
        np.testing.assert_array_equal(read_mask(result.mask, BCSS), masks[result.image.stem])


@pytest.mark.parametrize("budget", [1, 3000, 2**26])
def test_many_images_under_any_memory_budget(
    colour_run: Path,
    pictures: Callable[..., dict[str, np.ndarray]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    budget: int,
) -> None:
    monkeypatch.setattr(module, "_AHEAD_PIXELS", budget)
    sizes = {f"{i:02d}.png": (20 + 30 * (i % 3 == 0), 40) for i in range(25)}
    masks = pictures(tmp_path / "images", sizes)
    results = predict_images(colour_run, [tmp_path / "images"], tmp_path / "out", overlay=False, progress=False)
    assert [result.image.name for result in results] == sorted(sizes)
    for result in results:
        assert result.mask is not None
        np.testing.assert_array_equal(read_mask(result.mask, BCSS), masks[result.image.stem])


def test_a_bad_image_does_not_stop_the_others(
    colour_run: Path, pictures: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    pictures(tmp_path / "images", {"a.png": (24, 24), "c.png": (24, 24)})
    (tmp_path / "images" / "b.png").write_bytes(b"no picture at all")
    whole = (tmp_path / "images" / "c.png").read_bytes()
    (tmp_path / "images" / "d.png").write_bytes(whole[: len(whole) // 2])
    results = predict_images(colour_run, [tmp_path / "images"], tmp_path / "out", progress=False)
    assert [result.error is None for result in results] == [True, False, True, False]
    for bad in (results[1], results[3]):
        assert bad.mask is None
        assert bad.areas == ()
        assert bad.error is not None
        assert str(bad.image) in bad.error
    assert {row["image"] for row in rows_of(tmp_path / "out" / "areas.csv")} == {"a.png", "c.png"}
    assert not (tmp_path / "out" / "b_mask.png").exists()


def test_probabilities_are_written_when_asked_for(
    colour_run: Path, pictures: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    masks = pictures(tmp_path, {"a.png": (30, 20)})
    predict_images(
        colour_run,
        [tmp_path / "a.png"],
        tmp_path / "out",
        probabilities=True,
        overlay=False,
        confidence=False,
        progress=False,
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "a_mask.png",
        "a_probabilities.npz",
        "areas.csv",
        "images.csv",
    }
    with np.load(tmp_path / "out" / "a_probabilities.npz", allow_pickle=False) as content:
        found = content["probabilities"]
    assert found.dtype == np.float16
    assert found.shape == (4, 30, 20)
    np.testing.assert_array_equal(found.argmax(axis=0), masks["a"])


def test_the_confidence_is_the_probability_of_the_tissue_and_zero_in_background(
    colour_run: Path, network: ColourNetwork, tmp_path: Path
) -> None:
    between = np.random.default_rng(0).integers(60, 200, (30, 20, 3)).astype(np.uint8)
    Image.fromarray(between).save(tmp_path / "a.png")
    predict_images(colour_run, [tmp_path / "a.png"], tmp_path / "out", probabilities=True, progress=False)
    found = np.array(Image.open(tmp_path / "out" / "a_confidence.png"))
    with np.load(tmp_path / "out" / "a_probabilities.npz", allow_pickle=False) as content:
        expected = content["probabilities"].astype(np.float32).max(axis=0)
    assert found.dtype == np.uint8 and found.min() < 255
    np.testing.assert_allclose(found / 255, expected, atol=1 / 255)
    white = np.full((16, 16, 3), 250, np.uint8)
    predictor = Predictor(network, load_tissue_set("luad-histoseg"), InferenceConfig())  # type: ignore[arg-type]
    prediction = predictor.predict_array(white)
    assert (prediction.mask == 4).all() and not prediction.confidence.any()


def test_resume_keeps_what_is_there_and_repairs_what_is_damaged(
    colour_run: Path, network: ColourNetwork, pictures: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    masks = pictures(images, {"a.png": (24, 24), "b.png": (32, 24), "c.png": (24, 40)})
    first = predict_images(colour_run, [images], out, progress=False)
    table = (out / "areas.csv").read_bytes()
    (out / "b_mask.png").unlink()
    (out / "c_mask.png").write_bytes(b"half a file")
    kept = (out / "a_mask.png").stat().st_mtime_ns
    network.seen.clear()
    second = predict_images(colour_run, [images], out, resume=True, progress=False)
    assert len(network.seen) == 2
    assert second == first
    assert (out / "a_mask.png").stat().st_mtime_ns == kept
    assert (out / "areas.csv").read_bytes() == table
    np.testing.assert_array_equal(read_mask(out / "c_mask.png", BCSS), masks["c"])
    network.seen.clear()
    predict_images(colour_run, [images], out, progress=False)
    assert len(network.seen) == 3


def test_results_never_replace_an_image(
    colour_run: Path, pictures: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    images = tmp_path / "images"
    pictures(images, {"a.png": (16, 16), "a_mask.png": (16, 16)})
    drawn = (images / "a_mask.png").read_bytes()
    with pytest.raises(DataError, match=r"a_mask\.png.*would replace it"):
        predict_images(colour_run, [images], images / ".." / "images", progress=False)
    assert (images / "a_mask.png").read_bytes() == drawn
    # an image beside which nothing else is asked for may have its results beside it
    assert predict_images(colour_run, [images / "a_mask.png"], images, progress=False)[0].error is None


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_resolution_is_a_positive_number(colour_run: Path, tmp_path: Path, value: float) -> None:
    with pytest.raises(ConfigError, match="resolution"):
        predict_images(colour_run, [tmp_path], tmp_path / "out", um_per_pixel=value)


def test_a_file_in_the_place_of_the_output_folder(
    colour_run: Path, pictures: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    pictures(tmp_path, {"a.png": (16, 16)})
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(DataError, match="cannot be made a folder"):
        predict_images(colour_run, [tmp_path / "a.png"], tmp_path / "out", progress=False)


def test_a_comparison_network_and_the_options_are_passed_on(
    colour_run: Path,
    pictures: Callable[..., dict[str, np.ndarray]],
    tmp_path: Path,
) -> None:
    pictures(tmp_path, {"a.png": (16, 16)})
    with pytest.raises(DataError, match="cross_entropy_only"):
        predict_images(colour_run, [tmp_path / "a.png"], tmp_path / "out", network="cross_entropy_only", progress=False)


def test_whole_way_with_real_networks(pictures: Callable[..., dict[str, np.ndarray]], tmp_path: Path) -> None:
    run = real_run(tmp_path / "run")
    pictures(tmp_path / "images", {"small.png": (20, 33), "large.jpg": (100, 90)})
    results = predict_images(run, [tmp_path / "images"], tmp_path / "out", symmetries=True, gate=0.1)
    assert all(isinstance(result, ImageResult) and result.error is None for result in results)
    with (
        Image.open(tmp_path / "out" / "large_mask.png") as mask,
        Image.open(tmp_path / "out" / "large_overlay.png") as look,
    ):
        assert mask.size == (90, 100)
        assert look.width == 90
        assert look.height > 100


def touch(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return [folder / name for name in names]


def test_selection_of_files_folders_and_patterns(tmp_path: Path) -> None:
    a, b, _ = touch(tmp_path / "one", "a.png", "b.JPG", "notes.txt")
    (c,) = touch(tmp_path / "one" / "inner", "c.png")
    (d,) = touch(tmp_path / "split" / "img", "d.png")
    touch(tmp_path / "one", ".hidden.png")
    assert find_images([tmp_path / "one"]) == [a, b]
    assert find_images([str(tmp_path / "one" / "*"), c]) == [a, b, c]
    assert find_images([tmp_path / "split"]) == [d]
    assert find_images([b, tmp_path / "one", a]) == [b, a]
    assert find_images([a, tmp_path / "one" / "inner" / ".." / "a.png"]) == [a]


def test_names_with_brackets_are_files_first(tmp_path: Path) -> None:
    labelled = touch(tmp_path, "x[1 0 0 1].png", "x1.png")[0]
    assert find_images([labelled]) == [labelled]


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.png")
    monkeypatch.chdir(tmp_path)
    assert find_images(["*.png", "a.png", tmp_path / "a.png"]) == [Path("a.png")]


def test_links_with_names_of_their_own_are_images(tmp_path: Path) -> None:
    (a,) = touch(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(a)
    assert find_images([tmp_path]) == [a, tmp_path / "b.png"]


def test_a_selection_that_is_empty_says_what_was_looked_for(tmp_path: Path) -> None:
    touch(tmp_path / "empty", "notes.txt")
    for wrong in (tmp_path / "empty", tmp_path / "absent.png", tmp_path / "empty" / "*.tif", tmp_path / "empty" / "*"):
        with pytest.raises(DataError) as caught:
            find_images([wrong])
        assert str(wrong) in str(caught.value)
    with pytest.raises(DataError, match="No images"):
        find_images([])


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "one", "a.png")
    touch(tmp_path / "two", "a.tif")
    with pytest.raises(DataError, match="same name"):
        find_images([tmp_path / "one", tmp_path / "two"])

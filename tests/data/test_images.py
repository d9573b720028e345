from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from patch2tissue.data.images import MAX_PIXELS, image_size, read_image, read_mask, write_mask
from patch2tissue.errors import DataError
from patch2tissue.tissues import IGNORE_INDEX, Background, Tissue, TissueSet, load_tissue_set

BCSS = load_tissue_set("bcss-wsss")
GLAS = load_tissue_set("glas")
RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (12, 17, 3), dtype=np.uint8)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, depth: int, kind: int, rows: bytes) -> bytes:
    """A PNG by hand, for what Pillow does not write."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _palette_png(path: Path, indices: np.ndarray, colors: list[tuple[int, int, int]]) -> Path:
    image = Image.fromarray(indices)
    image.putpalette([value for color in colors for value in color])
    image.save(path)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "A.PNG"])
def test_lossless_formats_read_exactly(tmp_path: Path, name: str) -> None:
    Image.fromarray(PICTURE).save(tmp_path / name)
    read = read_image(tmp_path / name)
    assert read.dtype == np.uint8
    assert np.array_equal(read, PICTURE)
    read[0, 0] = 0  # writable
    assert image_size(tmp_path / name) == (12, 17)


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.jp2"])
def test_lossy_formats_read_nearly(tmp_path: Path, name: str) -> None:
    smooth = np.tile(np.linspace(0, 255, 64, dtype=np.uint8)[:, None, None], (1, 48, 3))
    Image.fromarray(smooth).save(tmp_path / name, quality=95)
    assert np.abs(read_image(tmp_path / name).astype(int) - smooth).mean() < 4
    assert image_size(tmp_path / name) == (64, 48)


def test_exif_orientation_is_applied_to_picture_and_size(tmp_path: Path) -> None:
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}.png"
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(PICTURE).save(path, exif=exif)
        assert read_image(path).shape[:2] == image_size(path) == ((12, 17) if orientation < 5 else (17, 12))
    assert np.array_equal(read_image(tmp_path / "6.png"), np.rot90(PICTURE, -1))


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    alpha = np.zeros((12, 17, 1), np.uint8)
    alpha[6:] = 255
    Image.fromarray(np.concatenate([PICTURE, alpha], axis=2)).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert (read[:6] == 255).all()
    assert np.array_equal(read[6:], PICTURE[6:])
    _palette_png(tmp_path / "p.png", np.array([[0, 1]], np.uint8), [(1, 2, 3), (4, 5, 6)])
    Image.open(tmp_path / "p.png").save(tmp_path / "t.png", transparency=0)
    assert read_image(tmp_path / "t.png").tolist() == [[[255, 255, 255], [4, 5, 6]]]


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0, 257, 65535]], np.uint16),
        np.array([[0.0, 1 / 255, 1.0]], np.float32),
        np.array([[0, 1, 255]], np.uint8),
        np.array([[0, 1, 255]], np.uint16),
        np.array([[0, 257, 65535]], np.int32),
        np.array([[np.nan, 257, np.inf]], np.float32),
    ],
    ids=["16 bits", "fractions", "8 bits", "8 of 16 bits", "32 bits", "not numbers"],
)
def test_greys_become_8_bits(tmp_path: Path, values: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "a.tif", values)
    assert read_image(tmp_path / "a.tif").tolist() == [[[0] * 3, [1] * 3, [255] * 3]]


def test_16_bit_colour_and_cmyk(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PICTURE.astype(np.uint16) * 257, photometric="rgb")
    assert np.array_equal(read_image(tmp_path / "a.tif"), PICTURE)
    Image.fromarray(np.full((8, 8, 3), (200, 100, 50), np.uint8)).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read_image(tmp_path / "a.jpg")[4, 4].astype(int) - (200, 100, 50)).max() <= 4


def _noise_png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("read", [read_image, image_size, lambda path: read_mask(path, GLAS)])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no such file"),
        (b"", "is empty (0 bytes)"),
        (b"this is no picture", "cannot be read as an image (it is damaged or of a format that is not known"),
        (_png(40000, 40000, 8, 2, b""), "has more than 1,073,741,824 pixels"),
        (_png(2**31 - 1, 2**31 - 1, 8, 2, b""), "has more than 1,073,741,824 pixels"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_files_are_named(tmp_path: Path, read, content: bytes | None, says: str) -> None:
    path = tmp_path / "some name [1 0].png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert says in str(raised.value)
    assert MAX_PIXELS < 40000 * 40000


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    for name, keep in (("a.png", 0.5), ("a.jpg", 0.5), ("a.tif", 0.5)):
        buffer = io.BytesIO()
        Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
            buffer, format={"a.png": "PNG", "a.jpg": "JPEG", "a.tif": "TIFF"}[name]
        )
        content = buffer.getvalue()
        (tmp_path / name).write_bytes(content[: int(len(content) * keep)])
        with pytest.raises(DataError, match=rf"{name}: cannot be read as an image"):
            read_image(tmp_path / name)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(kind=st.sampled_from(["PNG", "JPEG", "TIFF", "BMP", "WEBP"]), data=st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, format=kind)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    path = tmp_path / "a.img"
    path.write_bytes(bytes(content))
    for read in (read_image, image_size, lambda p: read_mask(p, GLAS)):
        try:
            read(path)
        except DataError as error:
            assert str(path) in str(error)


# masks


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(["luad-histoseg", "bcss-wsss", "wsss4luad", "glas"]))
def test_a_mask_is_read_as_it_was_written_in_every_form(tmp_path: Path, data: st.DataObject, name: str) -> None:
    tissues = load_tissue_set(name)
    values = [*range(len(tissues)), IGNORE_INDEX]
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    flat = data.draw(st.lists(st.sampled_from(values), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    mask = np.array(flat, np.uint8).reshape(shape)
    path = tmp_path / "m.png"

    write_mask(path, mask, tissues)
    assert np.array_equal(read_mask(path, tissues), mask)
    with Image.open(path) as written:
        assert written.mode == "P"
        assert np.array_equal(np.asarray(written), mask)
        coloured = written.convert("RGB")

    coloured.save(path)
    assert np.array_equal(read_mask(path, tissues), mask)

    Image.fromarray(mask).save(path)
    assert np.array_equal(read_mask(path, tissues), mask)

    order = data.draw(st.permutations(values))
    lookup = np.zeros(256, np.uint8)
    lookup[order] = np.arange(len(order))
    colors = [tissues.colors[v] if v != IGNORE_INDEX else (255, 255, 255) for v in order]
    _palette_png(path, lookup[mask], colors)
    assert np.array_equal(read_mask(path, tissues), mask)

    # as a program that keeps only the colours in use writes it
    used = list(dict.fromkeys(flat))
    lookup[used] = np.arange(len(used))
    _palette_png(path, lookup[mask], [tissues.colors[v] if v != IGNORE_INDEX else (255, 255, 255) for v in used])
    assert np.array_equal(read_mask(path, tissues), mask)


def test_background_becomes_255(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 3, 4, 255]], np.uint8)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", BCSS).tolist() == [[0, 3, 255, 255]]
    red = TissueSet("t", (Tissue("a", "A", (9, 9, 9)), Tissue("b", "B", (8, 8, 8))), Background(7, (0, 0, 1)))
    Image.fromarray(np.array([[(9, 9, 9), (0, 0, 1), (255, 255, 255)]], np.uint8)).save(tmp_path / "c.png")
    assert read_mask(tmp_path / "c.png", red).tolist() == [[0, 255, 255]]


def test_a_white_tissue_is_a_tissue_but_255_stays_ignored(tmp_path: Path) -> None:
    fat = TissueSet("f", (Tissue("tumour", "T", (255, 0, 0)), Tissue("fat", "F", (255, 255, 255))))
    mask = np.array([[0, 1, 255]], np.uint8)
    write_mask(tmp_path / "m.png", mask, fat)
    assert np.array_equal(read_mask(tmp_path / "m.png", fat), mask)
    Image.fromarray(np.array([[(255, 255, 255), (255, 0, 0)]], np.uint8)).save(tmp_path / "c.png")
    assert read_mask(tmp_path / "c.png", fat).tolist() == [[1, 0]]


def test_greys_of_few_bits_keep_their_indices(tmp_path: Path) -> None:
    # Pillow spreads such values over 0..255
    (tmp_path / "2.png").write_bytes(_png(4, 1, 2, 0, bytes([0, 0b00011011])))
    assert read_mask(tmp_path / "2.png", BCSS).tolist() == [[0, 1, 2, 3]]
    (tmp_path / "4.png").write_bytes(_png(2, 1, 4, 0, bytes([0, 0x34])))
    assert read_mask(tmp_path / "4.png", BCSS).tolist() == [[3, 255]]
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "1.png")
    assert read_mask(tmp_path / "1.png", BCSS).tolist() == [[1, 0]]
    tifffile.imwrite(tmp_path / "16.tif", np.array([[0, 3, 4]], np.uint16))
    assert read_mask(tmp_path / "16.tif", BCSS).tolist() == [[0, 3, 255]]


def test_grey_saved_as_colour_is_read_by_index(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[0] * 3, [1] * 3, [255] * 3]], np.uint8)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", GLAS).tolist() == [[0, 1, 255]]


def test_transparent_pixels_of_a_coloured_mask_are_not_scored(tmp_path: Path) -> None:
    Image.fromarray(np.array([[(255, 0, 0, 255), (0, 0, 0, 0)]], np.uint8)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", BCSS).tolist() == [[0, 255]]


def test_a_foreign_palette_is_read_by_index(tmp_path: Path) -> None:
    indices = np.array([[0, 1, 2, 3, 4]], np.uint8)
    _palette_png(tmp_path / "m.png", indices, [(10 * i, 0, 7) for i in range(5)])
    assert read_mask(tmp_path / "m.png", BCSS).tolist() == [[0, 1, 2, 3, 255]]


def test_a_palette_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    # black, red, green: red is the set's 0, black is nothing of it
    _palette_png(tmp_path / "m.png", np.array([[0, 1, 2]], np.uint8), [(0, 0, 0), (255, 0, 0), (0, 255, 0)])
    with pytest.raises(DataError, match=r"m\.png: its palette gives index 1 the colour of the set's 0 \('tumour'\)"):
        read_mask(tmp_path / "m.png", BCSS)


def test_values_outside_the_set_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 7, 9]], np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match=r"m\.png: holds the mask index 7, 9, which .* 'glas' .* \(it has 0, 1, 255\)"):
        read_mask(tmp_path / "m.png", GLAS)
    Image.fromarray(np.array([[(255, 0, 0), (1, 2, 3)]], np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(DataError, match=r"c\.png: holds the colour \(1, 2, 3\), which .* 'bcss-wsss' does not have"):
        read_mask(tmp_path / "c.png", BCSS)
    tifffile.imwrite(tmp_path / "f.tif", np.array([[0.5]], np.float32))
    with pytest.raises(DataError, match=r"f\.tif: a mask must be a palette, grey or RGB image, not mode F"):
        read_mask(tmp_path / "f.tif", BCSS)


def test_masks_saved_with_loss_are_refused_and_told_why(tmp_path: Path) -> None:
    mask = np.repeat(np.repeat(RNG.integers(0, 4, (8, 8), dtype=np.uint8), 5, 0), 5, 1)
    colours = np.array(BCSS.colors, np.uint8)[mask]
    for picture in (mask, colours):
        Image.fromarray(picture).save(tmp_path / "m.png", format="JPEG")
        with pytest.raises(DataError, match=r"m\.png: is a JPEG, which blurs"):
            read_mask(tmp_path / "m.png", BCSS)
    buffer = io.BytesIO()
    Image.fromarray(colours).save(buffer, format="JPEG")
    Image.open(buffer).save(tmp_path / "again.png")
    with pytest.raises(DataError, match=r"unknown colours mean that it was once saved with loss"):
        read_mask(tmp_path / "again.png", BCSS)


def test_writing_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Image.Image, target: Path, **options: object) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_mask(tmp_path / "m.png", np.zeros((4, 4), np.uint8), GLAS)
    assert list(tmp_path.iterdir()) == []


def test_real_masks_hold_what_the_notes_say(shared_data: Path) -> None:
    gland = read_mask(shared_data / "glas" / "train" / "mask" / "train_1.png", GLAS)
    assert set(np.unique(gland)) == {0, 1}
    assert gland.shape == image_size(shared_data / "glas" / "train" / "img" / "train_1.jpg")
    luad = read_mask(shared_data / "luad" / "train" / "mask" / "00.png", load_tissue_set("wsss4luad"))
    assert set(np.unique(luad)) <= {0, 1, 2, 255}

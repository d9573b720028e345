from __future__ import annotations

import json
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patch2tissue.data.images import read_mask
from patch2tissue.data.layouts import load_split
from patch2tissue.data.synthetic import DIFFICULTIES, Slide, drawing, make_synthetic, render_patch, writer
from patch2tissue.data.synthetic.layout import LEAST_SHARE
from patch2tissue.data.synthetic.nuclei import keep_apart
from patch2tissue.data.synthetic.plan import plan_split
from patch2tissue.errors import ConfigError, DataError, Patch2TissueError
from patch2tissue.tissues import load_tissue_set

TISSUES = load_tissue_set("bcss-wsss")
COUNTS = {"train": 20, "val": 4, "test": 8}


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "set"
    make_synthetic(folder, **COUNTS, size=64, seed=3, workers=1)
    return folder


def test_same_seed_gives_same_bytes_on_any_number_of_processes(made: Path, tmp_path: Path) -> None:
    make_synthetic(tmp_path / "again", **COUNTS, size=64, seed=3, workers=2)
    assert _digests(tmp_path / "again") == _digests(made)


def test_another_seed_gives_other_pictures(made: Path, tmp_path: Path) -> None:
    make_synthetic(tmp_path / "other", train=4, test=0, size=64, seed=4, workers=1)
    images = [
        {digest for path, digest in _digests(folder).items() if "mask" not in path} for folder in (tmp_path, made)
    ]
    assert not images[0] & images[1]


def test_a_patch_does_not_depend_on_how_it_is_asked_for() -> None:
    tasks = plan_split("train", 6, 48, "hard", 1)
    task = tasks[3]
    first = render_patch(task.patch_seed(), 48, task.composition, "hard", task.make_slide())
    for other in tasks[:2]:
        render_patch(other.patch_seed(), 48, other.composition, "hard", other.make_slide())
    second = render_patch(task.patch_seed(), 48, task.composition, "hard", task.make_slide())
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("split", list(COUNTS))
def test_every_split_reads_with_masks_and_truthful_labels(made: Path, split: str) -> None:
    patches = load_split(made, split, TISSUES)
    assert len(patches) == COUNTS[split]
    for patch in patches:
        assert patch.mask is not None
        mask = read_mask(patch.mask, TISSUES)
        shares = np.bincount(mask.ravel(), minlength=len(TISSUES)) / mask.size
        assert patch.labels == tuple(int(share > 0) for share in shares)
        assert shares[shares > 0].min() >= LEAST_SHARE
        with Image.open(patch.path) as image, Image.open(patch.mask) as indexed:
            assert image.size == (64, 64)
            assert image.mode == "RGB"
            assert indexed.mode == "P"


def test_patients_and_slides_are_in_one_split_only(made: Path) -> None:
    patients = {split: {patch.patient for patch in load_split(made, split, TISSUES)} for split in COUNTS}
    assert None not in set.union(*patients.values())
    assert len(set.union(*patients.values())) == sum(map(len, patients.values()))
    assert len(patients["test"]) > 0


def test_hard_compositions_are_in_their_shares() -> None:
    tasks = plan_split("train", 200, 64, "hard", 0)
    tissues = Counter(len(task.composition) for task in tasks)
    assert (tissues[1], tissues[2], tissues[3]) == (40, 116, 44)
    tumour = [task.composition for task in tasks if 0 in task.composition]
    assert np.mean([1 in composition for composition in tumour]) > 0.6
    for level in DIFFICULTIES.values():
        assert sum(level.compositions.values()) == pytest.approx(1.0)


def test_compositions_and_order_of_the_dyes_are_what_was_asked_for() -> None:
    """Haematoxylin falls from infiltrate over tumour and stroma to necrosis, in pictures without a stain shift."""
    haematoxylin = []
    slide = Slide()
    vectors = np.array([slide.stain.haematoxylin, slide.stain.eosin])
    for tissue in range(4):
        amounts = []
        for seed in range(6):
            image, mask = render_patch(seed, 96, (tissue,), "easy", slide)
            assert set(np.unique(mask)) == {tissue}
            density = -np.log10(np.maximum(image, 1) / np.array(slide.stain.light))
            amounts.append((density.reshape(-1, 3) @ np.linalg.pinv(vectors)).mean(axis=0))
        h, e = np.mean(amounts, axis=0)
        assert e > 0.1
        haematoxylin.append(h)
    tumour, stroma, lymphocytes, necrosis = haematoxylin
    assert lymphocytes > tumour > stroma > necrosis > 0


@pytest.mark.parametrize("difficulty", list(DIFFICULTIES))
@pytest.mark.parametrize("size", [32, (48, 80)])
def test_sizes_and_difficulties(difficulty: str, size: int | tuple[int, int]) -> None:
    for seed, composition in enumerate([(0, 1), (0, 1, 2), (0, 1, 3), (2,), (1, 3), (0, 2)]):
        image, mask = render_patch(seed, size, composition, difficulty, Slide.random(np.random.default_rng(seed)))
        shape = (size, size) if isinstance(size, int) else size
        assert image.shape == (*shape, 3)
        assert mask.shape == shape
        assert image.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) <= set(composition)


def test_large_patches_hold_all_their_tissues() -> None:
    held = [set(np.unique(render_patch(seed, 128, (0, 1, 2), "hard")[1])) for seed in range(10)]
    assert sum(tissues == {0, 1, 2} for tissues in held) >= 9


def test_slides_differ_more_when_it_is_hard() -> None:
    def spread(shift: float) -> float:
        slides = [Slide.random(np.random.default_rng(k), shift) for k in range(30)]
        return float(np.std([slide.stain.eosin_amount for slide in slides]))

    assert spread(0.0) == 0.0
    assert 0 < spread(DIFFICULTIES["easy"].stain_shift) < spread(DIFFICULTIES["hard"].stain_shift)


def test_nuclei_keep_apart_like_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    row, column = (rng.uniform(0, 60, 150).astype(np.float32) for _ in range(2))
    room = rng.uniform(1, 5, 150).astype(np.float32)
    kept: list[int] = []
    for i in range(150):
        if all(np.hypot(row[i] - row[j], column[i] - column[j]) >= room[i] + room[j] for j in kept):
            kept.append(i)
    assert np.flatnonzero(keep_apart(row, column, room)).tolist() == kept


def test_progress_counts_up_to_all(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    make_synthetic(
        tmp_path / "set", train=3, test=2, size=32, difficulty="easy", progress=lambda *step: seen.append(step)
    )
    assert seen == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    assert not (tmp_path / "set" / "val").exists()


def test_a_set_made_before_is_left_alone(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "draw_all", lambda *_: pytest.fail("drawn again"))
    make_synthetic(made, **COUNTS, size=64, seed=3)
    with pytest.raises(DataError, match="other settings"):
        make_synthetic(made, **COUNTS, size=64, seed=5)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not lose", encoding="utf-8")
    with pytest.raises(DataError, match="not a synthetic data set"):
        make_synthetic(tmp_path / "mine", train=1, test=0, size=32)
    (tmp_path / "mine" / "synthetic.json").write_text(json.dumps([1]), encoding="utf-8")
    with pytest.raises(DataError, match="not readable"):
        make_synthetic(tmp_path / "mine", train=1, test=0, size=32)
    (tmp_path / "empty").mkdir()
    make_synthetic(tmp_path / "empty", train=1, test=0, size=32)
    assert (tmp_path / "empty" / "synthetic.json").is_file()


def test_nothing_is_left_behind_by_a_failure(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_synthetic(tmp_path / "set", train=2, test=0, size=32, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_process_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_WORKER", "raise SystemExit('no paint left')")
    with pytest.raises(Patch2TissueError, match="no paint left"):
        make_synthetic(tmp_path / "set", train=4, test=0, size=32, workers=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong", [{"size": 16}, {"difficulty": "fiendish"}, {"train": -1}, {"seed": -1}, {"train": 0, "test": 0}]
)
def test_wrong_settings_are_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        make_synthetic(tmp_path / "set", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        render_patch(0, 32, (0,), "fiendish")

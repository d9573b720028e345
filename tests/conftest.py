"""Fixtures every test may use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patch2tissue.tissues import TissueSet, load_tissue_set

pytest_plugins = ["tests.bad_input.fixtures"]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real data beside the repository; a test that needs it is skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data is absent ({folder}); put it there to run this test")
    return folder


RECIPES = Path(__file__).resolve().parents[1] / "configs"

TINY = [
    "craanet.encoder.name=resnet10t",
    "craanet.encoder.pretrained=false",
    "craanet.epochs=3",
    "craanet.batch_size=4",
    "pfscnet.encoder=null",
    "pfscnet.init=craanet",
    "pfscnet.epochs=3",
    "pfscnet.batch_size=4",
    "pfscnet.decoder_channels=16",
    "pfscnet.contrast.dimensions=8",
    "pfscnet.contrast.anchors=64",
    "pfscnet.contrast.bank=32",
    "pfscnet.correction.start=0.4",
    "pseudo_labels.scales=[1.0]",
    "hardware.workers=0",
    "hardware.threads=1",
]
"""Overrides that make any recipe small enough for a test: size and epochs, and no download."""


def draw_patch(
    rng: np.random.Generator, tissues: TissueSet, present: tuple[int, ...], side: int
) -> tuple[np.ndarray, np.ndarray]:
    """A synthetic picture of stripes, one texture per tissue: image [S, S, 3] and mask [S, S], uint8."""
    mask = np.zeros((side, side), dtype=np.uint8)
    tissue_indices = [k for k, flag in enumerate(present) if flag]
    edges = np.linspace(0, side, len(tissue_indices) + 1).astype(int)
    for tissue, start, stop in zip(rng.permutation(tissue_indices), edges[:-1], edges[1:], strict=True):
        mask[:, start:stop] = tissue
    colors = np.array([(150, 60, 120), (230, 170, 200), (70, 40, 130), (245, 210, 190)])[: len(tissues)]
    image = colors[mask] + rng.normal(0, 12, (side, side, 1))
    return np.clip(image, 0, 255).astype(np.uint8), mask


@pytest.fixture(scope="session")
def fabricate() -> Callable[..., Path]:
    """Make a miniature of a public data set: its exact file names, palette and split folders."""

    def name_of(layout: str, number: int, present: tuple[int, ...]) -> str:
        if layout == "luad-histoseg":
            return f"{1031280 + number % 5}-{2300 + number}-27920-[{' '.join(map(str, present))}]"
        if layout == "wsss4luad":
            return f"{436720 + number % 5}-{number}-17-[{', '.join(map(str, present))}]"
        digits = "".join(map(str, present))
        # no split has a patient of another one
        return (
            f"TCGA-A{number % 5 + 5 * (number // 1000)}-A0SK-DX1_xmin{45749 + number}_ymin25055_MPP-0.2500+0[{digits}]"
        )

    def make(folder: Path, layout: str, *, train: int = 12, test: int = 4, side: int = 32, seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        tissues = load_tissue_set(layout)
        count = len(tissues)
        number = 0
        for split, total in (("train", train), ("val", test), ("test", test)):
            for i in range(total):
                chosen = {i % count} | ({(i + 1) % count} if i % 2 else set())
                present = tuple(int(k in chosen) for k in range(count))
                image, mask = draw_patch(rng, tissues, present, side)
                name = name_of(layout, number + {"train": 0, "val": 1000, "test": 2000}[split], present)
                number += 1
                images = folder / split if split == "train" else folder / split / "img"
                images.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(images / f"{name}.png")
                if split != "train":
                    if tissues.background is not None:
                        mask[:2] = tissues.background.index
                    palette = Image.fromarray(mask, mode="P")
                    palette.putpalette(tissues.palette())
                    (folder / split / "mask").mkdir(parents=True, exist_ok=True)
                    palette.save(folder / split / "mask" / f"{name}.png")
        return folder

    return make


@pytest.fixture(scope="session")
def trained_runs(tmp_path_factory: pytest.TempPathFactory, fabricate: Callable[..., Path]) -> tuple[Path, Path, Path]:
    """A data folder, and runs of three and four epochs that were trained on it; not to be changed."""
    from patch2tissue.config import load_config
    from patch2tissue.pipeline import run_training

    folder = tmp_path_factory.mktemp("trained")
    data = fabricate(folder / "data", "bcss-wsss")
    for name, *changes in (("one",), ("two", "seed=1", "craanet.epochs=4")):
        settings = [f"output={folder / name}", f"data.path={data}", "data.layout=auto", *TINY, *changes]
        run_training(load_config(RECIPES / "bcss-wsss.yaml", settings), progress=False)
    return data, folder / "one", folder / "two"


@pytest.fixture
def run_command() -> Callable[..., int]:
    """Run `patch2tissue ARGUMENTS` in this process; returns the exit code."""

    def run(*arguments: object) -> int:
        from patch2tissue.cli.app import main

        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        return int(left.value.code or 0)

    return run

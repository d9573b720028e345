from __future__ import annotations

import tracemalloc
from pathlib import Path

from patch2tissue.inference.areas import TissueArea
from patch2tissue.inference.familiarity import Familiarity
from patch2tissue.inference.image_result import ImageResult

AREAS = (TissueArea("tumour", 2**30, 0.1 + 0.2, 1.1**30), TissueArea("stroma", 0, 0.0, None))


def test_a_result_gives_back_what_it_was_given() -> None:
    image, familiarity = Path("pictures/a.b.tif"), Familiarity(1 / 3, 0.0)
    for mask in (None, Path("maps/a.b_mask.png"), Path("elsewhere/m.png")):
        for confidence, known in ((None, None), (0.12345678901, familiarity)):
            result = ImageResult(image, mask, AREAS, confidence=confidence, familiarity=known)
            assert (result.image, result.mask, result.areas, result.error) == (image, mask, AREAS, None)
            assert (result.confidence, result.familiarity) == (confidence, known)
            assert result == ImageResult(image, mask, AREAS, None, confidence, known)
            assert result != ImageResult(image, mask, AREAS[:1], None, confidence, known)
    failed = ImageResult(image, None, error="is damaged")
    assert (failed.areas, failed.mask, failed.confidence, failed.error) == ((), None, None, "is damaged")


def test_ten_thousand_results_take_little_memory() -> None:
    count = 10_000

    def made() -> list[ImageResult]:
        return [
            ImageResult(
                Path(f"a folder of usual length/patch {number:06d}.png"),
                Path(f"maps/patch {number:06d}_mask.png"),
                [TissueArea(tissue, number, number / 7, number * 0.25) for tissue in ("TUM", "STR", "LYM", "NEC")],
                confidence=number / 3,
                familiarity=Familiarity(number / 5, number / 9),
            )
            for number in range(count)
        ]

    held = []
    for _ in range(2):  # in one of them Python may enlarge its table of known texts
        tracemalloc.start()
        try:
            results = made()
            held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        assert len(results) == count
        del results
    assert min(held) < 500 * count

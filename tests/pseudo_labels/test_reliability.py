"""The surest labels of each tissue are kept, and no tissue is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patch2tissue.pseudo_labels.reliability import unreliable_pixels


@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 1.0), tissues=st.integers(1, 4))
def test_each_tissue_keeps_its_surest_share(seed: int, share: float, tissues: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, tissues, (12, 17)).astype(np.uint8)
    confidence = random.random((12, 17))
    unreliable = unreliable_pixels(labels, confidence, reliable_share=share)
    for tissue in np.unique(labels):
        of_tissue = labels == tissue
        kept = of_tissue & ~unreliable
        assert kept.sum() == pytest.approx(share * of_tissue.sum(), abs=1.0)
        assert kept.any()
        if (of_tissue & unreliable).any():
            assert confidence[kept].min() >= confidence[of_tissue & unreliable].max()


def test_equal_confidence_is_kept_whole_and_the_margin_holds_for_all() -> None:
    labels = np.zeros((4, 4), np.uint8)
    assert not unreliable_pixels(labels, np.ones((4, 4)), reliable_share=0.3).any()
    confidence = np.linspace(0, 1, 16).reshape(4, 4)
    assert np.array_equal(unreliable_pixels(labels, confidence, margin=0.5), confidence < 0.5)

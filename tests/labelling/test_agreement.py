"""Agreement of annotators and what they agree on."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from patch2tissue.labelling.agreement import Consensus, agreements, cohens_kappa, consensus
from patch2tissue.labelling.store import Answer


def answers(annotator: str, said: dict[str, str]) -> list[Answer]:
    """Labels as digits, `?` for unsure and `x` for discard."""
    kinds = {"?": "unsure", "x": "discard"}
    return [
        Answer(f"{annotator}-{patch}", patch, annotator, kinds[of])  # type: ignore[arg-type]
        if of in kinds
        else Answer(f"{annotator}-{patch}", patch, annotator, "labelled", tuple(map(int, of)))
        for patch, of in said.items()
    ]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_kappa_is_that_of_scikit_learn(pairs: list[tuple[bool, bool]]) -> None:
    counts = [pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))]
    found = cohens_kappa(*counts)
    if len(set(sum(pairs, ()))) == 1:
        assert math.isnan(found)  # both always say the same one thing
    else:
        assert found == pytest.approx(cohen_kappa_score(*zip(*pairs, strict=True)), abs=1e-12)


def test_no_items_have_no_kappa() -> None:
    assert math.isnan(cohens_kappa(0, 0, 0, 0))


def test_agreement_is_about_patches_that_both_labelled() -> None:
    ada = answers("Ada", {"a": "10", "b": "01", "c": "11", "d": "?", "e": "10"})
    bea = answers("Bea", {"a": "10", "b": "11", "c": "10", "d": "01", "f": "01"})
    first, second = agreements([*bea, *ada, *answers("Cem", {"z": "10"})], 2)
    assert first.annotators == second.annotators == ("Ada", "Bea")
    assert (first.tissue, first.patches, first.same) == (0, 3, pytest.approx(2 / 3))
    assert (second.tissue, second.patches, second.same) == (1, 3, pytest.approx(2 / 3))
    assert first.kappa == pytest.approx(cohen_kappa_score([1, 0, 1], [1, 1, 1]))
    assert second.kappa == pytest.approx(cohen_kappa_score([0, 1, 1], [0, 1, 0]))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["10"], Consensus((1, 0))),
        (["10", "?"], Consensus((1, 0))),
        (["10", "11", "10"], Consensus((1, 0))),
        (["10", "11"], Consensus(None, "disagreement")),
        (["?", "?"], Consensus(None, "unsure")),
        (["x"], Consensus(None, "discarded")),
        (["x", "10"], Consensus(None, "discarded")),
        (["x", "10", "10"], Consensus((1, 0))),
        (["100", "010", "001"], Consensus(None, "disagreement")),
    ],
)
def test_consensus(said: list[str], expected: Consensus) -> None:
    given = [one for name, of in enumerate(said) for one in answers(str(name), {"a": of})]
    assert consensus(given) == {"a": expected}

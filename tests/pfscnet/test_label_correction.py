"""Correction of pseudo labels."""

from __future__ import annotations

import pytest
import torch

from patch2tissue.pfscnet.label_correction import correct_labels
from patch2tissue.pfscnet.prototypes import TissuePrototypes


@pytest.fixture
def prototypes():
    """Tissues 0, 1, 2 along the axes; tissue 3 not seen yet."""
    result = TissuePrototypes(4, 4)
    result.update(torch.eye(4)[:3], torch.arange(3))
    return result


def pixels(*vectors):
    embedding = torch.nn.functional.normalize(torch.tensor(vectors, dtype=torch.float32), dim=1)
    return embedding.T.reshape(1, 4, 1, len(vectors))


NEAR_1 = (0.3, 1.0, 0.0, 0.0)
NEAR_2 = (0.3, 0.0, 1.0, 0.0)
BETWEEN = (1.0, 1.05, 0.0, 0.0)
PRESENT = torch.tensor([[1, 1, 0, 1]])


def correct(prototypes, labels, vectors, confidence=0.1, **options):
    labels = torch.tensor([[labels]])
    confidence = torch.full(labels.shape, confidence) if isinstance(confidence, float) else torch.tensor([[confidence]])
    new, changed = correct_labels(labels, confidence, pixels(*vectors), prototypes, PRESENT, **options)
    return new.flatten().tolist(), changed.flatten().tolist()


def test_wrong_label_takes_the_nearest_tissue(prototypes):
    assert correct(prototypes, [0, 1], [NEAR_1, NEAR_1]) == ([1, 1], [True, False])


def test_wrong_label_is_ignored(prototypes):
    assert correct(prototypes, [0, 1], [NEAR_1, NEAR_1], mode="ignore") == ([255, 1], [True, False])


def test_absent_tissue_is_never_given(prototypes):
    assert correct(prototypes, [0], [NEAR_2]) == ([0], [False])


def test_label_of_an_absent_tissue_goes_to_a_present_one(prototypes):
    assert correct(prototypes, [2], [NEAR_1]) == ([1], [True])


def test_confident_labels_stay(prototypes):
    assert correct(prototypes, [0, 0], [NEAR_1, NEAR_1], confidence=[0.49, 0.5]) == ([1, 0], [True, False])


def test_margin(prototypes):
    assert correct(prototypes, [0], [BETWEEN]) == ([0], [False])
    assert correct(prototypes, [0], [BETWEEN], margin=0.0) == ([1], [True])


def test_ignored_stays_ignored(prototypes):
    assert correct(prototypes, [255], [NEAR_1]) == ([255], [False])


def test_tissue_without_prototype_keeps_its_pixels(prototypes):
    assert correct(prototypes, [3], [NEAR_1]) == ([3], [False])


def test_embedding_of_lower_resolution(prototypes):
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    embedding = torch.zeros(1, 4, 2, 2)
    embedding[:, 0, :, 0] = 1
    embedding[:, 1, :, 1] = 1
    new, changed = correct_labels(labels, torch.zeros(1, 8, 8), embedding, prototypes, PRESENT)
    assert new.dtype == torch.uint8
    assert (new[0, :, :4] == 0).all() and (new[0, :, 5:] == 1).all()
    assert torch.equal(changed, new != labels)
    assert labels.max() == 0


@pytest.mark.parametrize(
    "change, words",
    [
        ({"mode": "drop"}, "mode"),
        ({"confidence": torch.zeros(1, 2, 3)}, "confidence"),
        ({"embedding": torch.zeros(1, 3, 1, 1)}, "embedding"),
        ({"present": torch.ones(1, 3)}, "present"),
    ],
)
def test_bad_input_is_named(prototypes, change, words):
    arguments = {
        "labels": torch.zeros(1, 2, 2, dtype=torch.long),
        "confidence": torch.zeros(1, 2, 2),
        "embedding": torch.zeros(1, 4, 1, 1),
        "prototypes": prototypes,
        "present": PRESENT,
    }
    with pytest.raises(ValueError, match=words):
        correct_labels(**{**arguments, **change})


def test_ignored_pixels_are_filled_where_asked_and_clear(prototypes):
    fill = torch.tensor([[[True, True, False, True]]])
    labels = [255, 255, 255, 1]
    vectors = [NEAR_1, BETWEEN, NEAR_1, NEAR_1]
    assert correct(prototypes, labels, vectors, fill=fill, margin=0.2) == (
        [1, 255, 255, 1],
        [True, False, False, False],
    )
    # the ignored pixel nearest to a tissue that is absent takes the nearest of those present
    assert correct(prototypes, [255], [NEAR_2], fill=torch.ones(1, 1, 1, dtype=torch.bool), margin=0.1)[0] == [0]


def test_with_one_tissue_present_all_is_filled(prototypes):
    labels, fill = torch.full((1, 1, 2), 255), torch.ones(1, 1, 2, dtype=torch.bool)
    alone = torch.tensor([[1, 0, 0, 0]])
    new, changed = correct_labels(labels, torch.zeros(1, 1, 2), pixels(NEAR_1, NEAR_2), prototypes, alone, fill=fill)
    assert new.flatten().tolist() == [0, 0] and bool(changed.all())
    nothing, _ = correct_labels(
        labels, torch.zeros(1, 1, 2), pixels(NEAR_1, NEAR_2), prototypes, torch.tensor([[0, 0, 0, 1]]), fill=fill
    )
    assert nothing.flatten().tolist() == [255, 255]

"""Pixel contrast against slow loops, and what it may and may not depend on."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from patch2tissue.pfscnet.pixel_contrast import PixelContrastLoss, choose_anchors, labels_on_grid


def example(batch=3, tissues=3, dimensions=6, size=5, seed=0, dtype=torch.float64, ignored=0.2):
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(batch, dimensions, size, size, generator=generator, dtype=dtype)
    labels = torch.randint(0, tissues, (batch, size, size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = 255
    logits = 2 * torch.randn(batch, tissues, size, size, generator=generator, dtype=dtype)
    logits += 2.5 * F.one_hot(torch.where(labels == 255, 0, labels), tissues).movedim(-1, 1)
    return F.normalize(embedding, dim=1), labels, logits.softmax(1)


def fed(seed=1, **options):
    """A loss whose prototypes and bank have seen another batch."""
    loss = PixelContrastLoss(3, 6, **{"anchors": 10000, "bank": 7, "confidence": 0.6, **options}).double()
    loss.update(*example(seed=seed), torch.tensor([10, 11, 12]), generator=torch.Generator().manual_seed(0))
    return loss


def slow_loss(loss, embedding, labels, probabilities, image_ids):
    """Every labelled pixel an anchor, every confident pixel a key."""
    tau = loss.temperature
    pixels, keys = [], []
    for b in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                k = int(labels[b, y, x])
                if k == 255:
                    continue
                pixel = (embedding[b, :, y, x], k, int(image_ids[b]))
                pixels.append(pixel)
                if probabilities[b, k, y, x] > loss.confidence:
                    keys.append(pixel)
    keys += list(zip(loss.bank.read()[0], *(x.tolist() for x in loss.bank.read()[1:]), strict=True))
    first, second = [], []
    for v, k, image in pixels:
        similar = [[float(v @ c) / tau for c in loss.prototypes.vectors[t]] for t in range(3)]
        best = max(similar[k])
        others = sum(math.exp(s) for t in range(3) if t != k for s in similar[t])
        first.append(-math.log(math.exp(best) / (math.exp(best) + others)))
        negative = sum(math.exp(float(v @ q) / tau) for q, t, _ in keys if t != k)
        positives = [math.exp(float(v @ q) / tau) for q, t, i in keys if t == k and i != image]
        if positives and negative:
            second.append(sum(-math.log(p / (p + negative)) for p in positives) / len(positives))
    return sum(first) / len(first) + sum(second) / len(second)


@pytest.mark.parametrize("prototypes", [1, 2])
def test_equals_slow_loop(prototypes):
    loss = fed(prototypes=prototypes)
    assert loss.prototypes.initialised.all() and loss.bank.filled.min() > 0
    batch = example()
    for images in (torch.tensor([0, 1, 2]), torch.tensor([10, 1, 1])):
        assert loss(*batch, images).item() == pytest.approx(slow_loss(loss, *batch, images), rel=1e-9)


def test_gradcheck():
    loss = fed()
    embedding, labels, probabilities = example(size=3)
    assert torch.autograd.gradcheck(
        lambda v: loss(v, labels, probabilities, generator=torch.Generator().manual_seed(0)), embedding.requires_grad_()
    )


def step(embedding, labels, loss, length):
    """The embedding after one gradient step, with a network that is sure of every label."""
    sure = F.one_hot(torch.where(labels == 255, 0, labels), 3).movedim(-1, 1).double()
    raw = embedding.clone().requires_grad_()
    loss(F.normalize(raw, dim=1), labels, sure).backward()
    return F.normalize(raw - length * raw.grad, dim=1).detach()


@pytest.mark.parametrize("seed", range(5))
def test_one_step_pulls_like_and_pushes_unlike(seed):
    labels = torch.tensor([[[0, 255]], [[0, 1]]])
    noise = 0.2 * torch.randn(2, 6, 1, 2, generator=torch.Generator().manual_seed(seed)).double()
    before = F.normalize(1 + noise, dim=1)  # nearly alike, so that unlike pixels repel each other
    after = step(before, labels, PixelContrastLoss(3, 6).double(), 0.001)

    def cosines(v):
        first, like, unlike = v[0, :, 0, 0], v[1, :, 0, 0], v[1, :, 0, 1]
        return first @ like, first @ unlike

    assert cosines(after)[0] > cosines(before)[0]
    assert cosines(after)[1] < cosines(before)[1]


def test_one_step_moves_towards_the_own_prototype():
    loss = PixelContrastLoss(3, 6, bank=0, momentum=0.0).double()
    loss.prototypes.update(torch.eye(6, dtype=torch.float64)[:3], torch.arange(3))
    labels = torch.tensor([[[0, 1, 2, 0]]])
    before = F.normalize(torch.randn(1, 6, 1, 4, generator=torch.Generator().manual_seed(0)).double(), dim=1)
    after = step(before, labels, loss, 0.01)
    for x, k in enumerate(labels.flatten().tolist()):
        assert after[0, k, 0, x] > before[0, k, 0, x]
        assert loss.prototypes.vectors[k, 0, k] == 1


@pytest.mark.parametrize("with_state", [False, True])
def test_tissues_separate(with_state):
    embedding, labels, _ = example(ignored=0.0, seed=3)
    loss = PixelContrastLoss(3, 6, anchors=200, bank=50).double()
    if with_state:
        loss.update(embedding, labels, F.one_hot(labels, 3).movedim(-1, 1).double())

    def gap(v):
        pixels, tissue = v.movedim(1, -1).flatten(0, 2), labels.flatten()
        similarity, same = pixels @ pixels.T, tissue[:, None] == tissue
        return similarity[same].mean() - similarity[~same].mean()

    assert gap(step(embedding, labels, loss, 1.0)) > gap(embedding) + 0.01


def test_ignored_pixels_leave_no_trace():
    embedding, labels, probabilities = example()
    ignored = (labels == 255)[:, None]
    results = []
    for change in (0.0, 1.0):
        noise = torch.Generator().manual_seed(9)
        other = torch.randn(embedding.shape, generator=noise, dtype=embedding.dtype) * ignored * change
        v = F.normalize(embedding + other, dim=1).requires_grad_()
        p = torch.where(ignored & (change > 0), probabilities.flip(1), probabilities)
        loss = fed()
        value = loss(v, labels, p, generator=torch.Generator().manual_seed(0))
        value.backward()
        assert (v.grad * ignored).abs().max() == 0
        loss.update(v, labels, p, generator=torch.Generator().manual_seed(0))
        results.append((value.detach(), v.grad, *loss.state_dict().values()))
    torch.testing.assert_close(results[0], results[1])


def test_only_confident_pixels_feed_the_state():
    embedding, labels, probabilities = example()
    loss = PixelContrastLoss(3, 6, confidence=0.7, bank=100, bank_per_image=100).double()
    loss.update(embedding, labels, probabilities, torch.tensor([4, 5, 6]))
    vectors, tissue, images = loss.bank.read()
    expected = []
    for b in range(3):
        for k in range(3):
            chosen = (labels[b] == k) & (probabilities[b, k] > 0.7)
            expected += [(k, b + 4, *v.tolist()) for v in embedding[b][:, chosen].T]
    assert sorted(zip(tissue.tolist(), images.tolist(), *vectors.T.tolist(), strict=True)) == sorted(expected)
    mean = torch.tensor([row[2:] for row in expected if row[0] == 1], dtype=torch.float64).mean(0)
    torch.testing.assert_close(loss.prototypes.vectors[1, 0], F.normalize(mean, dim=0))


def test_bank_holds_few_pixels_of_one_image():
    embedding, labels, probabilities = example(size=12)
    loss = PixelContrastLoss(3, 6, confidence=0.3, bank_per_image=4).double()
    loss.update(embedding, labels, probabilities, torch.tensor([4, 5, 6]))
    _, tissue, images = loss.bank.read()
    assert torch.bincount(tissue * 10 + images).max() == 4
    assert loss.bank.filled.tolist() == [12, 12, 12]


def test_without_identifiers_all_images_are_different():
    embedding, labels, probabilities = example()
    losses = [PixelContrastLoss(3, 6, anchors=1000).double() for _ in range(2)]
    losses[0].update(embedding, labels, probabilities, generator=torch.Generator().manual_seed(0))
    losses[1].update(embedding, labels, probabilities, torch.tensor([7, 8, 9]), torch.Generator().manual_seed(0))
    second = example(seed=5)
    assert losses[0](*second).item() == pytest.approx(losses[1](*second, torch.tensor([1, 2, 3])).item())


def test_anchors_are_balanced_and_half_hard():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 700 + [1] * 200 + [255] * 300)
    hard = torch.rand(1200, generator=generator) < 0.4
    chosen = choose_anchors(labels, hard, 100, generator)
    assert len(set(chosen.tolist())) == len(chosen) == 100
    for k in (0, 1):
        mine = chosen[labels[chosen] == k]
        assert len(mine) == 50
        # A quarter of the anchors is asked to be hard; the other half holds hard pixels as often as chance has it.
        assert 25 <= hard[mine].sum() <= 25 + 18


def test_anchors_when_few_are_hard_or_a_tissue_is_small():
    labels = torch.tensor([0] * 100 + [2] * 3 + [255] * 5)
    hard = torch.zeros(108, dtype=torch.bool)
    hard[[4, 101, 105]] = True
    chosen = choose_anchors(labels, hard, 21)
    assert (labels[chosen] == 0).sum() == 11 and (labels[chosen] == 2).sum() == 3
    assert {4, 101} <= set(chosen.tolist()) and 105 not in chosen
    assert choose_anchors(torch.full((9,), 255), hard[:9], 5).numel() == 0
    assert len(choose_anchors(torch.arange(6), hard[:6], 3)) == 3


@pytest.mark.parametrize("case", ["nothing labelled", "one tissue", "one image without state"])
def test_nothing_to_contrast_is_zero_with_graph(case):
    embedding, labels, probabilities = example()
    if case == "nothing labelled":
        labels = torch.full_like(labels, 255)
    elif case == "one tissue":
        labels = torch.zeros_like(labels)
    else:
        embedding, labels, probabilities = embedding[:1], labels[:1], probabilities[:1]
    embedding.requires_grad_()
    loss = PixelContrastLoss(3, 6).double()
    value = loss(embedding, labels, probabilities)
    value.backward()
    assert value.item() == 0 and embedding.grad.abs().max() == 0
    loss.update(embedding, labels, probabilities)


def test_the_loss_changes_no_state_and_update_needs_no_graph():
    loss = fed()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    embedding, labels, probabilities = example()
    value = loss(embedding.requires_grad_(), labels, probabilities)
    assert all(torch.equal(before[name], value) for name, value in loss.state_dict().items())
    loss.update(embedding, labels, probabilities)  # before backward, as some loops will
    assert not any(v.requires_grad for v in loss.buffers())
    value.backward()


def test_resume_from_state_dict():
    def run(loss, steps):
        values = []
        for step in steps:
            torch.manual_seed(step)
            batch = example(seed=step)
            values.append(loss(*batch, torch.tensor([3, 4, 5]) * step).item())
            loss.update(*batch, torch.tensor([3, 4, 5]) * step)
        return values

    def new():
        return PixelContrastLoss(3, 6, anchors=20, bank=10, prototypes=2).double()

    whole, first, second = new(), new(), new()
    expected = run(whole, range(1, 7))
    run(first, range(1, 4))
    second.load_state_dict(first.state_dict())
    assert run(second, range(4, 7)) == expected[3:]


def test_autocast_outside_does_not_change_it():
    embedding, labels, probabilities = example(dtype=torch.float32)
    loss = PixelContrastLoss(3, 6, anchors=1000)
    loss.update(embedding, labels, probabilities)
    plain = loss(embedding, labels, probabilities, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(embedding, labels, probabilities, generator=torch.Generator().manual_seed(0))
        half = loss(embedding.bfloat16(), labels, probabilities.bfloat16(), generator=torch.Generator().manual_seed(0))
    assert inside.dtype == half.dtype == torch.float32
    assert plain.item() == inside.item()


def test_labels_on_grid():
    labels = torch.full((1, 8, 8), 255, dtype=torch.uint8)
    labels[0, :4, :4] = 1
    labels[0, 0, 0] = 0
    labels[0, 4:, :3] = 2
    assert labels_on_grid(labels, (2, 2), 3).tolist() == [[[1, 255], [2, 255]]]
    assert labels_on_grid(labels, (8, 8), 3).dtype == torch.long


@pytest.mark.parametrize(
    "change, words",
    [
        ({"embedding": torch.rand(3, 5, 5, 5)}, "embedding must be"),
        ({"labels": torch.zeros(3, 4, 5, dtype=torch.long)}, "labels must be"),
        ({"labels": torch.zeros(3, 5, 5)}, "labels must be"),
        ({"probabilities": torch.rand(3, 2, 5, 5)}, "probabilities must be"),
        ({"image_ids": torch.arange(2)}, "image_ids must be"),
    ],
)
def test_bad_input_is_named(change, words):
    embedding, labels, probabilities = example()
    arguments = {"embedding": embedding, "labels": labels, "probabilities": probabilities, **change}
    with pytest.raises(ValueError, match=words):
        PixelContrastLoss(3, 6)(**arguments)
    with pytest.raises(ValueError, match=words):
        PixelContrastLoss(3, 6).update(**arguments)


def test_bad_settings():
    with pytest.raises(ValueError, match="temperature"):
        PixelContrastLoss(3, 6, temperature=0)

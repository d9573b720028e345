"""The order in which patches are asked for."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patch2tissue.errors import ConfigError
from patch2tissue.labelling.queue import Queue, shuffled, uncertainty

PATCHES = [f"train/{number:04}.png" for number in range(400)]


def answer_all(queue: Queue, patches: list[str], ahead: int = 1) -> list[tuple[str, str]]:
    """Go through all patches, with some of them waiting in the page."""
    done: list[tuple[str, str]] = []
    answered: set[str] = set()
    waiting: list = []
    while True:
        waiting += queue.next(ahead - len(waiting), answered, [one.patch for one in waiting])
        if not waiting:
            return done
        one = waiting.pop(0)
        done.append((one.patch, one.chosen))
        answered.add(one.patch)


@given(st.integers(0, 1000), st.integers(1, 9))
def test_every_patch_is_asked_for_once_whatever_waits(seed: int, ahead: int) -> None:
    patches = PATCHES[:37]
    queue = Queue(patches, seed=seed, random_share=0.3)
    plain = answer_all(queue, patches, ahead)
    assert sorted(patch for patch, _ in plain) == patches
    queue.suggest({patch: (number / 37, 0.5) for number, patch in enumerate(patches)})
    led = answer_all(queue, patches, ahead)
    assert sorted(patch for patch, _ in led) == patches
    # what waits in the page does not change the order
    assert led == answer_all(queue, patches, 1)


def test_order_is_random_but_the_same_and_stays_when_patches_are_added() -> None:
    order = shuffled(PATCHES, 0)
    assert order == shuffled(PATCHES[::-1], 0) and order != PATCHES and order != shuffled(PATCHES, 1)
    more = shuffled([*PATCHES, "train/new.png"], 0)
    assert [patch for patch in more if patch != "train/new.png"] == order


def test_uncertainty_is_entropy() -> None:
    assert uncertainty([0.5, 0.5]) == 1 and uncertainty([0.0, 1.0]) == 0
    assert uncertainty([0.25]) == pytest.approx(-0.25 * math.log2(0.25) - 0.75 * math.log2(0.75))


def test_model_leads_to_what_it_is_least_sure_of_beside_a_random_share() -> None:
    queue = Queue(PATCHES, seed=3, random_share=0.25)
    # patch k is the surer the larger k is
    queue.suggest({patch: (0.5 - number / 1000,) for number, patch in enumerate(PATCHES)})
    asked = queue.next(80, set())
    led = [PATCHES.index(one.patch) for one in asked if one.chosen == "model"]
    random = [one.patch for one in asked if one.chosen == "random"]
    assert len(random) == 20 and led == sorted(led)
    # the random ones are the first of a random order that does not look at the model
    queue.suggest({patch: (number / 1000,) for number, patch in enumerate(PATCHES)})
    assert [one.patch for one in queue.next(80, set()) if one.chosen == "random"] == random
    numbers = [PATCHES.index(patch) for patch in random]
    assert 120 < sum(numbers) / len(numbers) < 280
    assert asked[0].suggested == (0.5 - PATCHES.index(asked[0].patch) / 1000,)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_nothing_at_random(share: float) -> None:
    queue = Queue(PATCHES[:30], random_share=share)
    queue.suggest(dict.fromkeys(PATCHES, (0.5,)))
    assert {chosen for _, chosen in answer_all(queue, PATCHES[:30])} == {"random" if share else "model"}


def test_patches_without_a_suggestion_come_last_of_those_the_model_leads_to() -> None:
    queue = Queue(PATCHES[:30], random_share=0.0)
    queue.suggest(dict.fromkeys(PATCHES[10:20], (0.99,)))
    first = [one.patch for one in queue.next(10, set())]
    assert sorted(first) == PATCHES[10:20]


def test_share_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ConfigError, match="random share"):
        Queue(PATCHES, random_share=1.5)


@given(
    st.lists(st.sampled_from(PATCHES[:40]), unique=True),
    st.sets(st.sampled_from(PATCHES[:40])),
    st.lists(st.sampled_from(PATCHES[:40]), unique=True),
    st.integers(1, 60),
    st.booleans(),
)
def test_flagged_patches_come_first_and_once(
    flagged: list[str], answered: set[str], waiting: list[str], count: int, led: bool
) -> None:
    queue = Queue(PATCHES[:40])
    if led:
        queue.suggest(dict.fromkeys(PATCHES[:20], (0.5, 0.9)))
    asked = queue.next(count, answered, waiting, flagged)
    urgent = [patch for patch in flagged if patch not in waiting][:count]
    assert (
        [one.patch for one in asked if one.chosen == "flagged"] == urgent == [one.patch for one in asked][: len(urgent)]
    )
    others = [one.patch for one in asked[len(urgent) :]]
    assert not set(others) & (answered | set(waiting) | set(flagged))
    assert len({one.patch for one in asked}) == len(asked) <= count

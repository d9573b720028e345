"""Which patch an annotator is asked about next."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from patch2tissue.errors import ConfigError
from patch2tissue.labelling.store import Chosen


@dataclass(frozen=True)
class Asked:
    """A patch that an annotator is asked about.

    Attributes:
        patch: its path.
        chosen: why it is asked for.
        suggested: the model's probabilities per tissue, None without a model.
    """

    patch: str
    chosen: Chosen
    suggested: tuple[float, ...] | None = None


def shuffled(patches: Sequence[str], seed: int) -> list[str]:
    """Patches in an order that is random, the same for all annotators, and stays as it is when patches are added."""
    return sorted(patches, key=lambda patch: _draw(patch, seed))


def _draw(patch: str, seed: int) -> float:
    """A number from 0 to 1 that depends on the patch's name and the seed alone."""
    digest = hashlib.blake2b(f"{seed}\0{patch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def uncertainty(probabilities: Sequence[float]) -> float:
    """How unsure a model is of a patch: the mean over the tissues of the entropy in bits, 0..1."""
    return sum(_entropy(p) for p in probabilities) / len(probabilities)


def _entropy(p: float) -> float:
    return -sum(q * math.log2(q) for q in (p, 1 - p) if q > 0)


class Queue:
    """The order in which patches are asked for.

    Without a model it is random and the same for all, so that work that is left off early is an unbiased sample of all
    slides, and two annotators see the same patches. With a model a share of the patches is drawn at random, once and
    for all; of the rest those come first of which the model is least sure. What is labelled of the random share, in
    its random order, stays an unbiased sample on which the model can be judged.

    Args:
        patches: all patches.
        seed: of the random order.
        random_share: share of patches, and of turns, that are random when there is a model, 0..1.

    Raises:
        ConfigError: if the share is none.
    """

    def __init__(self, patches: Sequence[str], *, seed: int = 0, random_share: float = 0.2) -> None:
        if not 0 <= random_share <= 1:
            raise ConfigError(f"The random share is from 0 to 1, not {random_share}.")
        self._order = shuffled(patches, seed)
        self._share = random_share
        drawn = {patch for patch in self._order if _draw(patch, seed + 1) < random_share}
        self._drawn = [patch for patch in self._order if patch in drawn]
        self._others = [patch for patch in self._order if patch not in drawn]
        self._suggestions: dict[str, tuple[float, ...]] = {}
        self._led = self._others

    def suggest(self, suggestions: Mapping[str, tuple[float, ...]]) -> None:
        """Take the model's probabilities; patches without are taken to be the surest."""
        self._suggestions = dict(suggestions)
        unsure = {patch: uncertainty(found) for patch, found in self._suggestions.items()}
        # sorting keeps the random order among equals
        self._led = sorted(self._others, key=lambda patch: -unsure.get(patch, -1.0))

    def next(
        self, count: int, answered: set[str], waiting: Sequence[str] = (), flagged: Sequence[str] = ()
    ) -> list[Asked]:
        """The next patches: those that were flagged, then the others.

        Args:
            count: how many, at most.
            answered: patches that the annotator has answered about.
            waiting: patches that the annotator has been given already, in order; they are not given again.
            flagged: patches to ask about before all others, answered or not.
        """
        urgent = [Asked(p, "flagged", self._suggestions.get(p)) for p in _first(flagged, count, set(waiting))]
        return urgent + self._in_turn(count - len(urgent), answered | set(waiting) | set(flagged))

    def _in_turn(self, count: int, without: set[str]) -> list[Asked]:
        if not self._suggestions:
            return [Asked(patch, "order") for patch in _first(self._order, count, without)]
        random = _remaining(self._drawn, without)
        led = _remaining(self._led, without)
        asked: list[Asked] = []
        turn = len(without)
        while len(asked) < count:
            # of any n turns about n · share are random
            is_random = math.floor((turn + 1) * self._share) > math.floor(turn * self._share)
            turn += 1
            patch = next(random if is_random else led, None)
            chosen: Chosen = "random" if is_random else "model"
            if patch is None:
                patch, chosen = next(led if is_random else random, None), "model" if is_random else "random"
            if patch is None:
                break
            asked.append(Asked(patch, chosen, self._suggestions.get(patch)))
        return asked


def _remaining(patches: Sequence[str], without: set[str]) -> Iterator[str]:
    return (patch for patch in patches if patch not in without)


def _first(patches: Sequence[str], count: int, without: set[str]) -> Iterator[str]:
    return (patch for patch, _ in zip(_remaining(patches, without), range(count), strict=False))

"""Trainings that die at a given step, as a killed process does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from patch2tissue.training import Stage


class Killed(BaseException):
    """Stands for the end of the process at this very place."""


def killed_at(monkeypatch: pytest.MonkeyPatch, kind: type[Stage], step: int, train: Callable[[], object]) -> None:
    """Run a training that dies at the given step."""
    original, calls = kind.training_step, [0]

    def step_or_die(self: Stage, *arguments: object) -> object:
        calls[0] += 1
        if calls[0] == step:
            raise Killed
        return original(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(kind, "training_step", step_or_die)
        train()

from __future__ import annotations

import math

import pytest
import torch
from benchmarks.speed import predict
from benchmarks.speed.harness import Options


def test_quick_mode_gives_every_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    made = predict.make_engine

    def plain_only(name: str, *arguments: object, **options: object) -> object:
        if name != "torch":  # the others take long to start, and have tests of their own
            raise predict.ConfigError("not here")
        return made(name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(predict, "make_engine", plain_only)
    section = predict.run(Options(torch.device("cpu"), torch.get_num_threads(), repeats=2, quick=True))
    figures = {line.key: line.value for line in section.lines}
    assert set(figures) == {
        "predict.share_of_bare_network",
        "predict.engine.torch",
        "predict.agreement.torch",
        "predict.agreement.bare",
    }
    assert all(math.isfinite(value) and value > 0 for value in figures.values())
    assert section.lines[0].target == "at least 85%"
    assert figures["predict.agreement.torch"] > 0.9
    assert section.details["images_per_second"].keys() == {"bare", "predict", "torch"}

from __future__ import annotations

import math

import pytest
import torch
from benchmarks.speed import page, predict
from benchmarks.speed.harness import Options


def test_quick_mode_gives_every_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    made = predict.make_engine

    def plain_only(name: str, *arguments: object, **options: object) -> object:
        if name != "torch":  # the others take long to start, and have tests of their own
            raise predict.ConfigError("not here")
        return made(name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(predict, "make_engine", plain_only)
    section = predict.run(Options(torch.device("cpu"), torch.get_num_threads(), repeats=2, quick=True))
    assert [line.key for line in section.lines] == ["predict.share_of_bare_network"]
    assert section.lines[0].target == "at least 85%"
    assert math.isfinite(section.lines[0].value) and section.lines[0].value > 0
    engines = {row["engine"]: row for row in section.details["engines"]}
    assert engines.keys() == {"bare", "torch"}
    assert all(row["throughput"] > 0 and row["agreement"] > 0.9 for row in engines.values())
    assert section.details["images_per_second"].keys() == {"bare", "predict", "torch"}
    table = page.filled("<!-- table: predict -->\n<!-- end -->", {"details": {"predict": section.details}})
    assert "engine `torch`" in table

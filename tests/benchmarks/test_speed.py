"""The benchmark of speed: its harness, its lattice, and each part in its quick form."""

from __future__ import annotations

import importlib
import json

import pytest
import torch
from benchmarks.speed.__main__ import RESULTS, merged
from benchmarks.speed.harness import Options, Section, interleaved, ratio
from benchmarks.speed.lattice import compiler, lattice_filter
from benchmarks.speed.page import PAGE, WORDS, filled

from patch2tissue.gaussian_kernel import filter_all, pixel_features

CPU = torch.device("cpu")


def test_things_are_timed_in_turn_after_their_warm_up() -> None:
    calls: list[str] = []
    seconds = interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, CPU, repeats=2, warmup=1)
    assert calls == ["a", "b", "a", "b", "a", "b"]
    assert {name: len(found) for name, found in seconds.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_the_median_of_those_within_a_round() -> None:
    assert ratio({"a": [1.0, 30.0, 3.0], "b": [1.0, 10.0, 1.0]}, "a", "b") == 3.0


def test_a_part_measured_again_replaces_its_own_figures_only() -> None:
    one, two = Section("one"), Section("two")
    one.add("one.share", 0.123456, "under 10%", False, "floor")
    two.add("two.share", 0.5, "", None, "")
    first = merged({}, {"one": one, "two": two}, {"threads": 1})
    again = Section("one")
    again.add("one.share", 0.05, "under 10%", True, "floor")
    second = merged(first, {"one": again}, {"threads": 2})
    assert first["one.share"] == 0.1235
    assert (second["one.share"], second["two.share"]) == (0.05, 0.5)
    assert second["targets"]["one.share"]["reached"] is True
    assert (second["measured"]["one"]["threads"], second["measured"]["two"]["threads"]) == (2, 1)


@pytest.mark.skipif(compiler() is None, reason="the lattice needs a C++ compiler")
def test_lattice_is_near_the_exact_kernel_but_for_its_scale() -> None:
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(2, 3, 4, 4), size=(24, 24), mode="bilinear")
    features = pixel_features(0.6 + 0.2 * smooth, 15.0, 5.0)
    values = torch.rand(2, 24 * 24, 3)
    exact = filter_all(features, values) + values
    found = lattice_filter(features, values)
    found *= (found * exact).sum() / found.square().sum()
    assert ((found - exact).norm() / exact.norm()).item() < 0.1


def test_tables_of_the_page_are_those_of_the_committed_figures() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")
    assert "<!-- table: figures -->" in text
    assert filled(text, results) == text


def test_page_has_a_name_for_every_figure() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert {key.removeprefix("gpu.") for key in results["targets"]} <= set(WORDS)


@pytest.mark.parametrize(
    "part",
    [
        "dense_energy",
        "pixel_contrast",
        pytest.param("accumulation", marks=pytest.mark.slow),
        pytest.param("training", marks=pytest.mark.slow),
    ],
)
def test_quick_form_gives_the_figures(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = Options(CPU, torch.get_num_threads(), repeats=1, quick=True)
    section = importlib.import_module(f"benchmarks.speed.{part}").run(options)
    keys = {
        "dense_energy": {"share_of_step", "gradient_error", "gradient_bias"},
        "pixel_contrast": {"share_of_step"},
        "accumulation": {"overhead_share", "bytes_per_cell"},
        "training": {"craanet.speedup_vs_fp32_loop", "pfscnet.speedup_vs_fp32_loop", "loader_wait_share"},
    }[part]
    found = {line.key: line.value for line in section.lines}
    assert {f"{part}.{key}" for key in keys} <= set(found)
    assert all(value >= 0 for value in found.values())

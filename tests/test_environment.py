from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from patch2tissue import environment
from patch2tissue.config import RunConfig, config_from_dict
from patch2tissue.config_sections import AugmentationConfig
from patch2tissue.environment import (
    Change,
    describe_environment,
    environment_changes,
    read_environment,
    write_environment,
)
from patch2tissue.errors import DataError

TORCH = metadata.version("torch")


def config(**hardware: Any) -> RunConfig:
    return config_from_dict(
        {"output": "run", "tissues": "glas", "data": {"path": "d"}, "hardware": hardware, "seed": 5}
    )


def test_it_tells_what_the_run_computes_with() -> None:
    found = describe_environment(config(device="cpu", threads=3, workers=2, precision="bfloat16"))
    assert (found["device"], found["threads"], found["workers"], found["precision"]) == ("cpu", 3, 2, "bfloat16")
    assert found["seed"] == 5 and found["versions"]["torch"] == TORCH
    plain = describe_environment(config(device="cpu", precision="float32"))
    assert plain["precision"] == "float32" and plain["threads"] >= 1
    assert environment_changes(plain, plain) == []


def test_the_library_of_an_augmentation_is_written_down() -> None:
    drawn = config(device="cpu")
    assert "monai" not in describe_environment(drawn)["versions"]
    drawn.data.augmentation = AugmentationConfig(monai={"_target_": "Compose", "transforms": []})
    assert "monai" in describe_environment(drawn)["versions"]


def test_differences_are_said_and_what_has_no_effect_is_not() -> None:
    then = describe_environment(config(device="cpu", threads=1))
    now = json.loads(json.dumps(then))
    now |= {"threads": 4, "cores": 1000, "command": ["other"], "git_commit": None}
    now["versions"]["torch"] = "9.9"
    then["git_commit"] = "abc"
    found = environment_changes(then, now)
    assert found == [
        Change("CPU threads", "1", "4"),
        Change("git commit", "abc", None),
        Change("torch", TORCH, "9.9"),
    ]
    assert str(found[1]) == "git commit: abc then, not known now"


def test_what_earlier_versions_wrote_is_understood() -> None:
    now = describe_environment(config(device="cpu", threads=2, precision="bfloat16"))
    then = {key: value for key, value in now.items() if key not in ("precision", "workers", "vector_instructions")}
    found = environment_changes(then | {"autocast": "torch.bfloat16"}, now)
    assert [change.what for change in found] == ["processor's vector instructions", "data workers"]
    assert all(change.then is None for change in found)
    precisions = environment_changes(then | {"autocast": "None"}, now)
    assert Change("precision", "float32", "bfloat16") in precisions


def test_a_run_that_goes_on_elsewhere_keeps_where_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "environment.json"
    write_environment(file, config(threads=1))
    first = file.read_bytes()
    write_environment(file, config(threads=1))
    assert file.read_bytes() == first
    monkeypatch.setattr(environment, "processor_name", lambda: "another processor")
    for _ in range(2):
        write_environment(file, config(threads=1))
    found = read_environment(file)
    assert found["processor"] == json.loads(first)["processor"]
    assert [one["processor"] for one in found["resumed"]] == ["another processor"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"versions": {}, "resumed": [1]}'])
def test_a_damaged_file_is_told_of_and_written_anew(tmp_path: Path, text: str) -> None:
    file = tmp_path / "environment.json"
    with pytest.raises(DataError, match="cannot be read"):
        read_environment(file)
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"environment\.json: is damaged"):
        read_environment(file)
    write_environment(file, config())
    assert read_environment(file)["seed"] == 5

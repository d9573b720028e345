"""Where a process stands by its environment, how many are started, and what is said of one that ended."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import RECIPES
from patch2tissue.config import HardwareConfig, OptimiserConfig, RunConfig
from patch2tissue.data.patches import Patch
from patch2tissue.distributed import place as places
from patch2tissue.distributed.launch import Order, _failure, _variables, processes_to_start
from patch2tissue.distributed.place import LAUNCHED, LOST, Place, is_first, place_of_process
from patch2tissue.environment import describe_environment, environment_changes
from patch2tissue.errors import ConfigError, TrainingError
from patch2tissue.hardware import thread_count
from patch2tissue.pseudo_labels.files import BATCH, rows_to_do
from patch2tissue.run_folder import RunFolder
from patch2tissue.training import fit
from test_training_goes_wrong import Given

OURS = {LAUNCHED: "1", "NODE_RANK": "1", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "5", "GROUP_RANK": "2", "LOCAL_RANK": "1"}
TORCHRUN |= {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}
SLURM = {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_PROCID": "7"}
SLURM |= {"SLURM_LOCALID": "3", "SLURM_NODEID": "1", "SLURM_NTASKS_PER_NODE": "4"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        (OURS, Place(6, 8, 2, 4, 1, "patch2tissue")),
        (TORCHRUN, Place(5, 6, 1, 2, 2, "torchrun")),
        (SLURM, Place(7, 8, 3, 4, 1, "SLURM")),
        # started by us within a step of SLURM
        (SLURM | OURS, Place(6, 8, 2, 4, 1, "patch2tissue")),
        # a batch script without srun, an interactive shell, a single task
        ({name: value for name, value in SLURM.items() if name != "SLURM_STEP_ID"}, None),
        (SLURM | {"SLURM_JOB_NAME": "bash"}, None),
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        (TORCHRUN | {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, None),
    ],
)
def test_place_by_environment(variables: dict[str, str], expected: Place | None) -> None:
    found = place_of_process(variables)
    assert found == expected
    if found is not None:
        assert found.nodes * found.local_world == found.world


def test_environments_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match=r"spread evenly.*--ntasks-per-node"):
        place_of_process(SLURM | {"SLURM_NTASKS": "7", "SLURM_PROCID": "6"})
    with pytest.raises(ConfigError, match=r"WORLD_SIZE is None"):
        place_of_process({LAUNCHED: "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"})


def test_processes_share_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    place = place_of_process(OURS)
    assert place is not None and place.cores(16) == 4 and place.cores(3) == 1
    of_slurm = place_of_process(SLURM)
    assert of_slurm is not None and of_slurm.cores(16) == 4
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")  # to which the process may be confined already
    assert of_slurm.cores(6) == 6 and of_slurm.cores(4) == 4
    monkeypatch.setattr(places, "_joined", place)
    monkeypatch.setattr("patch2tissue.hardware.available_cores", lambda: 4)
    assert thread_count(HardwareConfig()) == 1 and thread_count(HardwareConfig(threads=3)) == 3
    assert not is_first()


def test_how_many_are_started() -> None:
    assert processes_to_start(HardwareConfig()) == 0
    assert processes_to_start(HardwareConfig(devices=3)) == 3
    assert processes_to_start(HardwareConfig(devices="auto", device="cpu")) == 0
    assert processes_to_start(HardwareConfig(devices=1, nodes=2)) == 1
    variables = _variables(3, 1)
    assert variables["WORLD_SIZE"] == variables["LOCAL_WORLD_SIZE"] == "3" and variables["NODE_RANK"] == "0"


def test_machines_must_know_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"torchrun or srun.*MASTER_ADDR"):
        _variables(2, 2)
    for name, value in (("MASTER_ADDR", "first"), ("MASTER_PORT", "29500"), ("NODE_RANK", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"NODE_RANK is '2', not a number from 0 to 1"):
        _variables(2, 2)


@pytest.mark.parametrize(
    ("codes", "code", "said"),
    [
        ([1, -signal.SIGKILL, None], 1, "Process 5 of the training was killed (SIGKILL)"),
        ([-signal.SIGSEGV, 1, 1], 1, "Process 4 of the training was killed (SIGSEGV)"),
        # one met a mistake of the user, and the others lost it
        ([1, 1, 2], 2, "process 6 of the training could not go on (exit code 2)"),
        ([1, 1, 1], 1, "process 4 of the training could not go on"),
        ([LOST, 1, LOST], 1, "process 5 of the training could not go on"),
        ([LOST, -signal.SIGKILL, LOST], 1, "Process 5 of the training was killed (SIGKILL)"),
        ([None, LOST, LOST], 1, "Processes on another machine ended"),
        ([None, 130, None], 130, "Interrupted"),
    ],
)
def test_what_is_said_of_a_process_that_ended(codes: list[int | None], code: int, said: str) -> None:
    error = _failure(codes, first=4)
    assert isinstance(error, TrainingError) and error.exit_code == code and said in str(error)
    assert ("memory" in str(error)) == ("SIGKILL" in said)
    assert code == 130 or "give the same command again" in str(error)


def test_the_options_of_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_command: Callable[..., int]) -> None:
    configs = []

    def run_training(config: RunConfig, **options: object) -> RunFolder:
        configs.append(config)
        return RunFolder(tmp_path)

    monkeypatch.setattr("patch2tissue.pipeline.run_training", run_training)
    recipe = RECIPES / "demo.yaml"
    assert run_command("train", recipe, "--devices", "auto", "--set", "hardware.nodes=3") == 0
    assert run_command("train", recipe, "--devices", 4, "--nodes", 2) == 0
    assert [(config.hardware.devices, config.hardware.nodes) for config in configs] == [("auto", 3), (4, 2)]
    assert run_command("train", recipe, "--devices", "all") == run_command("train", recipe, "--nodes", 0) == 2
    # what a repetition of the second would run on
    told = describe_environment(configs[1].model_copy(update={"hardware": HardwareConfig(devices=4, nodes=2)}))
    assert [told[name] for name in ("devices", "nodes", "world_size")] == [4, 2, 8]
    changes = environment_changes({"versions": told["versions"]}, told)
    assert "training processes: 1 then, 8 now" in map(str, changes)


def test_orders_survive_the_way() -> None:
    order = Order({"seed": 1, "output": "ö/x"}, ["craanet"], False, True, 20, False, ["patch2tissue", "train", "a\nb"])
    assert "\n" not in order.to_line()[:-1] and Order.from_line(order.to_line()) == order


def test_processes_take_turns_at_batches_of_pseudo_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patches = [Patch(tmp_path / f"p{i}.png", f"p{i}") for i in range(3 * BATCH + 5)]
    everything = rows_to_do(patches, tmp_path / "done")
    shares = []
    (tmp_path / "done").mkdir()
    for rank in range(3):
        monkeypatch.setattr(places, "_joined", Place(rank, 3, rank, 3, 0, "torchrun"))
        shares.append(rows_to_do(patches, tmp_path / "done"))
        for row in shares[-1]:  # what is done meanwhile changes nothing for others
            (tmp_path / "done" / f"p{row}.png").touch()
    assert [len(share) for share in shares] == [BATCH + 5, BATCH, BATCH]
    assert sorted(row for share in shares for row in share) == everything == list(range(len(patches)))


def test_stages_that_cannot_be_shared_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_joined", Place(1, 2, 1, 2, 0, "torchrun"))
    monkeypatch.setattr("patch2tissue.training.is_finished", lambda folder: False)
    with pytest.raises(ConfigError, match=r"given can only be trained in one process"):
        fit(Given([]), None, OptimiserConfig(), tmp_path, seed=0, hardware=HardwareConfig())  # type: ignore[arg-type]

"""Files of a run folder, and of a labelled folder, that are broken, hostile, or of another run."""

from __future__ import annotations

import json
import pickle
import sqlite3
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tests.bad_input.faults import Fault, Maker, content
from tests.inference.tiny_run import write_config

from patch2tissue.config import EncoderConfig
from patch2tissue.craanet.network import CRAANet, save_craanet
from patch2tissue.pfscnet.network import PFSCNet, save_pfscnet

CANARY = "canary"
"""File in the working directory that every payload of the corpus would write."""


class Payload:
    """Writes the canary when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.write_text, (Path(CANARY), "run"))


def _pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload()))


def _torch(path: Path) -> None:
    torch.save({"epoch": 0, "network": Payload()}, path)


def _objects_npy(path: Path) -> None:
    np.save(path, np.array([Payload()], dtype=object), allow_pickle=True)


def _objects_npz(path: Path) -> None:
    names = ("names", "epochs", "current", "accumulated", "present", "probabilities")
    np.savez(path, **{name: np.array([Payload()], dtype=object) for name in names}, allow_pickle=True)


def _half(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def _header(length: int, header: bytes = b"") -> Maker:
    """A safetensors file whose header says something of itself."""
    return content(struct.pack("<Q", length) + header)


def _outside(path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**40]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))


def _tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Maker:
    def make(path: Path) -> None:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return make


def _json(change: Callable[[Any], object]) -> Maker:
    def make(path: Path) -> None:
        plain = json.loads(path.read_text(encoding="utf-8"))
        change(plain)
        path.write_text(json.dumps(plain), encoding="utf-8")

    return make


def _of_another_set(path: Path) -> None:
    """A whole network of a run with two tissues, in place of that of four."""
    encoder = EncoderConfig(name="test_resnet", output_stride=8)
    save_pfscnet(PFSCNet(encoder, 2, decoder_channels=16, embedding_dimensions=8), path.parent)


def _other_names(plain: dict[str, Any]) -> None:
    plain["tissue_names"] = ["tumour epithelium", "necrosis", "lymphocyte", "tumour-associated stroma"]


def _network(name: str, file: str, make: Maker, *says: str) -> Fault:
    return Fault("networks", name, f"pfscnet/{file}", make, says)


_RESTORE = "Restore the file"
_WEIGHTS = "does not fit network.json beside it"
_OTHER = "describes no PFSCNet of this version"

NETWORKS = [
    _network("weights that are missing", "weights.safetensors", Path.unlink, _WEIGHTS, _RESTORE),
    _network("weights without a byte", "weights.safetensors", content(b""), _WEIGHTS, _RESTORE),
    _network("weights cut in half", "weights.safetensors", _half, _WEIGHTS, _RESTORE),
    _network("weights that are a pickle", "weights.safetensors", _pickled, _WEIGHTS, _RESTORE),
    _network("weights that are a checkpoint", "weights.safetensors", _torch, _WEIGHTS, _RESTORE),
    _network("a header of 16 exabytes", "weights.safetensors", _header(2**64 - 1), _WEIGHTS, _RESTORE),
    _network("a header longer than the file", "weights.safetensors", _header(10**6, b"{}"), _WEIGHTS, _RESTORE),
    _network("a header that is no JSON", "weights.safetensors", _header(4, b"\xff{}}"), _WEIGHTS, _RESTORE),
    _network("a header of a thousand levels", "weights.safetensors", _header(9**4, b"[" * 9**4), _WEIGHTS, _RESTORE),
    _network("tensors beyond the file", "weights.safetensors", _outside, _WEIGHTS, _RESTORE),
    _network("no tensors", "weights.safetensors", _tensors(dict.clear), _WEIGHTS, _RESTORE),
    _network("a tensor less", "weights.safetensors", _tensors(dict.popitem), _WEIGHTS, _RESTORE),
    _network(
        "a tensor of another shape",
        "weights.safetensors",
        _tensors(lambda t: t.update({min(t): torch.ones(3)})),
        _WEIGHTS,
    ),
    _network("no description", "network.json", Path.unlink, "Finish `patch2tissue train`"),
    _network("a description without a byte", "network.json", content(b""), "not readable as JSON", "restore the file"),
    _network("a description cut in half", "network.json", _half, "not readable as JSON", "restore the file"),
    _network("a description of a thousand levels", "network.json", content("[" * 10**5), "not readable", "restore the"),
    _network("a description that is a list", "network.json", content("[]"), "describes no PFSCNet", _RESTORE),
    _network(
        "another kind of network", "network.json", _json(lambda p: p.update(kind="CRAANet")), "describes no PFSCNet"
    ),
    _network("a field less", "network.json", _json(lambda p: p.pop("decoder_channels")), _OTHER, _RESTORE),
    _network("a section that is text", "network.json", _json(lambda p: p.update(encoder="resnet")), _OTHER, _RESTORE),
    _network("a field of another version", "network.json", _json(lambda p: p["encoder"].update(depth=5)), _OTHER),
    _network(
        "an encoder that is unknown",
        "network.json",
        _json(lambda p: p["encoder"].update(name="net9")),
        "no model 'net9'",
    ),
    _network(
        "an encoder with a file",
        "network.json",
        _json(lambda p: p["encoder"].update(options={"checkpoint_path": "x"})),
        "not taken here",
    ),
    _network("tissues below zero", "network.json", _json(lambda p: p.update(tissues=-4)), "network.json", _RESTORE),
    _network("tissues that are text", "network.json", _json(lambda p: p.update(tissues="four")), _OTHER, _RESTORE),
    _network(
        "of another tissue set", "network.json", _of_another_set, "was trained on 2 tissues", "Restore the config.yaml"
    ),
    _network(
        "of a set of as many tissues", "network.json", _json(_other_names), "was trained on tumour epi", "Restore the"
    ),
]


def _array(name: str, file: str, make: Maker, *says: str) -> Fault:
    return Fault("arrays", name, f"craanet/{file}", make, says)


def _npy(array: np.ndarray) -> Maker:
    return lambda path: np.save(path, array)


def _lying_npy(path: Path) -> None:
    """A header that states a petabyte."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000, 1000, 1000), }"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)


def _npz(**changes: np.ndarray) -> Maker:
    def make(path: Path) -> None:
        arrays = {
            "names": np.array(["p0[1000]"]),
            "epochs": np.array([1]),
            "current": np.zeros((1, 1, 4, 4, 4), np.float16),
            "accumulated": np.zeros((1, 1, 4, 4, 4), np.float16),
            "present": np.ones((1, 4), np.uint8),
        }
        np.savez_compressed(path, **(arrays | changes))

    return make


def _damaged_npz(path: Path) -> None:
    """An archive whose index is whole and whose contents are not."""
    _npz(current=np.random.default_rng(0).random((1, 1, 4, 9, 9)).astype(np.float32))(path)
    with zipfile.ZipFile(path) as file:
        where = next(entry.header_offset for entry in file.infolist() if entry.filename == "current.npy")
    raw = bytearray(path.read_bytes())
    raw[where + 60 : where + 400] = bytes(340)
    path.write_bytes(bytes(raw))


_TRAIN = "Train stage craanet again"
_MAPS = "attention_memory/maps.npy"
_HISTORY = "attention_history.npz"

ARRAYS = [
    _array("a memory without a byte", _MAPS, content(b""), "cannot be read", _TRAIN),
    _array("a memory cut in half", _MAPS, _half, "cannot be read", _TRAIN),
    _array("a memory of objects", _MAPS, _objects_npy, "cannot be read", _TRAIN),
    _array("a memory that is a pickle", _MAPS, _pickled, "cannot be read", _TRAIN),
    _array(
        "a memory that is an archive", _MAPS, lambda p: np.savez(p.open("wb"), a=np.ones(3)), "no .npy file", _TRAIN
    ),
    _array("a memory of a petabyte", _MAPS, _lying_npy, "cannot be read", _TRAIN),
    _array("a memory of one number", _MAPS, _npy(np.zeros(1, np.float16)), "holds no attention maps", _TRAIN),
    _array("a memory of text", _MAPS, _npy(np.array([[[["a"]]]])), "holds no attention maps", _TRAIN),
    _array(
        "a memory of other patches", _MAPS, _npy(np.zeros((9, 4, 4, 4), np.float16)), "holds no attention maps", _TRAIN
    ),
    _array(
        "settings of a memory that are a list",
        "attention_memory/memory.json",
        content("[]"),
        "not an attention",
        _TRAIN,
    ),
    _array(
        "settings of a memory cut in half", "attention_memory/memory.json", _half, "not an attention memory", _TRAIN
    ),
    _array("a history without a byte", _HISTORY, content(b""), "cannot be read", _TRAIN),
    _array("a history of objects", _HISTORY, _objects_npz, "cannot be read", _TRAIN),
    _array("a history that is a pickle", _HISTORY, _pickled, "cannot be read", _TRAIN),
    _array(
        "a history that is an array", _HISTORY, lambda p: np.save(p.open("wb"), np.ones(3)), "cannot be read", _TRAIN
    ),
    _array(
        "a history that lacks arrays", _HISTORY, lambda p: np.savez(p, names=np.array(["a"])), "cannot be read", _TRAIN
    ),
    _array("a history damaged inside", _HISTORY, _damaged_npz, "cannot be read", _TRAIN),
    _array("a history of other shapes", _HISTORY, _npz(present=np.ones((2, 2))), "do not fit each other", _TRAIN),
    _array(
        "a history without height",
        _HISTORY,
        _npz(current=np.zeros((1, 1, 4, 0, 4)), accumulated=np.zeros((1, 1, 4, 0, 4))),
        "do not fit",
        _TRAIN,
    ),
    _array("a history of text", _HISTORY, _npz(epochs=np.array(["first"])), "cannot be read", _TRAIN),
]


def _record(name: str, file: str, text: str | bytes, *says: str, accepted: bool = False) -> Fault:
    return Fault("records", name, file, content(text), says, accepted)


_LEVELS = "[" * 100_000
_DELETE = "Delete it"

RECORDS = [
    _record("scores without a byte", "scores.json", "", "cannot be read", _DELETE),
    _record("scores cut short", "scores.json", '{"test": {"full', "cannot be read", _DELETE),
    _record("scores that are a list", "scores.json", "[]", "does not hold what patch2tissue writes", _DELETE),
    _record("scores of 100 000 levels", "scores.json", _LEVELS, "cannot be read", _DELETE),
    _record("scores in Latin-1", "scores.json", '{"é": 1}'.encode("latin-1"), "cannot be read", _DELETE),
    _record("details that are text", "scores_detail.json", '"x"', "does not hold what patch2tissue writes", _DELETE),
    _record("an environment cut short", "environment.json", "{", "cannot be read", _DELETE),
    _record("curves of another text", "craanet/metrics.csv", b"\x89PNG\xff\xfe", "cannot be read as a CSV file"),
    _record("scores of other forms", "scores.json", '{"test": [1], "pseudo_labels": {"cam": 3}}', accepted=True),
    _record(
        "scores that are no numbers",
        "scores.json",
        '{"test": {"full_method": {"miou": "x", "ci95": 1}}}',
        accepted=True,
    ),
    _record("scores that are NaN", "scores.json", '{"test": {"full_method": {"miou": NaN, "iou": []}}}', accepted=True),
    _record(
        "a confusion of NaN", "scores_detail.json", '{"test": {"full_method": {"confusion": [[NaN]]}}}', accepted=True
    ),
    _record("an environment of other forms", "environment.json", '{"command": 3, "versions": []}', accepted=True),
    _record("curves without columns", "craanet/metrics.csv", "a,b\n1\n,,,,\n", accepted=True),
    _record("areas of other forms", "predictions/full_method/areas.csv", "image,tissue\nx\n", accepted=True),
]

# --- databases of labels ----------------------------------------------------------------------------------------------


def _database(*statements: str) -> Maker:
    def make(path: Path) -> None:
        with sqlite3.connect(path) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()

    return make


def _ours(*statements: str, damage: bool = False) -> Maker:
    """A database that was begun, and changed by somebody else."""

    def make(path: Path) -> None:
        from patch2tissue.labelling.store import Answer, LabelStore
        from patch2tissue.tissues import load_tissue_set

        with LabelStore(path, load_tissue_set("bcss-wsss")) as store:
            store.add([Answer(f"{k}", f"train/p{k % 4}.png", "Ada", "labelled", (1, 0, 0, 0)) for k in range(500)])
        _database(*statements)(path)
        if damage:
            raw = bytearray(path.read_bytes())
            for start in range(8192, len(raw), 4096):
                raw[start : start + 200] = b"\xff" * 200
            path.write_bytes(bytes(raw))

    return make


def _labels(name: str, make: Maker, *says: str) -> Fault:
    return Fault("databases of labels", name, "labels.sqlite", make, says)


_AWAY = "away"

DATABASES = [
    _labels("text", content("no database at all" * 99), "not a database", _AWAY),
    _labels("a header alone", content(b"SQLite format 3\0" + bytes(84)), "labels.sqlite", _AWAY),
    _labels("damaged pages", _ours(damage=True), "damaged", _AWAY),
    _labels(
        "another program's", _database("CREATE TABLE notes (a)"), "database of something else (notes)", "Move it away"
    ),
    _labels(
        "of a newer version", _ours("UPDATE about SET value = '9' WHERE name = 'version'"), "form 9", "Use the version"
    ),
    _labels(
        "a version that is text",
        _ours("UPDATE about SET value = '{' WHERE name = 'version'"),
        "form {",
        "Use the version",
    ),
    _labels(
        "of other tissues",
        _ours("UPDATE about SET value = '[\"a\"]' WHERE name = 'tissues'"),
        "the tissues a",
        "Use the",
    ),
    _labels(
        "tissues that are no list",
        _ours("UPDATE about SET value = '3' WHERE name = 'tissues'"),
        "something else",
        "Use",
    ),
    _labels("tissues that are no JSON", _ours("UPDATE about SET value = '[' WHERE name = 'tissues'"), "damaged", _AWAY),
    _labels("labels that are text", _ours("UPDATE answers SET labels = 'many'"), "damaged", _AWAY),
    _labels("seconds that are text", _ours("UPDATE answers SET seconds = 'long'"), "damaged", _AWAY),
]


def whole_run(folder: Path) -> Path:
    """A run with untrained networks, an attention memory, and what a report shows."""
    from patch2tissue.craanet.accumulation import AttentionMemory

    run = write_config(folder, "bcss-wsss", tile=32)
    torch.manual_seed(0)
    # of half a megabyte: many tests copy it
    encoder = EncoderConfig(name="test_resnet", output_stride=8)
    save_pfscnet(PFSCNet(encoder, 4, decoder_channels=16, embedding_dimensions=8), run / "pfscnet")
    save_craanet(CRAANet(encoder, 4), run / "craanet")
    AttentionMemory.create(run / "craanet" / "attention_memory", (4, 4, 4, 4))
    _npz()(run / "craanet" / _HISTORY)
    for stage in ("craanet", "pfscnet"):
        (run / stage / "metrics.csv").write_text("epoch,name,value\n1,loss,0.5\n", encoding="utf-8")
        (run / stage / "finished").write_text("")
    scores = {"supervision": "image-level labels", "test": {"full_method": {"miou": 0.5}}}
    (run / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    (run / "environment.json").write_text("{}", encoding="utf-8")
    return run

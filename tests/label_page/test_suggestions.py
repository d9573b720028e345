"""A run's classifier ticks ahead."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.inference.tiny_run import real_run
from tests.labelling.folders import data_folder

from patch2tissue.craanet.network import load_craanet
from patch2tissue.data.images import read_image
from patch2tissue.errors import DataError
from patch2tissue.inference.tiling import pad_to_multiple, to_input
from patch2tissue.label_page.session import LabelSession
from patch2tissue.labelling.pool import find_pool
from patch2tissue.labelling.store import DATABASE, LabelStore
from patch2tissue.labelling.suggest import model_of, suggest
from patch2tissue.tissues import load_tissue_set

TISSUES = load_tissue_set("bcss-wsss")


def test_suggestions_are_the_classifiers_probabilities(tmp_path: Path) -> None:
    run = real_run(tmp_path / "run", "bcss-wsss")
    folder = data_folder(tmp_path / "data", 20, size=64)
    (folder / "train" / "damaged.png").write_bytes(b"no image")
    with LabelStore(folder / DATABASE, TISSUES) as store:
        assert suggest(run, folder, store) == 21
        found = store.suggestions(model_of(run))
        assert len(found) == 20
        network = load_craanet(run / "craanet").eval()
        for patch in find_pool(folder)[1:6]:
            images = pad_to_multiple(to_input(read_image(folder / patch.path)[None], torch.device("cpu")), 32)
            with torch.inference_mode():
                expected = torch.sigmoid(network(images).logits)[0].numpy()
            np.testing.assert_allclose(found[patch.path], expected, atol=1e-3)
        # what is there is not done again
        assert suggest(run, folder, store) == 1


def test_a_run_of_other_tissues_is_refused(tmp_path: Path) -> None:
    run = real_run(tmp_path / "run", "luad-histoseg")
    folder = data_folder(tmp_path / "data", 2)
    with LabelStore(folder / DATABASE, TISSUES) as store, pytest.raises(DataError, match="was trained on"):
        suggest(run, folder, store)


def test_page_gets_suggestions_while_it_is_open(tmp_path: Path) -> None:
    run = real_run(tmp_path / "run", "bcss-wsss")
    folder = data_folder(tmp_path / "data", 20, size=64)
    session = LabelSession(folder, TISSUES, run=run, random_share=0.25)
    try:
        # the page does not wait for the model
        assert session.next("Ada", 1, [])[0]["chosen"] == "order"
        until = time.monotonic() + 90
        while session.progress(None)["suggested"] < 20:
            assert time.monotonic() < until
            time.sleep(0.1)
        patches = session.next("Ada", 20, [])
        assert {one["chosen"] for one in patches} == {"model", "random"}
        for one in patches:
            assert one["labels"] == [int(p >= 0.5) for p in one["suggested"]]
        first = next(one for one in patches if one["chosen"] == "random")
        answer = {key: first[key] for key in ("chosen", "suggested")}
        labels = (
            [1 - label for label in first["labels"][:1]] + first["labels"][1:] if any(first["labels"][1:]) else [1] * 4
        )
        session.answer(
            answer | {"key": "1", "patch": first["index"], "annotator": "Ada", "kind": "labelled", "labels": labels}
        )
        right = session.progress("Ada")["model"]
        assert right["patches"] == 1
        assert list(right["right"].values()) == [float(a == b) for a, b in zip(labels, first["labels"], strict=True)]
    finally:
        session.close()
    # a second time they are there from the start
    session = LabelSession(folder, TISSUES, run=run)
    try:
        assert session.next("Bea", 1, [])[0]["suggested"] is not None
    finally:
        session.close()

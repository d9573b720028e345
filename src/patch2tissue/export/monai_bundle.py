"""A MONAI bundle: the TorchScript model with configurations that `python -m monai.bundle run` takes."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from patch2tissue.inference.tiling import WINDOW_SIGMA
from patch2tissue.pfscnet.network import PFSCNet

FOLDER = "monai_bundle"
"""Its name in a model folder."""

_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
_TESTED = {"monai": "1.6.1", "pytorch-ignite": "0.5.5"}
"""Versions that the tests run the configuration with."""


def write_bundle(folder: Path, torchscript: Path, network: PFSCNet, description: Mapping[str, Any], card: str) -> None:
    """Write `configs/`, `models/`, `docs/` and `LICENSE`.

    Args:
        folder: of the bundle; it is made.
        torchscript: the exported TorchScript file.
        network: the run's, whose weights go to `models/model.pt`.
        description: see `describe_model`.
        card: text of the model card, without front matter.
    """
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir(parents=True)
    shutil.copyfile(torchscript, folder / "models" / "model.ts")
    weights = io.BytesIO()  # not the file: PyTorch does not say that a disk is full
    torch.save({name: tensor.cpu() for name, tensor in network.state_dict().items()}, weights)
    (folder / "models" / "model.pt").write_bytes(weights.getbuffer())
    for name, content in (("metadata", _metadata(description)), ("inference", _inference(description))):
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / "configs" / f"{name}.json").write_text(text, encoding="utf-8")
    (folder / "docs" / "README.md").write_text(f"{card}\n{_USE}", encoding="utf-8")
    (folder / "LICENSE").write_text(_licence(description["licence"]), encoding="utf-8")


_USE = """
## In MONAI

`models/model.ts` is the network with padding, normalisation and softmax inside; `models/model.pt` holds the plain
weights of patch2tissue's PFSCNet. To draw maps of a folder of PNG images, with `pip install monai fire pytorch-ignite`:

```bash
python -m monai.bundle run --config_file configs/inference.json --meta_file configs/metadata.json \\
    --bundle_root . --dataset_dir IMAGES --output_dir maps
```

Each mask `NAME_mask.png` holds the index of the likeliest tissue. White background is not left out.
"""


def _licence(licence: str) -> str:
    if licence == "other":
        return "The licence of this model was not specified. Ask whoever made it before you use or pass it on.\n"
    return (
        f"SPDX-License-Identifier: {licence}\n\nThe weights and configurations in this folder are under this licence.\n"
    )


def _not_run(name: str) -> str:
    """A name as MONAI takes it for text: what begins with `$` it runs, with `@` and `%` it looks up."""
    return f" {name}" if name[:1] in ("$", "@", "%") else name


def _metadata(description: Mapping[str, Any]) -> dict[str, Any]:
    names = [_not_run(tissue["name"]) for tissue in description["tissues"]["tissues"]]
    resolution = description["um_per_pixel"]
    side = description["not_in_the_graph"]["tiles"]["side"]
    return {
        "schema": _SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by patch2tissue {description['patch2tissue']}"},
        "monai_version": _TESTED["monai"],
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"pytorch-ignite": _TESTED["pytorch-ignite"], "pillow": PIL.__version__},
        "name": _not_run(description["name"]),
        "task": "Tissue segmentation of H&E images",
        "description": "Tissues of H&E-stained histology images, learned from labels of patches",
        "authors": "see docs/README.md",
        "copyright": "see LICENSE",
        "data_source": "see docs/README.md",
        "data_type": "png",
        "image_classes": "RGB in 0..1" + (f", {resolution:g} µm per pixel" if resolution else ""),
        "label_classes": ", ".join(f"{place} {name}" for place, name in enumerate(names)),
        "pred_classes": f"{len(names)} channels of probabilities",
        "eval_metrics": {},
        "intended_use": "Research only; no medical device, not for diagnosis",
        "references": ["Han et al., Physics in Medicine and Biology, 2023, doi 10.1088/1361-6560/acaeee"],
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "RGB",
                    "modality": "histopathology",
                    "num_channels": 3,
                    "spatial_shape": ["n", "n"],
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": True,
                    "channel_def": {"0": "R", "1": "G", "2": "B"},
                    "patch_size": [side, side],
                }
            },
            "outputs": {
                "pred": {
                    "type": "probabilities",
                    "format": "segmentation",
                    "num_channels": len(names),
                    "spatial_shape": ["n", "n"],
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": True,
                    "channel_def": {str(place): name for place, name in enumerate(names)},
                }
            },
        },
    }


def _inference(description: Mapping[str, Any]) -> dict[str, Any]:
    """The inference workflow. A name of a tissue is nowhere in it, since MONAI runs what begins with `$`."""
    tiles = description["not_in_the_graph"]["tiles"]
    return {
        "imports": ["$import glob", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_data": "$[{'image': name} for name in sorted(glob.glob(@dataset_dir + '/*.png'))]",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": "$torch.jit.load(@bundle_root + '/models/model.ts', map_location=@device).eval()",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "LoadImaged",
                    "keys": "image",
                    # rows first; a palette or transparency would be other channels
                    "reader": "PILReader",
                    "reverse_indexing": False,
                    "converter": "$lambda image: image.convert('RGB')",
                },
                {"_target_": "EnsureChannelFirstd", "keys": "image", "channel_dim": -1},
                {
                    "_target_": "ScaleIntensityRanged",
                    "keys": "image",
                    "a_min": 0.0,
                    "a_max": 255.0,
                    "b_min": 0.0,
                    "b_max": 1.0,
                },
                {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
            ],
        },
        "dataset": {"_target_": "Dataset", "data": "@dataset_data", "transform": "@preprocessing"},
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": [tiles["side"], tiles["side"]],
            "sw_batch_size": 4,
            "overlap": tiles["overlap"],
            "mode": "gaussian",
            "sigma_scale": WINDOW_SIGMA,
            "padding_mode": "replicate",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                # the writer takes columns first
                {"_target_": "Transposed", "keys": "pred", "indices": [0, 2, 1]},
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "meta_keys": "image_meta_dict",
                    "output_dir": "@output_dir",
                    "output_postfix": "mask",
                    "output_ext": ".png",
                    "output_dtype": "$np.uint8",
                    "resample": False,
                    "squeeze_end_dims": True,
                    "separate_folder": False,
                    "writer": "PILWriter",
                },
            ],
        },
        "handlers": [],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network_def",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": False,
        },
        "run": ["$@evaluator.run()"],
    }

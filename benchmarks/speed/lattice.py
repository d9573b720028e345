"""The field's usual route to the dense energy: a permutohedral lattice on the host, compiled when it is first used."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from patch2tissue.gaussian_kernel import PixelFeatures

SOURCE = Path(__file__).with_name("lattice.cpp")


def compiler() -> str | None:
    """The C++ compiler, None if there is none."""
    return next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)


@cache
def _library() -> ctypes.CDLL:
    found = compiler()
    if found is None:
        raise RuntimeError("There is no C++ compiler, which the lattice needs.")
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "lattice.so"
        subprocess.run(
            [found, "-O3", "-march=native", "-shared", "-fPIC", "-std=c++17", str(SOURCE), "-o", str(built)], check=True
        )
        library = ctypes.CDLL(str(built))
    library.lattice_build.restype = ctypes.c_void_p
    library.lattice_build.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.lattice_filter.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
    library.lattice_vertices.argtypes = library.lattice_free.argtypes = [ctypes.c_void_p]
    library.lattice_free.restype = library.lattice_filter.restype = None
    return library


def _filter_one(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`G · values` of one image, with the pair of a pixel with itself: [N, 5] and [N, C] to [N, C], all float32."""
    library = _library()
    features, values = (np.ascontiguousarray(array, np.float32) for array in (features, values))
    result = np.empty_like(values)
    handle = library.lattice_build(features.ctypes.data, len(features))
    try:
        library.lattice_filter(handle, values.ctypes.data, values.shape[1], result.ctypes.data)
    finally:
        library.lattice_free(handle)
    return result


def lattice_filter(features: PixelFeatures, values: Tensor, block: int | None = None) -> Tensor:
    """What `filter_all` computes, by the lattice and with the pair of a pixel with itself; images in threads.

    From an accelerator the values come to the host and go back, as they do wherever this lattice is used.
    """
    color = features.color.cpu().numpy()
    place = np.broadcast_to(features.place.cpu().numpy(), (*color.shape[:2], 2))
    points = np.concatenate([color, place], axis=2)
    host = values.detach().cpu().numpy()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        found = list(pool.map(_filter_one, points, host))
    return torch.from_numpy(np.stack(found)).to(values)

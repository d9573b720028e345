"""A function called in several processes that train together, each of which tells what it returned."""

from __future__ import annotations

import io
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from patch2tissue.distributed.launch import _variables

_PRELOADED = ["patch2tissue.craanet.training", "patch2tissue.pfscnet.training", "patch2tissue.pretraining.training"]


def _call(variables: dict[str, str], end: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    from patch2tissue.config import HardwareConfig
    from patch2tissue.distributed.group import together

    os.environ.update(variables)
    torch.set_num_threads(1)
    with together(HardwareConfig(device="cpu", threads=1)):
        content = io.BytesIO()  # a pipe would hand over tensors by their files, which go with the process
        torch.save(function(*arguments), content)
        end.send_bytes(content.getvalue())
        end.close()


def in_processes(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call a function of a module in `count` processes at once; returns what each of them returned, in order."""
    context = multiprocessing.get_context("forkserver")  # which imports torch once for all
    context.set_forkserver_preload(_PRELOADED)
    common = _variables(count, 1) | {"OMP_NUM_THREADS": "1"}
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    processes = [
        context.Process(target=_call, args=(common | {"LOCAL_RANK": str(rank)}, end, function, arguments), daemon=True)
        for rank, (_, end) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    for _, end in pipes:
        end.close()  # so that a process which fails is heard of
    try:
        contents = [receiving.recv_bytes() for receiving, _ in pipes]
        return [torch.load(io.BytesIO(content), weights_only=True) for content in contents]
    finally:
        for process in processes:
            process.join(20)
            process.kill()

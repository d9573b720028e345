"""What the package never does: unpickle, run text as code, start a shell, talk to the network. Read from its syntax."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "patch2tissue"

UNPICKLING = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve", "_pickle"}
NETWORK = {
    *("aiohttp", "boto3", "ftplib", "gdown", "http.client", "httpx", "huggingface_hub", "requests", "smtplib"),
    *("urllib.request", "urllib3", "xmlrpc", "torch.hub", "torch.utils.model_zoo", "telnetlib", "pooch"),
}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "os.spawnv", "pty.spawn"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.Loader", "yaml.UnsafeLoader"),
    *("torch.jit.load", "torch.package.PackageImporter", "pandas.read_pickle", "numpy.fromregex"),
    *("timm.models.load_checkpoint", "timm.models.load_state_dict", "torch.serialization.load"),
}
FORBIDDEN_METHODS = {"load_from_checkpoint", "load_checkpoint", "load_state_dict_from_url", "unsafe_load"}


def problems(text: str, name: str = "example.py") -> list[str]:
    """What a source text does that it must not, as `file:line what`."""
    tree = ast.parse(text)
    names = dict(_imported(tree))
    found = []
    for node in ast.walk(tree):
        what = None
        if isinstance(node, ast.Import | ast.ImportFrom):
            what = next((module for module in _modules(node) if _is_one_of(module, UNPICKLING | NETWORK)), None)
        elif isinstance(node, ast.Call):
            what = _wrong_call(node, _path(node.func, names))
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            # also where it is handed on instead of called
            path = _path(node, names)
            from_module = path.partition(".")[0] in names and _is_one_of(path, UNPICKLING | NETWORK)
            what = path if path in FORBIDDEN_CALLS or from_module else None
        if what:
            found.append(f"{name}:{node.lineno} {what}")
    return found


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Local names and what they stand for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                yield alias.asname or first, alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]


def _is_one_of(module: str, forbidden: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in forbidden)


def _path(node: ast.AST, names: dict[str, str]) -> str:
    """`np.load` as `numpy.load`; empty if it is no dotted name."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([names.get(node.id, node.id), *reversed(parts)])


def _wrong_call(call: ast.Call, path: str) -> str | None:
    options = {keyword.arg: keyword.value for keyword in call.keywords}
    last = call.func.attr if isinstance(call.func, ast.Attribute) else path

    def is_constant(option: str, value: bool) -> bool:
        given = options.get(option)
        return isinstance(given, ast.Constant) and given.value is value

    if path == "torch.load" and not is_constant("weights_only", True):
        return "torch.load without weights_only=True"
    if path in ("numpy.load", "numpy.lib.format.read_array") and not is_constant("allow_pickle", False):
        return "numpy.load without allow_pickle=False"
    if path.startswith("subprocess.") and "shell" in options and not is_constant("shell", False):
        return "subprocess with a shell"
    if last in FORBIDDEN_METHODS:
        return last
    if {"ckpt_path", "checkpoint_path"} & options.keys():
        return "a checkpoint that a library loads in its own way"
    return None


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_the_source_does_nothing_of_it(path: Path) -> None:
    assert problems(path.read_text(encoding="utf-8"), path.name) == []


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.load(path)",
        "import torch as t\nt.load(path, weights_only=False)",
        "from torch import load\nload(path, weights_only=wanted)",
        "import pickle",
        "from joblib import load",
        "import numpy as np\nnp.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
        "from yaml import load\nload(text)",
        "import yaml\nread = yaml.unsafe_load\nread(text)",
        "eval(text)",
        "exec(text)",
        "run = eval\nrun(text)",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "import subprocess as s\ns.Popen(text, shell=wanted)",
        "import os\nos.system(text)",
        "import urllib.request",
        "from urllib import request",
        "import requests",
        "from torch.hub import load_state_dict_from_url",
        "import torch\ntorch.hub.load('a', 'b')",
        "trainer.fit(model, ckpt_path='last')",
        "Module.load_from_checkpoint(path)",
        "import timm\ntimm.create_model('a', checkpoint_path=path)",
    ],
)
def test_it_would_be_seen(text: str) -> None:
    assert problems(text)


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.load(path, map_location='cpu', weights_only=True)",
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "import yaml\nyaml.safe_load(text)",
        "network.eval()\nnetwork.load_state_dict(state)",
        "import re\nre.compile(text)",
        "import subprocess\nsubprocess.run(['git'], check=False)",
        "from urllib.parse import quote",
    ],
)
def test_what_is_fine_is_let_through(text: str) -> None:
    assert problems(text) == []

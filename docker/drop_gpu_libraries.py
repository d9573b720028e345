"""Remove from this environment what torch brings for graphics cards and does not load on a CPU.

The wheel of torch in the lock is the one with CUDA: it needs some of CUDA's libraries to be imported at all. What it
has not loaded after it was imported and used on a CPU is not needed there. Run by the Dockerfile, on Linux, with the
Python of the environment.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

USE = """
import torch, torch.distributed, torchvision.ops
x = torch.randn(2, 3, 32, 32, requires_grad=True)
with torch.autocast("cpu", torch.bfloat16):
    torch.nn.Conv2d(3, 4, 3)(x).square().mean().backward()
torch.linalg.svd(torch.randn(5, 5)), torch.fft.fft(torch.randn(8))
"""
MAPPED = """
print(*{line.split()[-1] for line in open("/proc/self/maps") if "/" in line}, sep=chr(10))
"""


def main() -> None:
    """Remove them, and see that torch can still be used."""
    packages = Path(sysconfig.get_path("purelib"))
    run = [sys.executable, "-c"]
    loaded = subprocess.run([*run, USE + MAPPED], check=True, capture_output=True, text=True).stdout.splitlines()
    freed = 0
    for path in sorted((packages / "nvidia").rglob("*")):
        if path.is_file() and not path.is_symlink() and str(path.resolve()) not in loaded and not _is_metadata(path):
            freed += path.stat().st_size
            path.unlink()
    for name in ("triton", "torch/include"):  # a compiler for graphics cards, and what extensions are compiled with
        folder = packages / name
        freed += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([*run, USE], check=True)
    print(f"removed {freed / 1e9:.1f} GB that only a graphics card needs")


def _is_metadata(path: Path) -> bool:
    """Licences stay."""
    return path.suffix in (".txt", ".md", ".py") or "licen" in path.name.lower()


if __name__ == "__main__":
    main()

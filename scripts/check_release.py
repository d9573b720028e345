"""What must hold before a version is released: tag, distribution, changelog and citation say the same.

    python scripts/check_release.py 1.2.0

Run on the tagged commit after `make dist`. Prints what does not hold and exits with 1.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def problems(version: str, root: Path) -> list[str]:
    """What does not hold of the checkout `root` for this version."""
    found = []
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version):
        found.append(f"{version} is not a version such as 1.2.0 or 1.2.0rc1")
    if f"v{version}" not in _git(root, "tag", "--points-at", "HEAD").split():
        found.append(f"the commit is not tagged v{version}: git tag v{version}")
    if _git(root, "status", "--porcelain"):
        found.append("the checkout holds what is not committed")
    return found + _of_files(version, root)


def _of_files(version: str, root: Path) -> list[str]:
    found = []
    for name in (f"patch2tissue-{version}.tar.gz", f"patch2tissue-{version}-py3-none-any.whl"):
        if not (root / "dist" / name).is_file():
            found.append(f"dist/{name} is not there: make dist")
    changes = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    dated = re.search(rf"^## {re.escape(version)} \((\d{{4}}-\d\d-\d\d)\)$", changes, flags=re.MULTILINE)
    if dated is None:
        found.append(f"CHANGELOG.md has no section '## {version} (YYYY-MM-DD)'")
    unreleased = re.search(r"^## Unreleased\n(.*?)(?=^## |\Z)", changes, flags=re.MULTILINE | re.DOTALL)
    if unreleased is not None and unreleased[1].strip():
        found.append("CHANGELOG.md has entries under Unreleased")
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    if citation.get("version") != version:
        found.append(f"CITATION.cff has version {citation.get('version')}")
    if dated is not None and str(citation.get("date-released")) != dated[1]:
        found.append(f"CITATION.cff has date-released {citation.get('date-released')}, CHANGELOG.md {dated[1]}")
    return found


def _git(root: Path, *command: str) -> str:
    return subprocess.run(["git", *command], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def main() -> int:
    """Check the version that was named."""
    if len(sys.argv) != 2:
        print("usage: python scripts/check_release.py VERSION", file=sys.stderr)
        return 2
    found = problems(sys.argv[1], ROOT)
    print(*(f"- {problem}" for problem in found) if found else (f"{sys.argv[1]} can be released",), sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

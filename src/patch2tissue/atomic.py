"""Files that appear whole or not at all: written under a temporary name beside the target, then renamed.

A killed process leaves its temporary files behind. Their names tell the machine and the process, so that the next call
can remove those whose process is gone, see `remove_abandoned`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patch2tissue.errors import DISK_FULL, DataError, WriteError

_ASKING = threading.Lock()
_MACHINE = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]
_OF_THE_DISK = (*DISK_FULL, errno.EROFS, errno.EIO)
_TEMPORARY = re.compile(rf"\..*-{_MACHINE}-(\d+)-[a-z0-9_]{{8}}(\.\w+)*")


def temporary_prefix(target: Path) -> str:
    """Start of the name of a temporary file or folder beside a target; eight random characters follow."""
    return f".{target.stem[:40]}-{_MACHINE}-{os.getpid()}-"


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; rename it to `target` if the block succeeds.

    The temporary name keeps the target's extension, since some writers choose the format by it.

    Raises:
        WriteError: if the folder cannot be written to, or the disk is full.
        DataError: if the target is a folder.
    """
    target = Path(target)
    if target.is_dir():
        raise DataError(f"{target}: is a folder. Name a file in it.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=temporary_prefix(target), suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise WriteError(error.errno, error.strerror, str(target)) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        if error.errno not in _OF_THE_DISK or isinstance(error, WriteError):
            raise  # of what is read while this is written
        raise WriteError(error.errno, error.strerror, str(target)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    """Which rights new files lack; the system tells it only to who sets it, which threads must not do at once."""
    with _ASKING:
        umask = os.umask(0o077)
        os.umask(umask)
    return umask


def reserve(path: Path) -> None:
    """Have all of a file's size on disk, so that a full disk is told of now; in a mapped file it would end the process.

    Args:
        path: a file that has its final size, though perhaps no room yet.

    Raises:
        WriteError: if the disk is full.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            if size:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in _OF_THE_DISK:
                raise WriteError(error.errno, error.strerror, str(path)) from error


def write_bytes(target: Path, content: bytes) -> None:
    """Write a binary file atomically."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


def write_text(target: Path, content: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(target, content.encode("utf-8"))


def remove_abandoned(folder: Path, *, below: bool = True) -> int:
    """Remove temporary files and folders in a folder that killed processes of this machine left; return how many.

    Those of living processes, and of other machines that may share the folder, stay. Call it before long work, not for
    each file.

    Args:
        folder: where to look; it need not be there.
        below: look through the folders in it, too.
    """
    if os.name != "posix":  # elsewhere asking whether a process lives may end it
        return 0
    removed = 0
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            found = _TEMPORARY.fullmatch(name)
            if found is None or _lives(int(found[1])):
                continue
            path = Path(place) / name
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                removed += 1
        folders[:] = [name for name in folders if below and not name.startswith(".")]
    return removed


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of somebody else
        return True
    return True

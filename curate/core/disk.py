"""What a full, failing or read-only disk does, said in one line: what, where, how much room, what to do.

The kernel's own error often names no file (`write` and `fsync` know only a number), and a traceback helps nobody here.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from .errors import DiskError

_ADVICE = {
    errno.ENOSPC: "what is finished is kept: make room and run the same command again",
    errno.EDQUOT: "what is finished is kept: make room in your quota and run the same command again",
    errno.EROFS: "it is mounted read-only: make it writable, or choose another folder",
    errno.EIO: "the disk or its connection is failing: what is finished is kept, look at the system's log before running again",
}


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Name `path` in what its disk does wrong while the block writes it.

    Raises:
        DiskError: the disk is full, failing or read-only; any other OSError passes as it is.
    """
    try:
        yield
    except OSError as error:
        if line := explain(error, path):
            raise DiskError(line) from error
        raise


def explain(error: OSError, path: Path | None = None) -> str:
    """Say what happened to `path` (None: what the error itself names); "" if it is no fault of a disk."""
    if error.errno not in _ADVICE:
        return ""
    where = path or (Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else None)
    text = f"cannot write {where or 'a file'}: {os.strerror(error.errno)}"
    free = room(where) if where and error.errno == errno.ENOSPC else ""
    return f"{text}{free}; {_ADVICE[error.errno]}"


def room(where: Path) -> str:
    """Say in brackets how much is free on the disk of `where`, of which perhaps only the parents exist."""
    for folder in where.absolute().parents:
        with contextlib.suppress(OSError):
            state = os.statvfs(folder)
            inodes = ", and no more files allowed" if state.f_files and not state.f_favail else ""
            return f" ({state.f_bavail * state.f_frsize / 2**20:.1f} MiB free{inodes})"
    return ""

"""How this process's allocator treats memory that is freed and soon needed again: planes of pictures, a network's features."""

from __future__ import annotations

import contextlib
import ctypes

# glibc's M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD: keep what one picture or training step used for the next instead of
# giving the pages back and faulting them in again; 12 MP decode in 56 ms instead of 82 at the same peak (spec/performance.md)
_MALLOC_OPTIONS = ((-3, 1 << 30), (-1, (1 << 31) - 1), (-2, 64 << 20))


def keep_freed_memory() -> None:
    """Let this process keep the memory it has once used; does nothing where the C library is not glibc."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for option, value in _MALLOC_OPTIONS:
            mallopt(option, value)

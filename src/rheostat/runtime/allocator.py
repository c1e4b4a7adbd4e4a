"""glibc is set to keep what is freed: feature maps of one pass are the next one's memory.

By default every buffer of some megabytes goes back to the system when it is freed and comes back a page
at a time, zeroed, in the next pass: a third of the time of a pass on a CPU.
"""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 2**31 - 1
GIBIBYTE = 2**30


def keep_freed_memory() -> bool:
    """For this process, from now on; whether it took effect. Resident memory stays at its peak.

    For programs, not for libraries: the command line calls it. Does nothing where the C library is
    not glibc, or where its settings are in the environment already.
    """
    if os.environ.get("GLIBC_TUNABLES") or any(k.startswith("MALLOC_") for k in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, GIBIBYTE)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))

"""What the process does to itself before it touches a secret, and the clock that it runs by."""

import ctypes
import os
import resource
import sys
import time
from datetime import UTC, datetime

_PR_SET_DUMPABLE = 4


def confine() -> None:
    """Files that are made from now on are the user's own; no core dump, no attached debugger of the same user
    (Linux).
    """
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE) failed")


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def elapsed(self) -> float:
        """CLOCK_BOOTTIME on Linux: it runs on while the machine is suspended, which CLOCK_MONOTONIC does not."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()

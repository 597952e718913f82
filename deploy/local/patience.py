"""How long to wait for a process that starts: as long as it works."""

import subprocess
import time
from collections.abc import Callable

_WORKS = 0.1  # of a core: a Java that only waits uses a hundredth of one
_MOST = 10  # times the patience: a process that spins is no start


class Patience:
    """Waits at most *timeout_s* after a process was last seen to use the CPU.

    Args:
        pid: the process.
        timeout_s: how long it may do nothing.
        cpu_s: returns its CPU time, in seconds.
    """

    def __init__(
        self, pid: int, timeout_s: float, *, cpu_s: Callable[[int], float] | None = None
    ) -> None:
        self._pid = pid
        self._timeout_s = timeout_s
        self._cpu_s = cpu_s or cpu_seconds
        self._used_s = 0.0
        self._seen_s = time.monotonic()
        self._last_s = self._seen_s + _MOST * timeout_s

    def is_over(self, now_s: float) -> bool:
        """Return whether it has done nothing for too long, at the monotonic time *now_s*."""
        if now_s <= self._seen_s + self._timeout_s:
            return False
        used_s = self._cpu_s(self._pid)
        if used_s < self._used_s + max(1.0, _WORKS * self._timeout_s) or now_s > self._last_s:
            return True
        self._used_s, self._seen_s = used_s, now_s
        return False


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, in seconds; 0 if it cannot be told."""
    command = ["ps", "-o", "time=", "-p", str(pid)]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # there is no ps
        return 0.0
    days, _, clock = told.rpartition("-")
    seconds = 0.0
    for part in clock.split(":") if clock else ():
        seconds = 60 * seconds + float(part)
    return seconds + 86_400 * int(days or 0)

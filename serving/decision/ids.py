"""New ids for decisions and feedback: random, and sorted by time."""

import os
import time
from random import Random

_random = Random(os.urandom(16))  # ids have to be unique, not hard to guess
_COUNTED = [f"{number:03x}" for number in range(4096)]
_tails: list[str] = []
_stamp = (0, "")  # the latest millisecond with its digits; one tuple, so that threads see both


def new_id(now_ns: int | None = None) -> str:
    """Return a UUID of version 7 as 32 hex digits: milliseconds since 1970, then 74 bits.

    Of the 74 bits, 62 are random and new for every 4,096 ids, and 12 count those ids, as RFC 9562,
    section 6.2, allows. New random bits for each id would take three times as long.

    Args:
        now_ns: nanoseconds since 1970, if the caller has just read the clock.

    >>> import uuid
    >>> uuid.UUID(new_id()).version
    7
    """
    global _stamp
    now_ms = (now_ns or time.time_ns()) // 1_000_000
    stamp = _stamp
    if stamp[0] != now_ms:
        stamp = _stamp = (now_ms, f"{now_ms:012x}")
    try:
        return stamp[1] + _tails.pop()
    except IndexError:
        return stamp[1] + _more_tails()


def _more_tails() -> str:
    """Make the digits after the time: version, 12 random bits, variant, 50 random bits, count."""
    bits = _random.getrandbits(62)
    fixed = f"7{bits >> 50:03x}{bits & (1 << 50) - 1 | 1 << 51:013x}"
    made = [fixed + counted for counted in _COUNTED]
    _tails.extend(made[1:])
    return made[0]


def _forked() -> None:
    """Seed a forked process anew, or it would repeat the ids of its parent."""
    _random.seed(os.urandom(16))
    _tails.clear()


os.register_at_fork(after_in_child=_forked)

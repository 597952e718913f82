"""Ids for decisions and feedback that come without one: random, and sorted by time."""

import os
import time
from random import Random

_random = Random(os.urandom(16))  # unique is enough; nobody is kept from guessing
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(16)))
_VERSION = (7 << 76) | (2 << 62)
_FREE = ((1 << 80) - 1) & ~((15 << 76) | (3 << 62))


def new_id() -> str:
    """Return a UUID of version 7 as 32 hex digits: milliseconds since 1970, then 74 random bits.

    >>> import uuid
    >>> uuid.UUID(new_id()).version
    7
    """
    milliseconds = time.time_ns() // 1_000_000
    return f"{milliseconds << 80 | _random.getrandbits(80) & _FREE | _VERSION:032x}"

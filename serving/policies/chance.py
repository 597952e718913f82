"""Chance without a state: numbers that are a hash of the decision they are for.

A retry of the same id acts alike, two workers act alike, and `explain` can compute the numbers
again. A policy of another version, another loop or another salt takes other chances.
"""

import json
from hashlib import blake2b
from struct import Struct

_words = Struct("<8Q").unpack
_block = Struct("<I").pack
_FIRST = _block(0)
_WIDTH = 2.0**-52


class Chance:
    """Gives each decision numbers between 0 and 1, both excluded.

    Args:
        loop: the name of the loop.
        policy_version: the version of its policy.
        salt: the salt of the loop.

    >>> chance = Chance("home-page", 1)
    >>> chance.numbers(b"d-1", 2) == chance.numbers(b"d-1", 2)
    True
    """

    def __init__(self, loop: str, policy_version: int, salt: str = "") -> None:
        self._start = blake2b(json.dumps([loop, policy_version, salt]).encode())

    def numbers(self, key: bytes, count: int) -> list[float]:
        """Return *count* independent numbers for the decision *key*; the first ones stay the same.

        The number of the block is hashed before the key, so that no two blocks are one.
        """
        found: list[float] = []
        for block in range(-(-count // 8)):
            digest = self._start.copy()
            digest.update(_block(block) if block else _FIRST)
            digest.update(key)
            found += [((word >> 12) + 0.5) * _WIDTH for word in _words(digest.digest())]
        return found[:count]

    def pair(self, key: bytes) -> tuple[float, float]:
        """Return the first two of `numbers`."""
        digest = self._start.copy()
        digest.update(_FIRST + key)
        first, second, *_ = _words(digest.digest())
        return ((first >> 12) + 0.5) * _WIDTH, ((second >> 12) + 0.5) * _WIDTH

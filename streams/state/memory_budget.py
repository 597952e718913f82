"""How much memory open windows may take, and what leaves it when they take more.

Counted are the bytes of the frames, columns and filters that wait for their windows: not what was
read and is not committed yet, nor the program itself. It knows no lake and no file.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

log = logging.getLogger(__name__)

_ROOM = 16  # a part of the budget is made free at once, so that what leaves leaves in bulk


class Piece(Protocol):
    """Something that takes memory, and of which most can leave it."""

    @property
    def nbytes(self) -> int:
        """How much it takes."""

    def leave(self, nbytes: int) -> int:
        """Let about *nbytes* leave, as far as they can; return how many did."""


@dataclass(frozen=True, slots=True)
class Relief:
    """What the open windows take, after how much of them has just left, in bytes."""

    nbytes: int
    left: int


class Budget:
    """A limit on what pieces take together, in bytes."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._is_over = False

    def relieve(self, pieces: Collection[Piece]) -> Relief:
        """Let pieces leave until all of them are within the budget, as far as they can.

        The largest goes first, half of it at a time. What cannot leave stays, and is told once:
        nothing is ever dropped.

        Raises:
            TidemillError: a store has no room.
        """
        taken = sum(piece.nbytes for piece in pieces)
        if taken <= self.nbytes:
            self._is_over = False
            return Relief(taken, 0)
        left = _let_leave(list(pieces), taken - self.nbytes + self.nbytes // _ROOM)
        self._warn(taken - left)
        return Relief(taken - left, left)

    def _warn(self, taken: int) -> None:
        if taken > self.nbytes and not self._is_over:
            log.warning(
                "open windows take %.1f MB of memory and the budget is %.1f MB; nothing is dropped"
                "\n  hint: raise `memory` in the loop file, or start more workers",
                taken / 1e6,
                self.nbytes / 1e6,
            )
        self._is_over = taken > self.nbytes


def _let_leave(pieces: Sequence[Piece], nbytes: int) -> int:
    """Let *nbytes* of *pieces* leave; return how many did."""
    left, able = 0, list(pieces)
    while able and left < nbytes:
        piece = max(able, key=lambda each: each.nbytes)
        gone = piece.leave(min(nbytes - left, piece.nbytes // 2 + 1))
        left += gone
        if gone <= 0:
            able.remove(piece)
    return left

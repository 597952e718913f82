"""Which group a visitor belongs to: a hash of the entity, so that it stays the same everywhere.

A retry, another worker and a later analysis find the same group. Each purpose has numbers of its
own: who is in the canary says nothing of the arm of an experiment.
"""

import json
from hashlib import blake2b

from tidemill.schemas.loop.rollout import CONTROL

_WORD = 8
_WIDTH = 2.0**-52


class Assignment:
    """Gives each unit a number between 0 and 1, both excluded, for one *purpose*.

    Args:
        loop: the name of the loop.
        purpose: what the numbers decide, say ``stage``.
        salt: the salt of the loop; another one makes new groups.

    >>> assignment = Assignment("home-page", "stage")
    >>> assignment.number("user-17") == assignment.number("user-17")
    True
    """

    def __init__(self, loop: str, purpose: str, salt: str = "") -> None:
        key = blake2b(json.dumps([loop, purpose, salt]).encode(), digest_size=32).digest()
        self._start = blake2b(key=key, digest_size=_WORD)

    def number(self, unit: str) -> float:
        """Return the number of *unit*: an entity, or the id of a decision without one."""
        digest = self._start.copy()
        digest.update(unit.encode())
        return ((int.from_bytes(digest.digest(), "little") >> 12) + 0.5) * _WIDTH


def stage_of(number: float, *, control: float, canary: float) -> str:
    """Return the stage of a decision: ``control``, ``canary`` or ``live``.

    A share of the canary that grows keeps those that it had, and never touches the control.

    Args:
        number: that of its unit, for the purpose ``stage``.
        control: the share of the control.
        canary: the share of the canary; 0 while there is none.
    """
    if number < control:
        return CONTROL
    return "canary" if number < control + canary else "live"

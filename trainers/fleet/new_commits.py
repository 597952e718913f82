"""Tells whether a loop has commits that its trainer has not looked at, by one small read a table.

A notification names a commit at once. This look finds what no notification told.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.trainers.registry import MODELS
from tidemill.trainers.rollout.stages import STAGES_TABLE

WATCHED = (EXAMPLES, MODELS, STAGES_TABLE)
"""The tables whose commits make a cycle due: new examples, and what people decide about models."""
_KNOWN_S = 3_600.0  # shorter than any log is kept: a forgotten version would look like none

Versions = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Known:
    versions: Versions
    at_s: float


class NewCommits:
    """Remembers up to which commits each loop was worked on. Its caller holds a lock a loop.

    Args:
        lake: where the tables are.
        clock: returns seconds that never go back.
    """

    def __init__(self, lake: Lake, clock: Callable[[], float] = time.monotonic) -> None:
        self._lake, self._clock = lake, clock
        self._newest: dict[str, _Known] = {}
        self._settled: dict[str, Versions] = {}

    def newest(self, loop: str) -> Versions:
        """Return the newest version of each watched table of *loop*.

        Raises:
            LakeError: the lake does not answer.
        """
        now_s, known = self._clock(), self._newest.get(loop)
        if known is None or now_s - known.at_s > _KNOWN_S:
            found = {name: self._opened(loop, name) for name in WATCHED}
        else:
            found = {name: self._after(loop, name, at) for name, at in known.versions.items()}
        self._newest[loop] = _Known(found, now_s)
        return found

    def _opened(self, loop: str, name: str) -> int:
        return self._lake.table(loop, name).version() if self._lake.has_table(loop, name) else -1

    def _after(self, loop: str, name: str, version: int) -> int:
        while self._lake.has_version(loop, name, version + 1):
            version += 1
        return version

    def settle(self, loop: str, versions: Versions) -> None:
        """Say that everything of *loop* is done up to *versions*."""
        self._settled[loop] = versions

    def unsettle(self, loop: str) -> None:
        """Say that something of *loop* is left to do, or that it belongs to another process."""
        self._settled.pop(loop, None)

    def forget(self, loop: str) -> None:
        """Remember nothing of *loop*."""
        self.unsettle(loop)
        self._newest.pop(loop, None)

    def is_new(self, loop: str, version: int) -> bool:
        """Return whether *version* of the examples of *loop* is after what was worked on."""
        return version > self._settled.get(loop, {}).get(EXAMPLES, -1)

    def is_settled(self, loop: str, versions: Versions) -> bool:
        """Return whether everything of *loop* is done up to *versions*."""
        return self._settled.get(loop) == versions

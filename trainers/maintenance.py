"""Keeping the lake of one loop tidy while there is nothing to train.

The trainer has the lake open and time between two versions, so it looks now and then whether small
files have gathered. It knows no learner: merging changes no row, and who tails commits skips it.
"""

import logging
import time
from collections.abc import Callable

from tidemill.features.lake.compaction import MANY_FILES, maintain
from tidemill.features.lake.lake import Lake

log = logging.getLogger(__name__)


class Maintenance:
    """Merges the small files of one loop's tables, at most once every *every_s* seconds.

    Args:
        lake: where the tables are.
        loop_name: whose tables.
        every_s: seconds between two looks; the first call looks at once, so that a trainer that is
            started again and again tidies too.
        files: how many small files of a table are left alone.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        lake: Lake,
        loop_name: str,
        *,
        every_s: float = 300.0,
        files: int = MANY_FILES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lake, self._loop_name = lake, loop_name
        self._every_s, self._files, self._clock = every_s, files, clock
        self._due = clock()

    def look(self) -> None:
        """Merge what has gathered, if the last look is long enough ago.

        Raises:
            LakeError: the storage refuses; no row is touched then.
        """
        if self._clock() < self._due:
            return
        for done in maintain(self._lake, self._loop_name, files=self._files):
            log.info(
                "%s/%s: %d small files became %d, %d old ones were removed",
                *(self._loop_name, done.table, done.merged, done.made, done.removed),
            )
        self._due = self._clock() + self._every_s

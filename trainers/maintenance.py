"""Compacts the tables of one loop while there is nothing to train.

The trainer has the lake open and has time between two versions. Compaction changes no row, and
readers of the commit log skip its commits.
"""

import logging
import time
from collections.abc import Callable

from tidemill.features.lake.compaction import MANY_FILES, maintain
from tidemill.features.lake.lake import Lake

logger = logging.getLogger(__name__)


class Maintenance:
    """Merges the small files of one loop's tables, at most once every *every_s* seconds.

    Args:
        lake: where the tables are.
        loop_name: whose tables.
        every_s: seconds between two runs; the first call runs at once, so that a trainer that is
            restarted often compacts too.
        files: a table with at most so many small files is not compacted.
        clock: returns seconds that never go back.
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

    def run_if_due(self) -> None:
        """Merge small files, if the last run is at least *every_s* ago.

        Raises:
            LakeError: the storage fails; no row is changed.
        """
        if self._clock() < self._due:
            return
        for done in maintain(self._lake, self._loop_name, files=self._files):
            logger.info(
                "%s/%s: %d small files became %d, %d old ones were removed",
                *(self._loop_name, done.table, done.merged, done.made, done.removed),
            )
        self._due = self._clock() + self._every_s

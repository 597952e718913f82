"""The snapshot of one partition: everything that one commit cycle writes for it."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from tidemill.schemas.logs import Log
from tidemill.streams.deadletters.writer import DeadLetter
from tidemill.streams.join.checkpoints import Closed


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionSnapshot:
    """Everything new of one partition since its last snapshot.

    Attributes:
        partition: its number.
        frames: judged rows of each log, in the order of the log.
        numbers: the progress numbers of each log after these rows.
        dead_letters: about the records that could not be read.
        closed: what the join has closed; None if nothing.
    """

    partition: int
    frames: Mapping[Log, list[pl.DataFrame]]
    numbers: Mapping[Log, Mapping[str, int]]
    dead_letters: list[DeadLetter]
    closed: Closed | None

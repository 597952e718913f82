"""The lease on a partition: claimed by an epoch on each table, compared by every later commit.

A worker claims a partition by raising a number, its epoch, on each of the loop's three tables.
Every commit compares that epoch on the snapshot it is made from. So a worker that lost its
partition without noticing cannot commit. `features/lake/progress_keys.py` says what each number
means.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from tidemill.errors import FencedError
from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.layouts import DECISIONS, EXAMPLES, FEEDBACK, table_of
from tidemill.features.lake.progress_keys import (
    EXAMINED,
    FRONTIER,
    MISPLACED,
    NOTHING_CLOSED,
    OF_EXAMPLES,
    OF_LOG,
    OF_TOPIC,
    OFFSET,
    OWNER,
    UNKNOWN_ITEM,
    ProgressName,
    begin,
    join_time,
)
from tidemill.schemas.logs import Log, is_feedback
from tidemill.streams.commit.progress_table import PATIENCE_S, ProgressTable, patient

logger = logging.getLogger(__name__)

CLAIM_TRIES = 8  # of two workers that claim at once, one retries; eight times means a conflict


@dataclass(slots=True)
class Lease:
    """The ownership of one partition, and the numbers the lake has for it, by table and name."""

    partition: int
    logs: tuple[Log, ...] = (DECISIONS, FEEDBACK)
    numbers: dict[str, dict[str, int | None]] = field(default_factory=dict)

    def of(self, log: Log, name: str) -> int | None:
        """Return the number *name* of *log*, which is on its raw table; None if there is none."""
        return self.numbers[table_of(log)][ProgressName(name).for_log(log)]

    def offset(self, log: Log) -> int:
        """Return the offset up to which *log* is committed."""
        return self.of(log, OFFSET) or 0

    @property
    def examined(self) -> dict[Log, int]:
        """The offset up to which each log of feedback was compared with closed decisions."""
        numbers = self.numbers[EXAMPLES]
        known = {log: numbers[EXAMINED.for_log(log)] for log in self.logs if is_feedback(log)}
        return {log: offset for log, offset in known.items() if offset is not None}

    def swaps(self, table: str, new: Mapping[str, int]) -> list[CompareAndSwap]:
        """Return the swaps that set the numbers of *table* to *new* and compare the owner."""
        known = self.numbers[table]
        owner = known[OWNER]
        if owner is None:
            raise RuntimeError(f"partition {self.partition} was never claimed on {table}")
        wanted = {OWNER: owner, **new}
        return [
            CompareAndSwap(ProgressName(name).key(self.partition), known[name], number)
            for name, number in wanted.items()
        ]

    def record(self, table: str, new: Mapping[str, int]) -> None:
        """Record that a commit has set the numbers of *table* to *new*."""
        self.numbers[table].update(new)


def claim(
    tables: Mapping[str, ProgressTable],
    partitions: Iterable[int],
    version: int | None = None,
    *,
    logs: tuple[Log, ...] = (DECISIONS, FEEDBACK),
    patience_s: float = PATIENCE_S,
) -> dict[int, Lease]:
    """Claim *partitions*, and return a lease on each with the numbers of the lake.

    *version* and *logs* are those of the loop. The first claim with a version records the offsets
    and the frontier from which it begins.

    Raises:
        FencedError: another worker keeps claiming the same partitions.
        LakeError: the lake cannot be read or written.
    """
    leases = {number: Lease(number, logs) for number in partitions}
    if not leases:
        return {}
    for table_name, table in tables.items():
        begins = {} if version is None else _begins(table_name, logs, version)
        _raise_epochs(table_name, table, leases, begins, patience_s)
    for table_name, table in tables.items():
        names = number_names(table_name, logs)
        numbers = table.progress(name.key(number) for number in leases for name in names)
        for number, lease in leases.items():
            lease.numbers[table_name] = {name: numbers[name.key(number)] for name in names}
    return leases


def number_names(table: str, logs: Sequence[Log]) -> list[ProgressName]:
    """Return the names of all numbers of one partition on *table*."""
    if table == EXAMPLES:
        examined = [EXAMINED.for_log(log) for log in logs if is_feedback(log)]
        seldom = (MISPLACED, UNKNOWN_ITEM)
        return [OWNER, *OF_EXAMPLES, *seldom, *(join_time(log) for log in logs), *examined]
    on_table = [log for log in logs if table_of(log) == table]
    return [OWNER, *(name.for_log(log) for log in on_table for name in (*OF_LOG, *OF_TOPIC))]


def _begins(
    table: str, logs: Sequence[Log], version: int
) -> dict[ProgressName, tuple[ProgressName, int]]:
    """Return the names under which *version* records where it begins.

    Each has the name of the number to copy, and the value if that number does not exist yet.
    """
    if table == EXAMPLES:
        return {begin(version): (FRONTIER, NOTHING_CLOSED)}
    on_table = [log for log in logs if table_of(log) == table]
    return {begin(version).for_log(log): (OFFSET.for_log(log), 0) for log in on_table}


def _raise_epochs(
    name: str,
    table: ProgressTable,
    partitions: Collection[int],
    begins: Mapping[ProgressName, tuple[ProgressName, int]],
    patience_s: float,
) -> None:
    for attempt in range(1, CLAIM_TRIES + 1):
        swaps = _claims(table, partitions, begins)
        try:
            patient(partial(table.append, None, swaps=swaps), patience_s=patience_s)
        except FencedError:
            if attempt == CLAIM_TRIES:
                raise
            logger.info("another worker writes to %s at the same time; claiming again", name)
        else:
            return


def _claims(
    table: ProgressTable,
    partitions: Collection[int],
    begins: Mapping[ProgressName, tuple[ProgressName, int]],
) -> list[CompareAndSwap]:
    """Return the swaps of a claim, from the numbers the table has now.

    They compare the owner. So if another worker commits in between, the claim is refused, and the
    recorded beginning of a version is exact.
    """
    names = (OWNER, *begins, *(reached for reached, _ in begins.values()))
    numbers = table.progress(name.key(number) for name in names for number in partitions)
    swaps = []
    for number in partitions:
        epoch = numbers[OWNER.key(number)]
        swaps.append(CompareAndSwap(OWNER.key(number), epoch, (epoch or 0) + 1))
        for name, (reached, nothing) in begins.items():
            if numbers[name.key(number)] is None:
                at = numbers[reached.key(number)]
                swaps.append(CompareAndSwap(name.key(number), None, nothing if at is None else at))
    return swaps

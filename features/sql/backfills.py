"""Backfills of a loop: their definitions, their tables, and which of their slices are done.

A backfill is a table `<loop>/examples@<name>`, and a file with the definition and the raw rows it
is made from. Each of its slices is one commit, which also records that the slice is done.
`streams/reprocess` computes the rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from tidemill.errors import FencedError, LakeError, RequestError
from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.lake import Lake, Table
from tidemill.features.lake.layouts import EXAMPLES, layouts
from tidemill.features.lake.progress_keys import (
    BACKFILL_BEGUN,
    BACKFILL_COMPLETE,
    OF_SLICE,
    SLICE_EXAMPLES,
)
from tidemill.features.lake.storage import lake_errors, read_document
from tidemill.schemas.logs import Log
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.fields import FIELD

COUNTS: tuple[str, ...] = OF_SLICE
"""What is counted of each slice: its examples, and what else its decisions ended as."""


class Backfill(BaseModel):
    """The definition of a backfill; it never changes once the backfill has begun.

    *loop* is the definition of the loop, published or not. Decisions made in [*since*, *until*) are
    joined, from the raw rows before the offsets *ends*. *frontiers* has, by partition, the time in
    microseconds before which the whole window of every decision is in those rows. *cuts* are the
    bounds of the slices.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=FIELD, max_length=60)
    loop: Loop
    since: AwareDatetime | None
    until: AwareDatetime | None
    ends: dict[Log, dict[int, int]]
    frontiers: dict[int, int]
    cuts: list[AwareDatetime] = Field(min_length=2)

    @property
    def slices(self) -> int:
        """The number of slices; they are numbered from 0."""
        return len(self.cuts) - 1

    def bounds(self, number: int) -> tuple[datetime, datetime]:
        """Return the bounds of a slice in event time, the end excluded."""
        return self.cuts[number], self.cuts[number + 1]


@dataclass(frozen=True, slots=True)
class Done:
    """The progress of a backfill: the counts of each slice that is done."""

    slices: Mapping[int, Mapping[str, int]]
    is_complete: bool

    def total(self, count: str) -> int:
        """Return one of `COUNTS` over all slices done."""
        return sum(counts[count] for counts in self.slices.values())


def table_name(name: str) -> str:
    """Return the name of the table of a backfill.

    >>> table_name("wide")
    'examples@wide'
    """
    return f"{EXAMPLES}@{name}"


def view_name(name: str) -> str:
    """Return the name of the view of a complete backfill.

    >>> view_name("wide")
    'examples_wide'
    """
    return f"{EXAMPLES}_{name}"


def backfills(lake: Lake, loop_name: str) -> list[str]:
    """Return the names of the backfills of a loop, sorted."""
    with lake_errors(f"list the backfills of {loop_name}", lake.root):
        names = lake.storage.names(loop_name)
    return sorted(
        name.removeprefix("backfill-").removesuffix(".json")
        for name in names
        if name.startswith("backfill-") and name.endswith(".json")
    )


def begin(lake: Lake, backfill: Backfill) -> None:
    """Create the table of *backfill* and write its definition; only one process can.

    Raises:
        RequestError: another process has begun a backfill of this name.
        LakeError: the storage refuses.
    """
    loop, name = backfill.loop, backfill.name
    table = lake.create_table(loop.loop, table_name(name), layouts(loop)[EXAMPLES])
    try:
        table.append(None, swaps=[CompareAndSwap(BACKFILL_BEGUN, None, 1)])
    except FencedError as error:
        raise RequestError(
            f"another process is beginning backfill {name} of {loop.loop}",
            hint=f"run the same command again; if that one is dead, first: "
            f"tidemill lake backfill {loop.loop} --drop {name}",
        ) from error
    with lake_errors(f"write the definition of backfill {name}", lake.root):
        lake.storage.write(_path(loop.loop, name), backfill.model_dump_json().encode())


def read_backfill(lake: Lake, loop_name: str, name: str) -> Backfill:
    """Return the definition of a backfill.

    Raises:
        LakeError: there is no backfill of that name.
    """
    with lake_errors(f"read backfill {name}", lake.root):
        try:
            return read_document(lake.storage, lake.root, _path(loop_name, name), Backfill)
        except FileNotFoundError as error:
            known = ", ".join(backfills(lake, loop_name)) or "none"
            raise LakeError(
                f"{loop_name} has no backfill {name!r} in the lake at {lake.root}",
                hint=f"there are: {known}; make one with: tidemill lake backfill {loop_name}",
            ) from error


def done(lake: Lake, backfill: Backfill) -> Done:
    """Return the progress of *backfill*.

    Raises:
        LakeError: the lake cannot be read.
    """
    table = lake.table(backfill.loop.loop, table_name(backfill.name))
    numbers = range(backfill.slices)
    recorded = table.progress(
        [BACKFILL_COMPLETE, *(count.key(n) for n in numbers for count in OF_SLICE)]
    )
    slices: dict[int, dict[str, int]] = {
        n: {count: recorded[count.key(n)] or 0 for count in OF_SLICE}
        for n in numbers
        if recorded[SLICE_EXAMPLES.key(n)] is not None
    }
    return Done(slices, recorded[BACKFILL_COMPLETE] is not None)


def slice_swaps(number: int, counts: Mapping[str, int]) -> list[CompareAndSwap]:
    """Return the swaps that record slice *number* as done; they succeed once."""
    return [CompareAndSwap(count.key(number), None, counts[count]) for count in OF_SLICE]


def complete(table: Table) -> None:
    """Record that every slice is done; before that, no reader gets the table."""
    if not _is_recorded(table):
        table.append(None, swaps=[CompareAndSwap(BACKFILL_COMPLETE, None, 1)])


def completed(lake: Lake, loop_name: str) -> list[str]:
    """Return the names of the backfills of a loop that are complete, sorted."""
    return [name for name in backfills(lake, loop_name) if _is_complete(lake, loop_name, name)]


def complete_table(lake: Lake, loop_name: str, name: str) -> Table:
    """Return the table of a backfill that is complete.

    Raises:
        LakeError: there is no backfill of that name, or slices are missing.
    """
    read_backfill(lake, loop_name, name)
    if not _is_complete(lake, loop_name, name):
        raise LakeError(
            f"backfill {name} of {loop_name} is not complete",
            hint="run the command that began it again: it continues",
        )
    return lake.table(loop_name, table_name(name))


def _is_complete(lake: Lake, loop_name: str, name: str) -> bool:
    if not lake.has_table(loop_name, table_name(name)):
        return False
    return _is_recorded(lake.table(loop_name, table_name(name)))


def _is_recorded(table: Table) -> bool:
    return table.progress([BACKFILL_COMPLETE])[BACKFILL_COMPLETE] is not None


def drop(lake: Lake, loop_name: str, name: str) -> None:
    """Remove a backfill and all its files.

    Raises:
        LakeError: there is no backfill of that name, or the storage refuses.
    """
    if not lake.has_table(loop_name, table_name(name)):
        read_backfill(lake, loop_name, name)
    with lake_errors(f"drop backfill {name}", lake.root):
        lake.storage.remove(_path(loop_name, name))
        lake.storage.remove_folder(f"{loop_name}/{table_name(name)}")


def _path(loop_name: str, name: str) -> str:
    return f"{loop_name}/backfill-{name}.json"

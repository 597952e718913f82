"""Compaction: merge the small files of commits into fewer, larger ones per day.

Merging changes no row, so its entry in the log has `dataChange` false, and readers of commits skip
it. Merged files stay for readers of older versions as long as the table's properties say
(TIDEMILL_LAKE_KEEP); then they are removed, together with files that a refused commit has left. It
is safe beside writers.
"""

from dataclasses import dataclass

import deltalake.exceptions
from deltalake import WriterProperties

from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import TABLES
from tidemill.features.lake.storage import lake_errors

FILE_BYTES = 128 * 2**20  # a file of this size is not merged again
MANY_FILES = 500  # with more, opening a table and committing to it take noticeably longer
_SMALL = WriterProperties(compression="ZSTD", compression_level=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """How many files of one table were merged, made and removed."""

    table: str
    merged: int
    made: int
    removed: int


def compact(lake: Lake, loop_name: str, *, file_bytes: int = FILE_BYTES) -> list[Compaction]:
    """Merge and clean the tables of a loop, while writers go on.

    Raises:
        LakeError: the storage refuses; no row is changed then.
    """
    return [compact_table(lake, loop_name, name, file_bytes=file_bytes) for name in TABLES]


def maintain(lake: Lake, loop_name: str, *, files: int = MANY_FILES) -> list[Compaction]:
    """Compact the tables of a loop that have more than *files* files beyond one per day.

    It is cheap when nothing is due, so a process may call it every few minutes.

    Raises:
        LakeError: the storage refuses; no row is changed then.
    """
    done = []
    for name in TABLES:
        uris = lake.table(loop_name, name).uris()
        days = {uri.rsplit("/", 1)[0] for uri in uris}
        if len(uris) - len(days) > files:
            done.append(compact_table(lake, loop_name, name))
    return done


def compact_table(
    lake: Lake, loop_name: str, name: str, *, file_bytes: int = FILE_BYTES
) -> Compaction:
    """Merge the small files of one table and remove those that were merged long ago."""
    table = lake.table(loop_name, name)
    merged = made = 0
    with lake_errors(f"compact {table.folder}", lake.root):
        handle = table.handle()
        try:
            metrics = handle.optimize.compact(
                target_size=file_bytes, max_concurrent_tasks=1, writer_properties=_SMALL
            )
            merged, made = int(metrics["numFilesRemoved"]), int(metrics["numFilesAdded"])
        except deltalake.exceptions.CommitFailedError:
            handle = table.handle()  # another compaction at the same time has done the work
        handle.create_checkpoint()
        handle.cleanup_metadata()
        removed = handle.vacuum(dry_run=False, enforce_retention_duration=False, full=True)
    return Compaction(table=name, merged=merged, made=made, removed=len(removed))

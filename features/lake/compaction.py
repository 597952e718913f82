"""Fewer, larger files: what a second's commit leaves small is merged by day.

Merging changes no row, so the log says `dataChange` is false and whoever tails commits skips it.
Files that were merged away stay for as long as the table says (TIDEMILL_LAKE_KEEP), for readers of
older versions; then they are removed, and with them what a refused commit may have left behind.
Safe beside writers.
"""

from dataclasses import dataclass

import deltalake.exceptions
from deltalake import WriterProperties

from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import TABLES
from tidemill.features.lake.storage import lake_errors

FILE_BYTES = 128 * 2**20  # a file of this size is merged no further
MANY_FILES = 500  # beyond, opening a table and committing to it take noticeably longer
_SMALL = WriterProperties(compression="ZSTD", compression_level=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """What was done to one table, in files."""

    table: str
    merged: int
    made: int
    removed: int


def compact(lake: Lake, loop_name: str, *, file_bytes: int = FILE_BYTES) -> list[Compaction]:
    """Merge and clean the tables of a loop; another writer's commits go on meanwhile.

    Raises:
        LakeError: the storage refuses; no row is touched then.
    """
    return [compact_table(lake, loop_name, name, file_bytes=file_bytes) for name in TABLES]


def maintain(lake: Lake, loop_name: str, *, files: int = MANY_FILES) -> list[Compaction]:
    """Compact those tables of a loop that have more than *files* files beyond one a day.

    Cheap when nothing is due, so whoever has the lake open may call it every few minutes.

    Raises:
        LakeError: the storage refuses; no row is touched then.
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
            handle = table.handle()  # two compactions at once: the other one did the work
        handle.create_checkpoint()
        handle.cleanup_metadata()
        removed = handle.vacuum(dry_run=False, enforce_retention_duration=False, full=True)
    return Compaction(table=name, merged=merged, made=made, removed=len(removed))

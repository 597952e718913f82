"""Reading ``examples`` commit by commit, for learners that take each row once.

It knows no learner. Where the log no longer goes back far enough, the rows that are missing are
found by their decision ids instead.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from tidemill.errors import LakeError
from tidemill.features.lake.lake import Table
from tidemill.features.sql.revisions import FIRST, has_revisions, newest_rows
from tidemill.schemas.loop.definition import Loop

_NEEDED = ("decision_id", "at", "features", "action", "label", "partition", "offset", "revision")


@dataclass(frozen=True, slots=True)
class LabelCount:
    """How many labelled rows a version holds, and the time of the newest decision among them.

    *revised* of them were corrected after their close.
    """

    version: int
    labels: int
    last_at: datetime | None
    revised: int = 0


def count_labels(examples: Table, loop: Loop) -> LabelCount:
    """Count the labelled examples of the newest version, by their newest revision."""
    version = examples.version()
    rows = examples.scan(version)
    told = (
        (newest_rows(rows) if has_revisions(examples, loop, version) else rows)
        .filter(pl.col("label").is_not_null())
        .select(
            pl.len().alias("n"),
            pl.col("at").max().alias("last"),
            (pl.col("revision") > 0).sum().alias("revised"),
        )
        .collect()
    )
    return LabelCount(version, *told.row(0))


def commits_after(
    examples: Table, version: int, learned_ids: Callable[[], pl.Series]
) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield version and new rows of every commit after *version*, oldest first.

    Revisions are left out: what was learned cannot be unlearned, and no example is learned twice.

    Args:
        examples: the table.
        version: up to which everything is known; -1 for nothing.
        learned_ids: asked only if the log was cut before *version* + 1: the decision ids already
            learned. All other rows then come as one commit, that of the newest version.
    """
    try:
        commits = examples.commits_since(version)
    except LakeError:  # the log is cut; if it is the storage, the read below fails the same way
        newest = examples.version()
        rows = examples.read(_NEEDED, FIRST, newest)
        known = pl.DataFrame({"decision_id": learned_ids()})
        yield newest, rows.join(known, on="decision_id", how="anti")
        return
    for commit in commits:
        if commit.files:
            yield commit.version, examples.rows(commit).filter(FIRST).select(_NEEDED)

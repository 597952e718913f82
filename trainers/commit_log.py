"""Reads ``examples`` commit by commit, for learners that take each row once.

Delta removes old commits from its log. Where the log no longer reaches back to the last learned
commit, the rows that are not learned yet are found by their decision ids.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from tidemill.errors import LakeError
from tidemill.features.lake.lake import Table
from tidemill.features.sql.revisions import FIRST, has_revisions, newest_rows
from tidemill.schemas.loop.definition import Loop

_NEEDED = (
    *("decision_id", "at", "features", "action", "label", "partition", "offset", "revision"),
    *("propensity", "source", "propensities", "baseline"),
)


@dataclass(frozen=True, slots=True)
class LabelCount:
    """How many labelled rows a version holds, and the time of the newest decision among them.

    *revised* counts the rows whose label was corrected after the close of their window.
    """

    version: int
    labels: int
    last_at: datetime | None
    revised: int = 0


def count_labels(examples: Table, loop: Loop) -> LabelCount:
    """Count the labelled examples of the newest version; of each the newest revision counts."""
    version = examples.version()
    rows = examples.scan(version)
    counts = (
        (newest_rows(rows) if has_revisions(examples, loop, version) else rows)
        .filter(pl.col("label").is_not_null())
        .select(
            pl.len().alias("n"),
            pl.col("at").max().alias("last"),
            (pl.col("revision") > 0).sum().alias("revised"),
        )
        .collect()
    )
    return LabelCount(version, *counts.row(0))


def known_ids(examples: Table, until: datetime | None) -> pl.Series:
    """Return the ids of the decisions up to *until*, of which no later commit is new."""
    if until is None:
        return pl.Series("decision_id", [], dtype=pl.String)
    wanted = FIRST & (pl.col("at") <= until)
    return examples.read(["decision_id"], wanted).get_column("decision_id")


def commits_after(
    examples: Table, version: int, learned_ids: Callable[[], pl.Series]
) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield version and new rows of every commit after *version*, oldest first.

    Revisions are left out: a learner cannot unlearn a row, and learns no example twice.

    Args:
        examples: the table.
        version: the last one that is learned; -1 for none.
        learned_ids: returns the decision ids already learned; called only if the log no longer
            holds *version* + 1. All other rows then come as one commit of the newest version.
    """
    needed = [name for name in _NEEDED if name in examples.schema]
    try:
        commits = examples.commits_since(version)
    except LakeError:  # the log is cut; if the storage fails, the read below raises it again
        newest = examples.version()
        rows = examples.read(needed, FIRST, newest)
        known = pl.DataFrame({"decision_id": learned_ids()})
        yield newest, rows.join(known, on="decision_id", how="anti")
        return
    for commit in commits:
        if commit.files:
            yield commit.version, examples.rows(commit).filter(FIRST).select(needed)

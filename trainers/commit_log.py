"""Reads ``examples`` commit by commit, for learners that take each row once.

Delta removes old commits from its log. Where the log no longer reaches back to the last learned
commit, the rows that are not learned yet are found by their decision ids.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import polars as pl

from tidemill.errors import LakeError
from tidemill.features.lake.lake import Table
from tidemill.features.sql.judgements import ALL_ROWS, ComparableRows, JudgedSpan
from tidemill.features.sql.revisions import FIRST, has_revisions, newest_rows
from tidemill.schemas.loop.definition import Loop

NEEDED = (
    *("decision_id", "at", "features", "action", "label", "partition", "offset", "revision"),
    *("propensity", "source", "propensities", "baseline"),
    *("item", "position", "item_propensity", "item_features"),
)


@dataclass(frozen=True, slots=True)
class LabelCount:
    """How many labelled rows a version holds, and the time of the newest decision among them.

    *revised* counts the rows whose label was corrected after the close of their window. *sources*
    has the labels by the version of the loop that judged them, or by the backfill that made them.
    *left_out* has those of another label, by version: they are not counted.
    """

    version: int
    labels: int
    last_at: datetime | None
    revised: int = 0
    sources: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)


def count_labels(
    examples: Table,
    loop: Loop,
    rows: ComparableRows = ALL_ROWS,
    *,
    backfill: Table | None = None,
    version: int | None = None,
) -> LabelCount:
    """Count the labelled examples of a version; of each the newest revision counts.

    Args:
        examples: the live table.
        loop: the version of the loop whose labels are counted.
        rows: which of them are its labels.
        backfill: the table of the backfill that *rows* names.
        version: that of *examples*; the newest one if None.
    """
    version = examples.version() if version is None else version
    labelled = pl.col("label").is_not_null()
    newest = examples.scan(version)
    if has_revisions(examples, loop, version):
        newest = newest_rows(newest)
    live = _counted(newest, labelled & rows.expr(), rows.spans)
    others = _counted(newest, labelled, rows.others).sources
    sources = live.sources or {f"version {loop.version}": live.labels}
    live = replace(live, version=version, sources=sources, left_out=others)
    if backfill is None:
        return live
    made = _counted(newest_rows(backfill.scan()), labelled & rows.other_expr(), ())
    return _together(live, made, f"backfill {rows.backfill}")


def _together(live: LabelCount, made: LabelCount, name: str) -> LabelCount:
    """Return both counts together; the backfill *name* has made labels for all left out."""
    return LabelCount(
        live.version,
        live.labels + made.labels,
        max(filter(None, (live.last_at, made.last_at)), default=None),
        live.revised + made.revised,
        {name: made.labels} | dict(live.sources),
        {},
    )


def _counted(rows: pl.LazyFrame, wanted: pl.Expr, spans: Sequence[JudgedSpan]) -> LabelCount:
    """Count the *wanted* rows, in all and by the versions of *spans*."""
    counts = rows.filter(wanted).select(
        pl.len().alias("n"),
        pl.col("at").max().alias("last"),
        (pl.col("revision") > 0).sum().alias("revised"),
        *(span.expr().sum().alias(f"span {number}") for number, span in enumerate(spans)),
    )
    labels, last, revised, *each = counts.collect().row(0)
    sources = Counter[str]()
    for span, count in zip(spans, each, strict=True):
        sources[span.name] += count
    return LabelCount(-1, labels, last, revised, {k: n for k, n in sources.items() if n})


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
    needed = [name for name in NEEDED if name in examples.schema]
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

"""The progress numbers of the lake: under which key each is stored, and what it counts.

A commit of a Delta table moves integers together with its rows. Delta calls them
`app_transactions`: a table of key -> int64. The keys never change, because every lake on disk has
them.

    table              key                               the number
    each of the three  owner/<partition>                 epoch of the worker that owns the partition
    decisions,         offset/<partition>                next offset of the log
    feedback           time/<partition>                  stream time of the log after it (us)
                       dead/<partition>                  dead letters so far
                       bad/<partition>                   bad records in the last stretch of the log
                       holes/<partition>                 offsets that held no record
                       topic/<partition>                 63 bits of the id of the topic read
                       cluster/<partition>               63 bits of the id of its cluster
                       restored/<partition>              rows that were lost and put back; also of
                                                         examples; there once a lake was repaired
                       begin/<version>/<partition>       offset at which a loop version took over
    examples           frontier/<partition>              decisions are closed up to here (us, excl.)
                       late/<partition>                  feedback that came too late so far
                       duplicate/<partition>             copies of feedback so far
                       unmatched/<partition>             feedback without a decision so far
                       misplaced/<partition>             feedback of decisions of other partitions
                                                         so far; of earlier releases: unmatched
                       unknown_item/<partition>          feedback that no shown item takes so far;
                                                         there once there was some
                       revised/<partition>               revisions of examples so far
                       time/<log>/<partition>            stream time of the log in the join (us)
                       examined/<partition>              offset up to which feedback was compared
                                                         with closed decisions
                       begin/<version>/<partition>       frontier at which a loop version took over
    examples@<name>,   begun                             1: the backfill is written down
    a backfill         examples/<slice>                  rows of the slice; absent: it is not done
                       late, duplicate, open/<slice>     what its other decisions ended as
                       complete                          1: every slice is done
    predictions        learned/<learner>                 version of examples that was learned last
    models             number                            number of the newest model
    stages             number                            number of the newest change of a stage
    rules              number                            version of the newest rules

All logs of feedback share one table. The numbers of a log ``feedback.<stream>`` therefore carry
its stream: ``offset@<stream>/<partition>``, ``begin/<version>@<stream>/<partition>``.
"""

from typing import Final

from tidemill.schemas.logs import Log, stream_of


class ProgressName(str):
    """What a progress number of one partition is called: its key without the partition.

    It is a string, so that it can be compared with what the lake returns.

    >>> OFFSET.key(3), OFFSET.for_log("feedback").key(3)
    ('offset/3', 'offset/3')
    >>> OFFSET.for_log("feedback.orders").key(3)
    'offset@orders/3'
    """

    __slots__ = ()

    def for_log(self, log: Log) -> "ProgressName":
        """Return the name of this number of *log* on the table that *log* may share with others."""
        stream = stream_of(log)
        return self if stream is None else ProgressName(f"{self}@{stream}")

    def key(self, number: int) -> str:
        """Return the key of this number for one partition, or for one slice of a backfill."""
        return f"{self}/{number}"


OWNER: Final = ProgressName("owner")

OFFSET: Final = ProgressName("offset")
STREAM_TIME: Final = ProgressName("time")
DEAD_LETTERS: Final = ProgressName("dead")
BAD_RECORDS: Final = ProgressName("bad")  # there once a record was bad: `error_limit.py`
GAPS: Final = ProgressName("holes")  # marks of transactions, aborted records, compacted ones
OF_LOG: Final = (OFFSET, STREAM_TIME, DEAD_LETTERS, BAD_RECORDS, GAPS)
"""The numbers that a raw table has for each partition of a log."""

TOPIC_ID: Final = ProgressName("topic")
CLUSTER_ID: Final = ProgressName("cluster")
OF_TOPIC: Final = (TOPIC_ID, CLUSTER_ID)
"""Of which topic these are the numbers; absent if the broker told no ids, or in old lakes."""

FRONTIER: Final = ProgressName("frontier")
LATE: Final = ProgressName("late")
DUPLICATE: Final = ProgressName("duplicate")
UNMATCHED: Final = ProgressName("unmatched")
MISPLACED: Final = ProgressName("misplaced")  # there once feedback was misplaced
UNKNOWN_ITEM: Final = ProgressName("unknown_item")  # there once feedback named such an item
REVISED: Final = ProgressName("revised")
EXAMINED: Final = ProgressName("examined")  # there for logs whose feedback may correct examples
OF_EXAMPLES: Final = (FRONTIER, LATE, DUPLICATE, UNMATCHED, REVISED)
"""The numbers that `examples` has for each partition, besides those it has for each log."""

NOTHING_CLOSED: Final = -(2**62)
"""The frontier at which a version begins (us) in a partition that has closed nothing."""

RESTORED: Final = ProgressName("restored")

SLICE_EXAMPLES: Final = ProgressName("examples")
OF_SLICE: Final = (SLICE_EXAMPLES, LATE, DUPLICATE, ProgressName("open"))
"""The numbers that the table of a backfill has for each slice that is done."""

BACKFILL_BEGUN: Final = "begun"
BACKFILL_COMPLETE: Final = "complete"
MODEL_NUMBER: Final = "number"
STAGE_NUMBER: Final = "number"
RULES_NUMBER: Final = "number"


def join_time(log: Log) -> ProgressName:
    """Return the name of the stream time of *log* that the join used last, on `examples`.

    It may be later than the one of the raw table: an idle log is moved on without a row.

    >>> join_time("feedback.orders").key(3)
    'time/feedback.orders/3'
    """
    return ProgressName(f"{STREAM_TIME}/{log}")


def begin(version: int) -> ProgressName:
    """Return the name of the number at which *version* of a loop took a partition over.

    An audit reads it to know by whose rules a row was judged.

    >>> begin(2).key(3), begin(2).for_log("feedback.orders").key(3)
    ('begin/2/3', 'begin/2@orders/3')
    """
    return ProgressName(f"begin/{version}")


def learned(learner: str) -> str:
    """Return the key of the version of `examples` that an online learner learned last.

    >>> learned("ftrl rate=0.1 l2=0.0")
    'learned/ftrl rate=0.1 l2=0.0'
    """
    return f"learned/{learner}"

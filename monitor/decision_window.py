"""The window of one decision: when feedback counts, when it closes, and what it waits for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import EXAMPLES, table_of
from tidemill.features.lake.progress_keys import FRONTIER, STREAM_TIME, ProgressName, join_time
from tidemill.monitor.json_values import as_json
from tidemill.schemas.logs import Log
from tidemill.schemas.loop.definition import Loop

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionWindow:
    """When feedback counts for a decision, and when the decision closes.

    Attributes:
        kinds: by kind of feedback, the first and the last moment at which it counts.
        bucket: the decision closes together with those in this span of event time.
        closes: it closes once the stream time of all logs is past this.
        frontier: its partition is closed up to this time; None before the first close.
        stream_times: the stream time of each log; None before its first record.
    """

    kinds: Mapping[str, tuple[datetime, datetime]]
    bucket: tuple[datetime, datetime]
    closes: datetime
    frontier: datetime | None
    stream_times: Mapping[Log, datetime | None]

    @property
    def is_closed(self) -> bool:
        """Whether its partition is closed past the decision."""
        return self.frontier is not None and self.frontier >= self.bucket[1]

    @property
    def waits_for(self) -> dict[Log, timedelta | None]:
        """The logs that keep it open, with the event time they lack; None without any record.

        Empty once it is closed, and for a moment before that.
        """
        if self.is_closed:
            return {}
        return {
            log: None if time is None else self.closes - time
            for log, time in self.stream_times.items()
            if time is None or time <= self.closes
        }

    def to_json(self) -> dict[str, object]:
        """Return all of it as plain values."""
        waits = {
            log: None if time is None else time.total_seconds()
            for log, time in self.waits_for.items()
        }
        return {
            "kinds": {kind: [as_json(time) for time in ends] for kind, ends in self.kinds.items()},
            "bucket": [as_json(time) for time in self.bucket],
            "closes": as_json(self.closes),
            "closed": self.is_closed,
            "frontier": as_json(self.frontier),
            "stream_times": {log: as_json(time) for log, time in self.stream_times.items()},
            "waits_for_s": waits,
        }


def read_decision_window(
    lake: Lake,
    loop: Loop,
    versions: Mapping[str, int],
    partition: int,
    at: datetime,
    bucket: timedelta,
) -> DecisionWindow:
    """Return the window of a decision made *at* a time in *partition*, as of *versions*.

    Raises:
        LakeError: the lake cannot be read.
    """
    start = _EPOCH + (at - _EPOCH) // bucket * bucket
    (frontier,) = _numbers(lake, loop, EXAMPLES, versions, (FRONTIER,), partition)
    names = [join_time(log) for log in loop.logs]
    moved = _numbers(lake, loop, EXAMPLES, versions, names, partition)
    times: dict[Log, datetime | None] = {}
    for log, used in zip(loop.logs, moved, strict=True):
        own = (STREAM_TIME.for_log(log),)
        (read,) = _numbers(lake, loop, table_of(log), versions, own, partition)
        times[log] = max((time for time in (read, used) if time is not None), default=None)
    return DecisionWindow(
        kinds={name: (at - kind.early, at + kind.within) for name, kind in loop.feedback.items()},
        bucket=(start, start + bucket),
        closes=start + bucket + loop.wait + loop.grace,
        frontier=frontier,
        stream_times=times,
    )


def _numbers(
    lake: Lake,
    loop: Loop,
    table: str,
    versions: Mapping[str, int],
    names: Sequence[ProgressName],
    partition: int,
) -> list[datetime | None]:
    """Return the progress of one partition under *names*, as times."""
    ids = [name.key(partition) for name in names]
    found = lake.table(loop.loop, table).progress(ids, versions[table])
    values = (found[id_] for id_ in ids)
    return [None if us is None else _EPOCH + timedelta(microseconds=us) for us in values]

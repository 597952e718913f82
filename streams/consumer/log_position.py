"""The position of one log of one partition after each step from the broker to the lake."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPosition:
    """The next offset of one log of one partition after each step; None where it is not known.

    The transport sets the first five, the loop that owns the partition the last three. Normally
    ``committed <= taken <= received <= handed_out <= awaited <= fetched <= passed <= end``; records
    that Kafka has deleted are between *handed_out* and *awaited*.

    Attributes:
        end: the end of the log for readers of committed records, as of the broker's last answer.
        passed: behind everything that was fetched, control batches included.
        fetched: behind the last record that was fetched.
        awaited: the start of the next batch for an agent.
        handed_out: behind the last batch that an agent got since the last seek.
        received: behind the last batch that the loop has queued or taken.
        taken: behind the last record that the join has judged.
        committed: behind the last record that the lake has.
    """

    end: int | None = None
    passed: int | None = None
    fetched: int = 0
    awaited: int | None = None
    handed_out: int | None = None
    received: int | None = None
    taken: int | None = None
    committed: int | None = None

    @property
    def has_more(self) -> bool:
        """Whether the broker has something that was not fetched, as of its last answer."""
        return self.passed is not None and self.end is not None and self.passed < self.end

    @property
    def is_under_way(self) -> bool:
        """Whether fetched records were not handed to an agent yet."""
        return self.awaited is not None and self.awaited < self.fetched

    @property
    def is_received(self) -> bool:
        """Whether the loop has received every record: none is left at the broker or under way.

        Control batches at the end and deleted records do not count: they are never handed out.
        """
        if self.passed is None or self.received is None or self.handed_out is None:
            return False
        return not (self.has_more or self.is_under_way) and self.received >= self.handed_out

    @property
    def queued(self) -> int:
        """How many offsets are handed out and not taken."""
        if self.handed_out is None or self.taken is None:
            return 0
        return self.handed_out - self.taken

"""The lag of a group and of its partitions, as values."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Literal

LagStatus = Literal["OK", "AHEAD", "OPEN_TXN"]
"""AHEAD: the group has committed an offset past the end of the log, so the topic was made anew or
truncated. OPEN_TXN: an open transaction hides records from readers of committed ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionLag:
    """The lag of one group in one partition; one without a committed offset reads from the start.

    Attributes:
        topic: of the partition.
        partition: its number.
        committed: the next offset to read; None if the group has committed none.
        start: the first offset that the log has.
        end: the offset after its last record, be it of an open transaction.
        messages: unread records; below 0 if *committed* is past the end.
        open_txn: how many offsets an open transaction hides; part of *messages*.
        lost: records that were deleted unread.
        seconds: the age of the oldest unread record that can be read, or 0.
        messages_at_most: *messages* counts offsets, some of which may have no record.
        seconds_at_least: an older one may be among the records that were not looked at.
    """

    topic: str
    partition: int
    committed: int | None
    start: int
    end: int
    messages: int
    open_txn: int
    lost: int
    seconds: float
    messages_at_most: bool = False
    seconds_at_least: bool = False

    @property
    def status(self) -> LagStatus:
        """What is remarkable about the partition, or OK."""
        if self.messages < 0:
            return "AHEAD"
        return "OPEN_TXN" if self.open_txn else "OK"

    @property
    def is_wrong(self) -> bool:
        """Whether records were lost, or will be passed over."""
        return self.status == "AHEAD" or self.lost > 0

    def to_json(self) -> dict[str, object]:
        """Return all of it as plain values."""
        return asdict(self) | {"status": self.status}


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLag:
    """The lag of one group; without *members* nobody reads, and the lag grows."""

    group: str
    members: int
    partitions: tuple[PartitionLag, ...]

    @property
    def messages(self) -> int:
        """How many records are unread."""
        return sum(max(0, partition.messages) for partition in self.partitions)

    @property
    def ahead(self) -> int:
        """How many offsets past the ends of the logs are committed."""
        return -sum(min(0, partition.messages) for partition in self.partitions)

    @property
    def open_txn(self) -> int:
        """How many unread offsets open transactions hide."""
        return sum(partition.open_txn for partition in self.partitions)

    @property
    def lost(self) -> int:
        """How many records were deleted before they were read."""
        return sum(partition.lost for partition in self.partitions)

    @property
    def seconds(self) -> float:
        """The age of the oldest unread record, in seconds."""
        return max((partition.seconds for partition in self.partitions), default=0.0)

    @property
    def is_wrong(self) -> bool:
        """Whether records were lost, or will be passed over."""
        return any(partition.is_wrong for partition in self.partitions)

    def without(self, topics: Collection[str]) -> "GroupLag":
        """Return the lag without that in *topics*."""
        others = tuple(each for each in self.partitions if each.topic not in topics)
        return replace(self, partitions=others)

    def over(self, *, messages: int | None = None, seconds: float | None = None) -> bool:
        """Return whether any partition exceeds a limit; None is no limit."""
        return any(
            (messages is not None and partition.messages > messages)
            or (seconds is not None and partition.seconds > seconds)
            for partition in self.partitions
        )

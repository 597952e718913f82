"""A check that all logs of a loop have the same keys and partitioner; else records never meet.

Kafka's producer chooses the partition by the key. If decisions are keyed by their ids and feedback
by user, or by a client with another partitioner, most feedback is in another partition than its
decision, and nearly all of it would be `unmatched` or `misplaced`. A few records of each batch are
checked; what is misplaced of feedback is counted exactly.
"""

import logging
from dataclasses import dataclass, field

import numpy as np

from tidemill.errors import ContractError
from tidemill.schemas.logs import DECISIONS, Log, is_feedback
from tidemill.schemas.loop.definition import MaxBad
from tidemill.schemas.partitioner import partition_of
from tidemill.streams.units import Bools, Int64s

logger = logging.getLogger(__name__)

ENOUGH = 50
"""How many records of each log are checked before its keys are judged."""
_LATER = 8  # records of a batch to check from then on; each takes some microseconds
_SURE = 0.9
_PLACED = 0.75  # of another partitioner at most half are where they belong, in two partitions
_PARTITIONER = (
    "set partitioner=murmur2_random in the producer: librdkafka's default is another one, Java's "
    "is this one"
)


@dataclass(slots=True)
class _Checked:
    """What the checked records of one log were like."""

    count: int = 0
    keyed: int = 0  # by the decision's id
    placed: int = 0  # in the partition of the decision's id
    odd: int = 0  # the offset of the last record that was not both
    stretch: int = 0
    misplaced: int = 0  # records of the stretch, all of them counted

    def share(self, hits: int) -> float:
        """Return the share of *hits*; 0.5 until enough records are checked."""
        return 0.5 if self.count < ENOUGH else hits / self.count


@dataclass(slots=True, kw_only=True)
class CopartitioningCheck:
    """How many records of each log of one partition are keyed and placed by decision.

    With one partition keys do not matter. A *limit* of share 1 lets every record be misplaced.
    """

    topics: dict[Log, str]
    partition: int
    partitions: int
    limit: MaxBad = field(default_factory=MaxBad)
    _checked: dict[Log, _Checked] = field(init=False)

    def __post_init__(self) -> None:
        self._checked = {log: _Checked() for log in self.topics}

    def sample_size(self, log: Log) -> int:
        """Return how many records of the next batch of *log* to check."""
        return ENOUGH if self._checked[log].count < ENOUGH else _LATER

    def check(self, log: Log, key: bytes | None, decision: str, offset: int) -> None:
        """Compare the *key* of one record with the id of the *decision* it is or belongs to."""
        checked, name = self._checked[log], decision.encode()
        is_placed = partition_of(name, self.partitions) == self.partition
        checked.count += 1
        checked.keyed += key == name
        checked.placed += is_placed
        if key != name or not is_placed:
            checked.odd = offset

    def refuse(self) -> None:
        """Raise if the logs differ in what was checked so far.

        Raises:
            ContractError: one log is clearly keyed or placed by decision, and another is not.
        """
        if self.partitions == 1:
            return
        for log, mine in self._checked.items():
            for other, theirs in self._checked.items():
                if mine.share(mine.keyed) < 1 - _SURE and theirs.share(theirs.keyed) > _SURE:
                    raise self._keyed_differently(log, other)
                if (
                    self.limit.share < 1
                    and mine.count >= ENOUGH
                    and mine.share(mine.placed) < _PLACED
                    and theirs.share(theirs.placed) > _SURE
                ):
                    raise self._placed_differently(log, other)

    def count_misplaced(self, log: Log, offsets: Int64s, is_misplaced: Bools) -> int:
        """Count feedback that is in another partition than its decision; return how much it is.

        Raises:
            ContractError: it is more of a stretch of the log than the loop's limit allows, and the
                decisions are where they belong.
        """
        found = offsets[is_misplaced]
        if not len(found):
            return 0
        checked, of = self._checked[log], self.limit.of
        for stretch, count in zip(*np.unique(found // of, return_counts=True), strict=True):
            if int(stretch) != checked.stretch:
                checked.stretch, checked.misplaced = int(stretch), 0
            if not checked.misplaced:
                self._tell(log, int(found[0]))
            checked.misplaced += int(count)
            decisions = self._checked[DECISIONS]
            is_sure = decisions.share(decisions.placed) > _SURE
            if is_sure and checked.misplaced > self.limit.share * of:
                raise self._over(log, checked)
        return len(found)

    def _tell(self, log: Log, offset: int) -> None:
        logger.warning(
            "%s/%d has feedback of decisions of other partitions, see offset %d: it never meets "
            "them, and ends as misplaced\n  hint: %s",
            *(self.topics[log], self.partition, offset, _PARTITIONER),
            extra={"partition": self.partition},
        )

    def _over(self, log: Log, checked: _Checked) -> ContractError:
        of = self.limit.of
        return ContractError(
            f"{self.topics[log]}/{self.partition}: {checked.misplaced} of the {of} records from "
            f"offset {checked.stretch * of} on belong to other partitions, more than max_bad of "
            "the loop allows",
            hint=f"{_PARTITIONER}; or publish the loop under another name with rekey: true, or "
            "with max_bad: {share: 1} to have them all as misplaced",
        )

    def _keyed_differently(self, log: Log, other: Log) -> ContractError:
        mine, theirs = self.topics[log], self.topics[other]
        hint = f"key {mine} by the decision's id, as docs/guide/contracts.md says"
        if is_feedback(log):
            hint += "; or publish the loop under another name with rekey: true"
        return ContractError(
            f"{mine}/{self.partition} is keyed by something else than decisions, see offset "
            f"{self._checked[log].odd}, and {theirs} by decision: in {self.partitions} partitions "
            "they would not meet",
            hint=hint,
        )

    def _placed_differently(self, log: Log, other: Log) -> ContractError:
        mine, theirs, checked = self.topics[log], self.topics[other], self._checked[log]
        hint = _PARTITIONER
        if is_feedback(log):
            hint += "; or publish the loop under another name with rekey: true"
        return ContractError(
            f"of {checked.count} records of {mine}/{self.partition} only {checked.placed} are in "
            f"the partition of their key by murmur2, see offset {checked.odd}, and those of "
            f"{theirs} are: in {self.partitions} partitions they would not meet",
            hint=hint,
        )

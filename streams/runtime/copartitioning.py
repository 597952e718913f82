"""A check that all logs of a loop have the same keys; otherwise decisions and feedback never meet.

Kafka's producer chooses the partition by the key. If decisions are keyed by their ids and feedback
by user, most feedback is in another partition than its decision, and nearly all of it would be
`unmatched`. A few records of each batch are checked.
"""

from tidemill.errors import ContractError
from tidemill.schemas.logs import Log, is_feedback

ENOUGH = 50
"""How many records of each log are checked before its keys are judged."""
_LATER = 8  # records of a batch to check from then on; each takes some microseconds
_SURE = 0.9


class CopartitioningCheck:
    """How many records of each log of one partition are keyed by decision, of those checked."""

    def __init__(self, topics: dict[Log, str], partition: int, partitions: int) -> None:
        """Check *partition* of *partitions*; if there is only one, keys do not matter."""
        self._topics = topics
        self._partition = partition
        self._partitions = partitions
        self._checked: dict[Log, int] = dict.fromkeys(topics, 0)
        self._hits: dict[Log, int] = dict.fromkeys(topics, 0)

    def sample_size(self, log: Log) -> int:
        """Return how many records of the next batch of *log* to check."""
        return ENOUGH if self._checked[log] < ENOUGH else _LATER

    def check(self, log: Log, key: bytes | None, decision: str, offset: int) -> None:
        """Compare the *key* of one record with the id of the *decision* it is or belongs to.

        Raises:
            ContractError: another log is clearly keyed by decision, and this one is not.
        """
        self._checked[log] += 1
        self._hits[log] += key == decision.encode()
        if self._partitions > 1 and self._share(log) < 1 - _SURE:
            for other in self._topics:
                if self._share(other) > _SURE:
                    raise self._differ(log, other, offset)

    def _share(self, log: Log) -> float:
        """Return the share of records of *log* keyed by decision; 0.5 until enough are checked."""
        checked = self._checked[log]
        return 0.5 if checked < ENOUGH else self._hits[log] / checked

    def _differ(self, log: Log, other: Log, offset: int) -> ContractError:
        mine, theirs = self._topics[log], self._topics[other]
        hint = f"key {mine} by the decision's id, as docs/guide/contracts.md says"
        if is_feedback(log):
            hint += "; or publish the loop under another name with rekey: true"
        return ContractError(
            f"{mine}/{self._partition} is keyed by something else than decisions, see offset "
            f"{offset}, and {theirs} by decision: in {self._partitions} partitions they would not "
            "meet",
            hint=hint,
        )

"""Whether all logs of a loop have keys of the same kind: else decisions and feedback never meet.

Kafka puts a record into the partition of its key. If decisions are keyed by their ids and feedback
by user, most feedback lies in another partition than its decision, and a join would say nothing but
`unmatched`. A few records of each batch are looked at. It knows no Kafka.
"""

from tidemill.errors import ContractError
from tidemill.schemas.logs import Log, is_feedback

ENOUGH = 50
"""After so many looks at each log the keys are judged."""
_LATER = 8  # so many records of a batch are looked at from then on; each costs some microseconds
_SURE = 0.9


class CopartitioningCheck:
    """What the keys of the logs of one partition looked like so far."""

    def __init__(self, topics: dict[Log, str], partition: int, partitions: int) -> None:
        """Judge *partition* of so many *partitions*; where there is but one, keys do not matter."""
        self._topics = topics
        self._partition = partition
        self._partitions = partitions
        self._looks: dict[Log, int] = dict.fromkeys(topics, 0)
        self._hits: dict[Log, int] = dict.fromkeys(topics, 0)

    def wanted(self, log: Log) -> int:
        """Return how many records of the next batch of *log* are worth a look."""
        return ENOUGH if self._looks[log] < ENOUGH else _LATER

    def look(self, log: Log, key: bytes | None, decision: str, offset: int) -> None:
        """Compare the *key* of one record with the id of the *decision* it is or belongs to.

        Raises:
            ContractError: one log is keyed by decision for sure, and this one by something else.
        """
        self._looks[log] += 1
        self._hits[log] += key == decision.encode()
        if self._partitions > 1 and self._share(log) < 1 - _SURE:
            for other in self._topics:
                if self._share(other) > _SURE:
                    raise self._differ(log, other, offset)

    def _share(self, log: Log) -> float:
        """Return the share of records of *log* keyed by decision; 0.5 while it is not sure."""
        looks = self._looks[log]
        return 0.5 if looks < ENOUGH else self._hits[log] / looks

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

"""The current start and end offsets of the logs of a loop; reading them takes only DESCRIBE.

The broker is asked what there is: partitions that the loop does not expect are among the answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from tidemill.errors import BrokerError
from tidemill.kafka import ANSWER_S, ChildProcess, KafkaConfig, broker_errors
from tidemill.monitor.lag.group_offsets import EARLIEST, LATEST, GroupOffsets
from tidemill.schemas import topics
from tidemill.schemas.logs import Log
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import joined_topics, produced_topics

_LogTopics = tuple[dict[Log, str], dict[Log, str]]  # those that are joined, and produced to


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerLogs:
    """What the broker has of a loop.

    Attributes:
        starts: the offset of the first record that Kafka still has, by log and partition.
        ends: the offset after the last record.
        unread: how many records each topic of the loop has that no log of this version reads.
    """

    starts: dict[tuple[Log, int], int]
    ends: dict[tuple[Log, int], int]
    unread: dict[str, int] = field(default_factory=dict)


def broker_logs(config: KafkaConfig, loop: Loop, *, timeout_s: float = ANSWER_S) -> BrokerLogs:
    """Return what the broker has of *loop*.

    Raises:
        BrokerError: the broker does not answer in time, or the loop has no topics.
    """
    return broker_logs_of(config, [loop], timeout_s=timeout_s)[loop.loop]


def broker_logs_of(
    config: KafkaConfig, loops: Sequence[Loop], *, timeout_s: float = ANSWER_S
) -> dict[str, BrokerLogs]:
    """Return what the broker has of each of *loops*, by name; it is asked once for all of them.

    Raises:
        BrokerError: the broker does not answer in time, or a loop has no topics.
    """
    named = loops[0].loop if len(loops) == 1 else f"{len(loops)} loops"
    make = partial(_Lookup, config, timeout_s)
    asked = {loop.loop: (joined_topics(loop), produced_topics(loop)) for loop in loops}
    what = f"the logs of {named} could not be looked up"
    with ChildProcess(make, what=what, timeout_s=3 * timeout_s) as child:
        return child.call(_Lookup.logs, what, asked)


def log_ends(
    config: KafkaConfig, loop: Loop, *, timeout_s: float = ANSWER_S
) -> dict[tuple[Log, int], int]:
    """Return the offset after the last record, by log and partition; see `broker_logs`."""
    return broker_logs(config, loop, timeout_s=timeout_s).ends


class _Lookup:
    """Asks the broker; `broker_logs` does it in a child process."""

    def __init__(self, config: KafkaConfig, timeout_s: float) -> None:
        self._config = config
        self._timeout_s = timeout_s
        self._offsets = GroupOffsets(config, timeout_s)

    def logs(self, what: str, loops: Mapping[str, _LogTopics]) -> dict[str, BrokerLogs]:
        """Return what there is of *loops*; an error begins with *what*."""
        with broker_errors(self._config, what, self._offsets.client):
            known = self._offsets.client.list_topics(timeout=self._timeout_s).topics
            counts = {topic: len(about.partitions) for topic, about in known.items()}
            own = {loop: self._topics_of(loop, counts, *each) for loop, each in loops.items()}
            places = {
                (topic, number)
                for topics_ in own.values()
                for topic in topics_
                for number in range(counts[topic])
            }
            starts = self._offsets.find(dict.fromkeys(places, EARLIEST))
            ends = self._offsets.find(dict.fromkeys(places, LATEST))
        bounds = {place: (starts[place].offset, ends[place].offset) for place in places}
        found = {}
        for loop, (joined, _) in loops.items():
            mine = {place: at for place, at in bounds.items() if place[0] in own[loop]}
            found[loop] = _logs_of(joined, mine)
        return found

    def _topics_of(
        self, loop: str, known: Mapping[str, int], joined: dict[Log, str], produced: dict[Log, str]
    ) -> set[str]:
        """Return the topics of *loop*: *joined* by its logs, and others of its feedback.

        Those of *produced* that are not among *joined* are read by the re-keying.
        """
        if absent := sorted(set(joined.values()) - known.keys()):
            raise BrokerError(
                f"there is no topic {', '.join(absent)} at {self._config.bootstrap}",
                hint=f"publish {loop}, or check KAFKA_BOOTSTRAP_SERVERS and the right to "
                "DESCRIBE these topics",
            )
        return {*joined.values()} | {topic for topic in known if _is_left(loop, topic, produced)}


def _logs_of(
    joined: Mapping[Log, str], bounds: Mapping[tuple[str, int], tuple[int, int]]
) -> BrokerLogs:
    """Return what there is of one loop, whose partitions have these *bounds*."""
    logs = {topic: log for log, topic in joined.items()}
    unread: dict[str, int] = {}
    for (topic, _), (start, end) in bounds.items():
        if topic not in logs:
            unread[topic] = unread.get(topic, 0) + end - start
    return BrokerLogs(
        starts={(logs[t], n): start for (t, n), (start, _) in bounds.items() if t in logs},
        ends={(logs[t], n): end for (t, n), (_, end) in bounds.items() if t in logs},
        unread=unread,
    )


def _is_left(loop: str, topic: str, produced: dict[Log, str]) -> bool:
    """Return whether *topic* is one of feedback of *loop* that its newest version does not have."""
    plain = topics.feedback(loop)
    is_feedback = topic == plain or topic.startswith(f"{plain}.")
    return is_feedback and not topic.endswith(topics.REKEYED) and topic not in produced.values()

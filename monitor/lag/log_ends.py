"""The current start and end offsets of the logs of a loop; reading them takes only DESCRIBE.

The broker is asked what there is: partitions that the loop does not expect are among the answers.
"""

from dataclasses import dataclass, field
from functools import partial

from tidemill.errors import BrokerError
from tidemill.kafka import ANSWER_S, ChildProcess, KafkaConfig, broker_errors
from tidemill.monitor.lag.group_offsets import EARLIEST, LATEST, GroupOffsets
from tidemill.schemas import topics
from tidemill.schemas.logs import Log
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import joined_topics, produced_topics


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
    what = f"the logs of {loop.loop} could not be looked up"
    make = partial(_Lookup, config, timeout_s)
    with ChildProcess(make, what=what, timeout_s=3 * timeout_s) as child:
        return child.call(_Lookup.logs, loop.loop, joined_topics(loop), produced_topics(loop))


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

    def logs(self, loop: str, joined: dict[Log, str], produced: dict[Log, str]) -> BrokerLogs:
        """Return what there is of *loop*; *joined* are the topics of its logs.

        Those of *produced* that are not among them are read by the re-keying.
        """
        client = self._offsets.client
        with broker_errors(self._config, f"the logs of {loop} could not be looked up", client):
            found = client.list_topics(timeout=self._timeout_s).topics
            counts = {
                topic: len(about.partitions)
                for topic, about in found.items()
                if topic in joined.values() or _is_left(loop, topic, produced)
            }
            if absent := sorted(set(joined.values()) - counts.keys()):
                raise BrokerError(
                    f"there is no topic {', '.join(absent)} at {self._config.bootstrap}",
                    hint=f"publish {loop}, or check KAFKA_BOOTSTRAP_SERVERS and the right to "
                    "DESCRIBE these topics",
                )
            places = {(topic, number) for topic in counts for number in range(counts[topic])}
            starts = self._offsets.find(dict.fromkeys(places, EARLIEST))
            ends = self._offsets.find(dict.fromkeys(places, LATEST))
        logs = {topic: log for log, topic in joined.items()}
        unread: dict[str, int] = {}
        for (topic, number), end in ends.items():
            if topic not in logs:
                count = end.offset - starts[topic, number].offset
                unread[topic] = unread.get(topic, 0) + count
        return BrokerLogs(
            starts={(logs[t], n): at.offset for (t, n), at in starts.items() if t in logs},
            ends={(logs[t], n): at.offset for (t, n), at in ends.items() if t in logs},
            unread=unread,
        )


def _is_left(loop: str, topic: str, produced: dict[Log, str]) -> bool:
    """Return whether *topic* is one of feedback of *loop* that its newest version does not have."""
    plain = topics.feedback(loop)
    is_feedback = topic == plain or topic.startswith(f"{plain}.")
    return is_feedback and not topic.endswith(topics.REKEYED) and topic not in produced.values()

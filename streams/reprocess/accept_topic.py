"""Accepts topics that were made anew with the same offsets, say restored from a copy.

The lake then goes on at the offset up to which it has read. It refuses topics that end before that:
their records are not those that the lake has.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tidemill.errors import ContractError
from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import table_of
from tidemill.features.lake.progress_keys import CLUSTER_ID, OFFSET, TOPIC_ID
from tidemill.kafka import KafkaConfig, TopicEnds
from tidemill.schemas.logs import Log
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import joined_topics
from tidemill.streams.consumer.topic_ids import TopicIdentity, read_identities

_ASK_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedTopic:
    """A topic that the lake will go on with: its id, and up to which offset it counts as read."""

    topic: str
    id: str
    read: Mapping[int, int]


def accept_topics(kafka: KafkaConfig, lake: Lake, loop: Loop) -> list[AcceptedTopic]:
    """Record the ids that the topics of *loop* have now; return those that were others before.

    Raises:
        ContractError: a topic is missing, has no id, or ends before what the lake has read.
        BrokerError: no broker answers.
        LakeError: the lake cannot be written.
    """
    topics = joined_topics(loop)
    identities = read_identities(kafka, sorted(topics.values()))
    read = {log: _read(lake, loop, log) for log in topics}
    for log, topic in topics.items():
        _check(kafka, topic, identities.get(topic), read[log])
    return [
        AcceptedTopic(topic=topic, id=str(identity.id), read=read[log])
        for log, topic in topics.items()
        if (identity := identities.get(topic)) is not None and _accept(lake, loop, log, identity)
    ]


def _read(lake: Lake, loop: Loop, log: Log) -> dict[int, int]:
    """Return the offset up to which each partition of *log* was read."""
    name = OFFSET.for_log(log)
    keys = {n: name.key(n) for n in range(loop.partitions)}
    known = lake.table(loop.loop, table_of(log)).progress(keys.values())
    return {n: known[key] or 0 for n, key in keys.items()}


def _accept(lake: Lake, loop: Loop, log: Log, identity: TopicIdentity) -> bool:
    """Record *identity* for all partitions of *log*; return whether another one was recorded."""
    table = lake.table(loop.loop, table_of(log))
    wanted: dict[str, int] = {}
    for name, number in ((TOPIC_ID, identity.number), (CLUSTER_ID, identity.cluster_number)):
        wanted |= {name.for_log(log).key(n): number for n in range(loop.partitions)}
    known = table.progress(wanted)
    swaps = [
        CompareAndSwap(key, known[key], number)
        for key, number in wanted.items()
        if known[key] != number
    ]
    if swaps:
        table.append(None, swaps=swaps)
    return bool(swaps)


def _check(
    kafka: KafkaConfig, topic: str, identity: TopicIdentity | None, read: Mapping[int, int]
) -> None:
    if identity is None:
        raise ContractError(
            f"there is no topic {topic}, or its broker knows no ids",
            hint="a broker before Kafka 2.8 tells no ids: then offsets alone are compared",
        )
    ends = TopicEnds(kafka, topic)
    try:
        found = ends.read(_ASK_S)
    finally:
        ends.close()
    for partition, end in enumerate(found):
        if end < read.get(partition, 0):
            raise ContractError(
                f"{topic}/{partition} ends at {end}, the lake has read up to {read[partition]}: it "
                "was not restored with its offsets",
                hint="read the topics from their first record into a lake of its own: `tidemill "
                "lake replay`",
            )

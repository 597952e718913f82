"""Published loops: a compacted topic that keeps every version of every loop.

Workers, trainers and the monitor start from it. A version never changes. A new version must keep
the events of all earlier ones readable and their columns unchanged (`loop/diff.py`). Label SQL is
checked earlier (`loop/labels.py`), because serving workers import this module without any SQL
engine.
"""

from collections.abc import Callable
from typing import Protocol

from tidemill.errors import ContractError
from tidemill.kafka import (
    BadRecords,
    KafkaConfig,
    Topic,
    ensure_topics,
    partition_count,
    read_values,
    topics_with_producer_time,
    write_all,
)
from tidemill.schemas import topics
from tidemill.schemas.events.schemas import event_schemas
from tidemill.schemas.logs import Log, is_feedback, stream_of, topic_of
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.diff import check_successor
from tidemill.schemas.loop_topic import (
    LoopTopic,
    Published,
    check_unchanged,
    key_of,
    newest,
    parse_loop,
    unpublished,
    versions,
)
from tidemill.schemas.registry.kafka import KafkaSchemaStore
from tidemill.schemas.registry.memory import MemorySchemaStore
from tidemill.schemas.registry.port import SchemaStore

__all__ = [
    "SHARED_TOPICS",
    "KafkaLoops",
    "LoopTopic",
    "Loops",
    "MemoryLoops",
    "Published",
    "check_unchanged",
    "ensure_event_topics",
    "event_topics",
    "fetch_loops",
    "joined_topics",
    "key_of",
    "latest_loop",
    "newest",
    "parse_loop",
    "produced_topics",
    "publish_loop",
    "read_loop_topic",
    "register",
    "unpublished",
    "versions",
]

SHARED_TOPICS = (
    Topic(name=topics.SCHEMAS, compacted=True),
    Topic(name=topics.LOOPS, compacted=True),
    Topic(name=topics.MODELS, compacted=True),
    Topic(name=topics.ACKS, compacted=True),
    Topic(name=topics.CONTROL),
    Topic(name=topics.DEAD_LETTERS),
)


class Loops(Protocol):
    """A store of published loops."""

    def publish(self, loop: Loop) -> bool:
        """Publish *loop*, its topics and its schemas; return, once it is durable, if it was new.

        Raises:
            ContractError: its version is published with another content, or older events would
                become unreadable, or a column of the lake would change its type.
            BrokerError: the store does not answer; publishing again is safe.
        """

    def fetch(self) -> Published:
        """Return every published version of every loop.

        Raises:
            BrokerError: the store does not answer.
        """


class MemoryLoops:
    """Published loops in this process, for tests and notebooks."""

    def __init__(self, store: SchemaStore | None = None) -> None:
        self._loops: Published = {}
        self._store = store or MemorySchemaStore()

    def publish(self, loop: Loop) -> bool:
        """Publish *loop* and return whether it was new; see `Loops`."""
        if not check_successor(versions(self.fetch(), loop.loop), loop):
            return False
        register(loop, self._store)
        self._loops[loop.loop, loop.version] = loop
        return True

    def fetch(self) -> Published:
        """Return every published version of every loop."""
        return dict(self._loops)


class KafkaLoops:
    """Published loops on the compacted topic ``tidemill.loops``, key ``<loop>/<version>``.

    A record that defines no loop is passed over and reported to *bad*. The version that its key had
    before stays as long as the topic has it.
    """

    def __init__(
        self,
        config: KafkaConfig,
        store: SchemaStore | None = None,
        *,
        bad: BadRecords | None = None,
        accept_create_time: bool = False,
    ) -> None:
        self._config = config
        self._store = store
        self._bad = bad or BadRecords()
        self._accept_create_time = accept_create_time

    def publish(self, loop: Loop, prepare: Callable[[Loop], object] = lambda _loop: None) -> bool:
        """Publish *loop*; return, once the brokers acknowledged it, if it was new; see `Loops`.

        *prepare* is called with it once nothing speaks against it, and before anybody can read it;
        its errors are those of this method.
        """
        ensure_topics(self._config, SHARED_TOPICS)
        is_new = check_successor(versions(self.fetch(), loop.loop), loop)
        if is_new and not self._accept_create_time:
            check_record_times(self._config, loop)
        ensure_event_topics(self._config, loop)
        register(loop, self._store or KafkaSchemaStore(self._config, bad=self._bad))
        prepare(loop)
        if is_new:
            write_all(self._config, topics.LOOPS, [(key_of(loop), loop.canonical.encode())])
        return is_new

    def fetch(self) -> Published:
        """Return every published version of every loop, as of now."""
        return read_loop_topic(self._config, self._bad).loops


def publish_loop(
    config: KafkaConfig,
    loop: Loop,
    store: SchemaStore | None = None,
    *,
    prepare: Callable[[Loop], object] = lambda _loop: None,
    accept_create_time: bool = False,
) -> bool:
    """Publish *loop* to the brokers of *config*; see `KafkaLoops.publish`.

    With *accept_create_time* its topics may exist with their producers' times (see
    `check_record_times`).
    """
    loops = KafkaLoops(config, store, accept_create_time=accept_create_time)
    return loops.publish(loop, prepare)


def fetch_loops(config: KafkaConfig, bad: BadRecords | None = None) -> Published:
    """Return every published version of every loop; see `KafkaLoops`."""
    return KafkaLoops(config, bad=bad).fetch()


def latest_loop(config: KafkaConfig, name: str, bad: BadRecords | None = None) -> Loop:
    """Return the newest published version of the loop *name*; see `KafkaLoops`.

    Raises:
        ContractError: no such loop is published.
        BrokerError: the brokers do not answer.
    """
    return newest(fetch_loops(config, bad), name)


def produced_topics(loop: Loop) -> dict[Log, str]:
    """Return, for each log of *loop*, the topic to which its events are produced."""
    return {log: topic_of(loop.loop, log) for log in loop.logs}


def joined_topics(loop: Loop) -> dict[Log, str]:
    """Return, for each log of *loop*, the topic the join reads: with `rekey` an internal one."""
    read = produced_topics(loop)
    if loop.rekey:
        rekeyed = filter(is_feedback, read)
        read |= {log: topics.rekeyed(loop.loop, stream_of(log)) for log in rekeyed}
    return read


def event_topics(loop: Loop) -> list[Topic]:
    """Return the topics that the join of *loop* reads, with their required settings."""
    names = joined_topics(loop).values()
    return [Topic(name=name, partitions=loop.partitions) for name in names]


def ensure_event_topics(config: KafkaConfig, loop: Loop) -> None:
    """Create the missing topics of *loop* and check the existing ones.

    Raises:
        ContractError: the topics have different numbers of partitions, so a decision and its
            feedback could lie in different ones.
        BrokerError: the broker does not answer, or refuses.
    """
    produced = list(produced_topics(loop).values())
    counts = {name: partition_count(config, name) for name in produced}
    known = {name: count for name, count in counts.items() if count is not None}
    if loop.rekey:
        missing = [name for name in produced[1:] if counts[name] is None]
        ensure_topics(config, [Topic(name=name, partitions=loop.partitions) for name in missing])
    elif len(set(known.values())) > 1:
        counted = " and ".join(f"{name} {count}" for name, count in known.items())
        raise ContractError(
            f"{counted} partitions: feedback would miss the partition of its decision",
            hint="give these topics the same number of partitions, or have the feedback re-keyed: "
            "write in the loop rekey: true and partitions: "
            f"{known.get(produced[0], loop.partitions)}",
        )
    ensure_topics(config, event_topics(loop))


def check_record_times(config: KafkaConfig, loop: Loop) -> None:
    """Check that the records of the topics of *loop* that exist have the time of the broker.

    Retention counts from that time, skew and age are judged by it, and lag is told by it. A
    producer can write any time, last year's or that of the year 50000.

    Raises:
        ContractError: the records of a topic have the time that their producer wrote.
        BrokerError: the broker does not answer, or refuses to tell.
    """
    names = dict.fromkeys((*produced_topics(loop).values(), *joined_topics(loop).values()))
    odd = topics_with_producer_time(config, names)
    if odd:
        raise ContractError(
            f"records of {', '.join(odd)} have the time of their producer, not of the broker",
            hint=f"set it: kafka-configs.sh --alter --topic {odd[0]} --add-config "
            "message.timestamp.type=LogAppendTime, or publish with --accept-create-time",
        )


def register(loop: Loop, store: SchemaStore) -> None:
    """Register every event schema of *loop*.

    Raises:
        ContractError: an older event could not be read as the new schema.
    """
    for subject, schema in event_schemas(loop).items():
        store.register(subject, schema)


def read_loop_topic(config: KafkaConfig, bad: BadRecords) -> LoopTopic:
    """Return what the topic of loops has now; its bad records are reported to *bad*.

    Raises:
        BrokerError: the broker does not answer.
    """
    topic = LoopTopic.of(read_values(config, topics.LOOPS, parse_loop, check_unchanged))
    bad.report(topics.LOOPS, topic.bad)
    return topic

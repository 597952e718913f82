"""Published loops: a compacted topic that keeps every version of every loop.

Workers, trainers and the monitor start from it. A version never changes; a new one must leave the
events of all before it readable and their columns as they are (`diff.py`). Label SQL is checked
before (`labels.py`), because this module is read by inference workers, which carry no SQL engine.
"""

import json
from collections.abc import Mapping
from typing import Protocol

from pydantic import ValidationError

from tidemill.errors import ContractError, LoopError
from tidemill.kafka import (
    KafkaConfig,
    Topic,
    ensure_topics,
    partition_count,
    read_compacted,
    write_all,
)
from tidemill.schemas import topics
from tidemill.schemas.events.schemas import event_schemas
from tidemill.schemas.logs import Log, is_feedback, stream_of, topic_of
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.diff import check_successor
from tidemill.schemas.registry.choose import MemorySchemaStore, SchemaStore
from tidemill.schemas.registry.kafka import KafkaSchemaStore

Published = dict[tuple[str, int], Loop]

SHARED_TOPICS = (
    Topic(name=topics.SCHEMAS, compacted=True),
    Topic(name=topics.LOOPS, compacted=True),
    Topic(name=topics.MODELS, compacted=True),
    Topic(name=topics.ACKS, compacted=True),
    Topic(name=topics.CONTROL),
    Topic(name=topics.DEAD_LETTERS),
)


class Loops(Protocol):
    """Where published loops are kept."""

    def publish(self, loop: Loop) -> bool:
        """Return once *loop* is safe: whether it was new. Its topics and schemas are there too.

        Raises:
            ContractError: its version stands and says something else, or older events would become
                unreadable, or a column of the lake would change its type.
            BrokerError: the loops are away; publish again, it changes nothing twice.
        """

    def fetch(self) -> Published:
        """Return every published version of every loop.

        Raises:
            BrokerError: the loops are away.
        """


class MemoryLoops:
    """Keeps loops in this process; for tests and notebooks."""

    def __init__(self, store: SchemaStore | None = None) -> None:
        self._texts: dict[bytes, bytes] = {}
        self._store = store or MemorySchemaStore()

    def publish(self, loop: Loop) -> bool:
        """Return whether *loop* was new; see `Loops`."""
        if not check_successor(versions(self.fetch(), loop.loop), loop):
            return False
        register(loop, self._store)
        self._texts[key_of(loop)] = loop.canonical.encode()
        return True

    def fetch(self) -> Published:
        """Return every published version of every loop."""
        return parse_all(self._texts)


class KafkaLoops:
    """Keeps loops on the compacted topic ``tidemill.loops``, key ``<loop>/<version>``."""

    def __init__(self, config: KafkaConfig, store: SchemaStore | None = None) -> None:
        self._config = config
        self._store = store

    def publish(self, loop: Loop) -> bool:
        """Return, once the brokers have acknowledged *loop*, whether it was new; see `Loops`."""
        ensure_topics(self._config, SHARED_TOPICS)
        is_new = check_successor(versions(self.fetch(), loop.loop), loop)
        ensure_event_topics(self._config, loop)
        register(loop, self._store or KafkaSchemaStore(self._config))
        if is_new:
            write_all(self._config, topics.LOOPS, [(key_of(loop), loop.canonical.encode())])
        return is_new

    def fetch(self) -> Published:
        """Return every published version of every loop, as of now."""
        return parse_all(read_compacted(self._config, topics.LOOPS))


def publish_loop(config: KafkaConfig, loop: Loop, store: SchemaStore | None = None) -> bool:
    """Publish *loop* to the brokers of *config*; see `Loops.publish`."""
    return KafkaLoops(config, store).publish(loop)


def fetch_loops(config: KafkaConfig) -> Published:
    """Return every published version of every loop; see `Loops.fetch`."""
    return KafkaLoops(config).fetch()


def latest_loop(config: KafkaConfig, name: str) -> Loop:
    """Return the newest published version of the loop *name*.

    Raises:
        ContractError: no such loop is published.
        BrokerError: the brokers do not answer.
    """
    return newest(fetch_loops(config), name)


def newest(published: Published, name: str) -> Loop:
    """Return the newest version of the loop *name*; ContractError if there is none."""
    known = versions(published, name)
    if not known:
        names = ", ".join(sorted({loop for loop, _ in published})) or "none"
        raise ContractError(
            f"no loop {name!r} is published",
            hint=f"publish it: tidemill publish LOOP.yaml; published are: {names}",
        )
    return known[max(known)]


def versions(published: Published, name: str) -> Mapping[int, Loop]:
    """Return the versions of the loop *name* by their number."""
    return {version: loop for (known, version), loop in published.items() if known == name}


def produced_topics(loop: Loop) -> dict[Log, str]:
    """Return the topic that the events of each log of *loop* are produced to."""
    return {log: topic_of(loop.loop, log) for log in loop.logs}


def joined_topics(loop: Loop) -> dict[Log, str]:
    """Return the topic that the join of *loop* reads each log from: with `rekey` other ones."""
    read = produced_topics(loop)
    if loop.rekey:
        again = filter(is_feedback, read)
        read |= {log: topics.rekeyed(loop.loop, stream_of(log)) for log in again}
    return read


def event_topics(loop: Loop) -> list[Topic]:
    """Return the topics that the join of *loop* reads, as they have to be."""
    names = joined_topics(loop).values()
    return [Topic(name=name, partitions=loop.partitions) for name in names]


def ensure_event_topics(config: KafkaConfig, loop: Loop) -> None:
    """Create those topics of *loop* that are missing; check those that are there.

    Raises:
        ContractError: decisions and feedback could lie in partitions of different numbers.
        BrokerError: the broker does not answer, or refuses.
    """
    produced = list(produced_topics(loop).values())
    counts = {name: partition_count(config, name) for name in produced}
    known = {name: count for name, count in counts.items() if count is not None}
    if loop.rekey:
        missing = [name for name in produced[1:] if counts[name] is None]
        ensure_topics(config, [Topic(name=name, partitions=loop.partitions) for name in missing])
    elif len(set(known.values())) > 1:
        told = " and ".join(f"{name} {count}" for name, count in known.items())
        raise ContractError(
            f"{told} partitions: feedback would not be where its decision is",
            hint="make all of these topics with as many, or write rekey: true and partitions: "
            f"{known.get(produced[0], loop.partitions)} in the loop, to have the feedback re-keyed",
        )
    ensure_topics(config, event_topics(loop))


def register(loop: Loop, store: SchemaStore) -> None:
    """Register every event schema of *loop*; ContractError if older events forbid one."""
    for subject, schema in event_schemas(loop).items():
        store.register(subject, schema)


def key_of(loop: Loop) -> bytes:
    """Return the key of *loop* on the topic, say ``b"flight-delay/1"``."""
    return f"{loop.loop}/{loop.version}".encode()


def parse_all(texts: Mapping[bytes, bytes]) -> Published:
    """Return the loops of the topic's records; LoopError names a record that defines none."""
    found: Published = {}
    for key, text in texts.items():
        try:
            loop = Loop.model_validate(json.loads(text))
        except (ValidationError, ValueError) as error:
            raise LoopError(
                f"topic {topics.LOOPS} has no legal loop under {key.decode(errors='replace')!r}",
                hint="was it written by a newer tidemill? upgrade this one, or publish it again",
            ) from error
        found[loop.loop, loop.version] = loop
    return found

"""Published loops: a compacted topic that keeps every version of every loop.

Workers, trainers and the monitor start from it. A version never changes. A new version must keep
the events of all earlier ones readable and their columns unchanged (`loop/diff.py`). Label SQL is
checked earlier (`loop/labels.py`), because serving workers import this module without any SQL
engine.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from tidemill.kafka import (
    BadRecords,
    KafkaConfig,
    Topic,
    ensure_topics,
    read_values,
    write_all,
)
from tidemill.schemas import topics
from tidemill.schemas.event_topics import (
    about,
    check_record_times,
    ensure_event_topics,
    event_topics,
    joined_topics,
    produced_topics,
)
from tidemill.schemas.events.schemas import event_schemas
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.diff import check_successor
from tidemill.schemas.loop_topic import (
    LoopTopic,
    Published,
    check_unchanged,
    key_of,
    newest,
    parse_loop,
    retired_error,
    retired_version,
    unpublished,
    used_loops,
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
    "retired_error",
    "retired_version",
    "unpublished",
    "used_loops",
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
        return self.publish_all([loop], prepare)[0]

    def publish_all(
        self,
        loops: Sequence[Loop],
        prepare: Callable[[Loop], object] = lambda _loop: None,
        *,
        named: Callable[[Loop], str] = lambda _loop: "",
    ) -> list[bool]:
        """Publish *loops*; return of each if it was new. What speaks against one is told first.

        Their topics are created together, their schemas and definitions written together.

        Args:
            loops: what is published, the older version of a loop first.
            prepare: as of `publish`.
            named: what an error that concerns one of them begins with, say its file.

        Raises:
            ContractError, BrokerError: as `publish`; no definition was published.
        """
        ensure_topics(self._config, SHARED_TOPICS)
        are_new = _are_new(self.fetch(), loops, named)
        if not self._accept_create_time:
            new = [loop for loop, is_new in zip(loops, are_new, strict=True) if is_new]
            check_record_times(self._config, new)
        ensure_event_topics(self._config, loops, named)
        store = self._store or KafkaSchemaStore(self._config, bad=self._bad)
        store.register_all([each for loop in loops for each in event_schemas(loop).items()])
        items = []
        for loop, is_new in zip(loops, are_new, strict=True):
            with about(named(loop)):
                prepare(loop)
            items += [(key_of(loop), loop.canonical.encode())] if is_new else []
        if items:
            write_all(self._config, topics.LOOPS, items)
        return are_new

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


def _are_new(
    published: Published, loops: Sequence[Loop], named: Callable[[Loop], str]
) -> list[bool]:
    """Return of each of *loops* whether it has to be published, the ones before it included."""
    known, are_new = dict(published), []
    for loop in loops:
        with about(named(loop)):
            are_new.append(check_successor(versions(known, loop.loop), loop))
        known[loop.loop, loop.version] = loop
    return are_new


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

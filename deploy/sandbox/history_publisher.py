"""Brings a history into a loop on Kafka: its definition, then its events, oldest first."""

from collections.abc import Callable, Mapping, Sequence

from tidemill.deploy.sandbox.history import PastEvent
from tidemill.deploy.sandbox.sandbox import EventWriter
from tidemill.errors import BrokerError, ContractError
from tidemill.kafka import KafkaConfig, Writer
from tidemill.kafka.ends import TopicEnds
from tidemill.schemas.logs import Log
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import produced_topics, publish_loop
from tidemill.schemas.registry.choose import schema_store

_ANSWER_S = 10.0
_QUEUE = 50_000  # events that wait for the broker; then the next ones wait for these
_FLUSH_S = 30.0


def publish_history(
    config: KafkaConfig,
    loop: Loop,
    events: Sequence[PastEvent],
    env: Mapping[str, str],
    on_progress: Callable[[int, int], object] = lambda _done, _of: None,
) -> None:
    """Publish *loop*, and write *events* to its topics.

    Args:
        config: the brokers.
        loop: the definition.
        events: in the order of their times.
        env: SCHEMA_REGISTRY_URL, if there is a schema registry.
        on_progress: called with the events written, and with all of them.

    Raises:
        ContractError: the topics have events already: those of the history would come late.
        BrokerError: the brokers do not answer, or have not taken all events.
    """
    store, topics = schema_store(config, env), produced_topics(loop)
    publish_loop(config, loop, store)
    _check_empty(config, loop, topics)
    encode = EventWriter(loop, store).payload
    writer = Writer(config, queue_messages=_QUEUE)
    try:
        for number, event in enumerate(events, start=1):
            writer.write(topics[event.log], event.key.encode(), encode(event))
            if number % (_QUEUE // 2) == 0 or number == len(events):
                _delivered(writer, config, number)
                on_progress(number, len(events))
    finally:
        writer.close()


def _delivered(writer: Writer, config: KafkaConfig, written: int) -> None:
    """Wait until the brokers have all that was *written*."""
    waiting = writer.flush(_FLUSH_S)
    if waiting or writer.failed or writer.dropped:
        missing = waiting + writer.failed + writer.dropped
        raise BrokerError(
            f"{missing:,} of {written:,} events are not at {config.bootstrap}",
            hint="delete the topics of the loop, then publish the history again",
        )


def _check_empty(config: KafkaConfig, loop: Loop, topics: Mapping[Log, str]) -> None:
    for topic in topics.values():
        ends = TopicEnds(config, topic)
        try:
            records = sum(ends.read(_ANSWER_S))
        finally:
            ends.close()
        if records:
            raise ContractError(
                f"{topic} has {records:,} records already, and older events would come late",
                hint=f"publish the history under another name than {loop.loop}, or before the "
                "service asks for its first decision",
            )

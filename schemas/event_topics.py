"""The topics of the events of loops: their names, and how they have to be."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from tidemill.errors import ContractError
from tidemill.kafka import (
    KafkaConfig,
    Topic,
    check_partitions,
    ensure_topics,
    partition_counts,
    topics_with_producer_time,
)
from tidemill.schemas import topics
from tidemill.schemas.logs import Log, is_feedback, stream_of, topic_of
from tidemill.schemas.loop.definition import Loop


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


def ensure_event_topics(
    config: KafkaConfig, loops: Sequence[Loop], named: Callable[[Loop], str] = lambda _loop: ""
) -> None:
    """Create the missing topics of *loops* and check the existing ones.

    Raises:
        ContractError: the topics of a loop have different numbers of partitions, so a decision and
            its feedback could lie in different ones.
        BrokerError: the broker does not answer, or refuses.
    """
    wanted = {name for loop in loops for name in produced_topics(loop).values()}
    counts = partition_counts(config, wanted)
    missing: list[Topic] = []
    for loop in loops:
        with about(named(loop)):
            missing += _missing_topics(loop, counts)
    ensure_topics(config, missing)


def _missing_topics(loop: Loop, counts: Mapping[str, int | None]) -> list[Topic]:
    """Return the topics that *loop* needs; *counts* has the partitions of those that exist."""
    produced = list(produced_topics(loop).values())
    known = {name: count for name in produced if (count := counts[name]) is not None}
    if loop.rekey:
        fed = [name for name in produced[1:] if name not in known]
        return [Topic(name=name, partitions=loop.partitions) for name in fed] + event_topics(loop)
    if len(set(known.values())) > 1:
        counted = " and ".join(f"{name} {count}" for name, count in known.items())
        raise ContractError(
            f"{counted} partitions: feedback would miss the partition of its decision",
            hint="give these topics the same number of partitions, or have the feedback re-keyed: "
            "write in the loop rekey: true and partitions: "
            f"{known.get(produced[0], loop.partitions)}",
        )
    for name, count in known.items():
        check_partitions(Topic(name=name, partitions=loop.partitions), count)
    return event_topics(loop)


def check_record_times(config: KafkaConfig, loops: Sequence[Loop]) -> None:
    """Check that the records of the topics of *loops* that exist have the time of the broker.

    Retention counts from that time, skew and age are judged by it, and lag is told by it. A
    producer can write any time, last year's or that of the year 50000.

    Raises:
        ContractError: the records of a topic have the time that their producer wrote.
        BrokerError: the broker does not answer, or refuses to tell.
    """
    by_loop = ((*produced_topics(loop).values(), *joined_topics(loop).values()) for loop in loops)
    odd = topics_with_producer_time(
        config, dict.fromkeys(name for each in by_loop for name in each)
    )
    if odd:
        raise ContractError(
            f"records of {', '.join(odd)} have the time of their producer, not of the broker",
            hint=f"set it: kafka-configs.sh --alter --topic {odd[0]} --add-config "
            "message.timestamp.type=LogAppendTime, or publish with --accept-create-time",
        )


@contextmanager
def about(name: str) -> Iterator[None]:
    """Have a `ContractError` begin with *name*, if there is one."""
    try:
        yield
    except ContractError as error:
        if not name:
            raise
        raise ContractError(f"{name}: {error.what}", hint=error.hint) from error

"""Feedback of two source partitions on a real broker: what was appended first is not overtaken."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not in its list of names
    AdminClient,
    NewPartitions,
)
from tests.streams.rekey.test_rekeyer import rekeyed, sources
from tests.streams.rig import START, Rig, new_loop, until
from tests.streams.runtime.test_worker import SECOND

from tidemill.features.audit.audit import audit
from tidemill.features.audit.rekeyed import read_source_orders, with_source_orders
from tidemill.kafka import (
    KafkaConfig,
    Topic,
    TransactionalWriter,
    ensure_topics,
    partition_count,
)
from tidemill.schemas import topics
from tidemill.schemas.published import publish_loop
from tidemill.schemas.registry.choose import KafkaSchemaStore
from tidemill.streams.rekey.rekeyer import Rekeyer
from tidemill.streams.rekey.source_end import SourceEnd

pytestmark = pytest.mark.kafka

LATER = 1  # the partition of the later feedback


class DelayedRekeyer(Rekeyer):
    """Gets the later feedback first, as if the answer with the earlier one were under way."""

    has_sent = False

    async def _take(self, consumer: Any) -> bool:  # noqa: ANN401 (aiokafka is not typed)
        """Read partition 1 alone once something was sent, until it came."""
        others = [tp for tp in consumer.assignment() if tp.partition != LATER]
        if self.has_sent:
            consumer.pause(*others)
            while not self._ordering.waiting(LATER):
                await super()._take(consumer)
            consumer.resume(*others)
            self.has_sent = False
            return True
        return await super()._take(consumer)


class HastyRekeyer(DelayedRekeyer):
    """Takes the ends of partitions from the answers before the feedback: the negative control."""

    async def _take(self, consumer: Any) -> bool:  # noqa: ANN401 (aiokafka is not typed)
        """Remember the ends, unless something was sent meanwhile."""
        if not self.has_sent:
            tps = consumer.assignment()
            self.ends = {tp: consumer.last_stable_offset(tp) or 0 for tp in tps}
        return await super()._take(consumer)

    async def _ask_ends(
        self,
        consumer: Any,  # noqa: ANN401 (aiokafka is not typed)
        everything: Any,  # noqa: ANN401
        writer: TransactionalWriter,
    ) -> None:
        """Ask nobody."""
        read = [tp.partition for tp, end in self.ends.items() if await consumer.position(tp) >= end]
        self._ordering.note_ended(read, self._ordering.moment)


@dataclass
class Run:
    """Runs re-keyers of one kind, sends feedback between two rounds, and ends when all is done."""

    rig: Rig
    kind: type[DelayedRekeyer]
    send: Callable[[], None]
    rounds: int = 0
    made: list[DelayedRekeyer] = field(default_factory=list)

    async def work(self) -> None:
        """Re-key until nothing waits; a grown topic needs a new re-keyer."""
        end = SourceEnd(self.rig.kafka, self.rig.loop)

        def is_wanted() -> bool:
            self.rounds += 1
            if self.rounds == 4:  # by then the broker has told the ends of the empty partitions
                self.send()
                self.made[-1].has_sent = True
            return self.rounds < 5 or not end.is_reached()

        while self.rounds < 5 or not end.is_reached():
            store = KafkaSchemaStore(self.rig.kafka)
            self.made.append(self.kind(self.rig.kafka, self.rig.loop, store, lambda: 1))
            await self.made[-1].work(is_wanted)
        end.close()


def narrow_rig(kafka: KafkaConfig, folder: Path) -> Rig:
    """Return a loop of one partition whose feedback lies in two."""
    loop = new_loop(rekey=True, idle_after="1h", partitions=1)
    ensure_topics(kafka, [Topic(name=topics.feedback(loop.loop), partitions=2)])
    publish_loop(kafka, loop)
    return Rig(kafka, loop, folder)


def grown(rig: Rig, count: int) -> None:
    """Give the source *count* partitions."""
    source = topics.feedback(rig.loop.loop)
    admin = AdminClient({"bootstrap.servers": rig.kafka.bootstrap})
    for done in admin.create_partitions([NewPartitions(source, count)]).values():
        done.result()
    until(lambda: partition_count(rig.kafka, source) == count, "the partitions are there")


@pytest.mark.parametrize(
    ("kind", "state", "found"),
    [
        (DelayedRekeyer, "labeled", 0),
        pytest.param(HastyRekeyer, "no_feedback", 1, marks=pytest.mark.soak),
    ],
)
def test_one_flush_into_two_partitions_is_rekeyed_as_it_was_appended(
    kafka: KafkaConfig, tmp_path: Path, kind: type[DelayedRekeyer], state: str, found: int
) -> None:
    """Feedback of second 1 and of second 101: written the wrong way round, the first one is late.

    The second case is the negative control, for the audit too: it follows each record to its log.
    """
    rig = narrow_rig(kafka, tmp_path)
    producer, source = rig.producer(), topics.feedback(rig.loop.loop)
    for key, at in (("d1", START), ("d2", START + 100 * SECOND)):
        producer.decide(key, at)
    producer.flush()

    def send() -> None:
        producer.send(source, "user-1", producer.click("d1", START + SECOND), 0)
        producer.flush()
        producer.send(source, "user-2", producer.click("d2", START + 101 * SECOND), LATER)
        producer.flush()

    asyncio.run(Run(rig, kind, send).work())
    with rig.worker():
        until(rig.is_read, "it is read")
        rig.close(START + 200 * SECOND)
        until(rig.is_done, "everything is closed")
    assert rig.examples()["state"].to_list() == [state, "labeled"]
    report = audit(rig.lake, rig.loop.loop)
    assert report.agrees, "the internal topic was read as it is"
    report = with_source_orders(report, rig.lake, read_source_orders(kafka, rig.loop))
    assert report.differences == len(report.first) == found
    for difference in report.first:
        assert difference.id == "f-d1"
        assert "source_order is late" in str(difference)


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        (DelayedRekeyer, ["2/0", "1/0"]),
        pytest.param(HastyRekeyer, ["1/0", "2/0"], marks=pytest.mark.soak),
    ],
)
def test_a_new_partition_of_the_source_is_read_before_another_overtakes_it(
    kafka: KafkaConfig, tmp_path: Path, kind: type[DelayedRekeyer], order: list[str]
) -> None:
    """Kafka's clients hear of new partitions after half a minute; the records do not wait for it.

    The second case is the negative control.
    """
    rig = narrow_rig(kafka, tmp_path)
    source = topics.feedback(rig.loop.loop)

    def send() -> None:
        grown(rig, 3)
        producer = rig.producer()
        producer.send(source, "user-1", producer.click("d1", START + SECOND), 2)
        producer.flush()
        producer.send(source, "user-2", producer.click("d2", START + 101 * SECOND), LATER)
        producer.flush()

    asyncio.run(Run(rig, kind, send).work())
    assert sources(rekeyed(rig)) == [f"{source}/{position}" for position in order]


def test_an_open_transaction_in_the_source_is_waited_for(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """Its records were appended before; nobody may read them yet, so nothing may overtake them."""
    rig = narrow_rig(kafka, tmp_path)
    producer, source = rig.producer(), topics.feedback(rig.loop.loop)
    writer = TransactionalWriter(kafka, rig.loop.loop)
    transaction = writer.transaction()
    waited: list[int] = []

    def send() -> None:
        transaction.__enter__()
        writer.write(source, b"user-1", producer.click("d1", START + SECOND), partition=0)
        writer._producer.flush()
        producer.send(source, "user-2", producer.click("d2", START + 101 * SECOND), LATER)
        producer.flush()

    class WaitingRekeyer(DelayedRekeyer):
        """Has the transaction end once it has waited for it."""

        async def _forward(self, consumer: Any, writer: TransactionalWriter) -> None:  # noqa: ANN401
            """Let the transaction end after it was waited for."""
            await super()._forward(consumer, writer)
            waited.extend([self._ordering.waiting(LATER)] if self._ordering.waiting(LATER) else [])
            if len(waited) == 5:
                transaction.__exit__(None, None, None)

    asyncio.run(Run(rig, WaitingRekeyer, send).work())
    writer.close()
    assert sources(rekeyed(rig)) == [f"{source}/0/0", f"{source}/1/0"]

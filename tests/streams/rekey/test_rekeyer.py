"""Feedback of other keys or partition counts, on a real broker: refused, or re-keyed once."""

import asyncio
import random
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not in its list of names
    AdminClient,
    NewPartitions,
)
from tests.streams.faults import committed
from tests.streams.rig import (
    START,
    PlainProducer,
    Rig,
    assert_exact,
    end,
    new_loop,
    new_rig,
    send_traffic,
    until,
)
from tests.streams.runtime.test_worker import SECOND, is_past

from tidemill.errors import ContractError
from tidemill.kafka import KafkaConfig, Topic, TransactionalWriter, ensure_topics
from tidemill.schemas import topics
from tidemill.schemas.logs import log_of
from tidemill.schemas.published import fetch_loops, publish_loop
from tidemill.schemas.registry.choose import KafkaSchemaStore
from tidemill.streams.deadletters.reader import DeadLetterReader, Wanted
from tidemill.streams.deadletters.redrive import Judge, RedriveCounts, redrive
from tidemill.streams.rekey.rekeyer import Rekeyer
from tidemill.streams.rekey.source_end import SourceEnd
from tidemill.streams.runtime.worker import EXIT_REFUSED

pytestmark = pytest.mark.kafka


class ForeignProducer(PlainProducer):
    """Another team's: its feedback is keyed by user, because that is what they know it by."""

    draw = random.Random(5)

    def feedback_key(self, decision_id: str) -> str:
        """Return some user."""
        return f"user-{self.draw.randrange(1000)}"


def foreign_rig(kafka: KafkaConfig, folder: Path, partitions: int, **changes: object) -> Rig:
    """Return a loop of four partitions whose feedback lies in *partitions* by user."""
    loop = new_loop(**{"rekey": True, "idle_after": "1h"} | changes)
    ensure_topics(kafka, [Topic(name=topics.feedback(loop.loop), partitions=partitions)])
    publish_loop(kafka, loop)
    return Rig(kafka, loop, folder)


def rekeyed(rig: Rig, *, committed: bool = True, stream: str | None = None) -> list[Message]:
    """Return what is on the internal topic; unless *committed*, what was aborted too."""
    consumer = Consumer(
        {
            "bootstrap.servers": rig.kafka.bootstrap,
            "group.id": "unused",
            "enable.partition.eof": True,
            "isolation.level": "read_committed" if committed else "read_uncommitted",
        }
    )
    topic = topics.rekeyed(rig.loop.loop, stream)
    consumer.assign([TopicPartition(topic, number, 0) for number in range(rig.loop.partitions)])
    found: list[Message] = []
    ended = 0
    while ended < rig.loop.partitions:
        message = consumer.poll(10)
        assert message is not None
        if message.error() is not None:
            ended += 1
        else:
            found.append(message)
    consumer.close()
    return found


def sources(messages: list[Message]) -> list[str]:
    """Return where each record came from."""
    headers = [dict(message.headers() or []) for message in messages]
    return [str(each["source"], "utf-8") for each in headers]  # type: ignore[arg-type]


def produced(rig: Rig, partitions: int, stream: str | None = None) -> list[str]:
    """Return the places of all records of the source."""
    topic = topics.feedback(rig.loop.loop, stream)
    consumer = Consumer({"bootstrap.servers": rig.kafka.bootstrap, "group.id": "unused"})
    found = []
    for number in range(partitions):
        high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=120)[1]
        found += [f"{topic}/{number}/{offset}" for offset in range(high)]
    consumer.close()
    return found


def test_different_partition_counts_are_refused_with_what_to_do(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """Conformance 18. A decision and its feedback in partitions of other numbers never meet."""
    loop = new_loop()
    for topic, partitions in ((topics.decisions, 4), (topics.feedback, 6)):
        ensure_topics(kafka, [Topic(name=topic(loop.loop), partitions=partitions)])
    with pytest.raises(ContractError) as caught:
        publish_loop(kafka, loop)
    assert f"{loop.loop}.decisions 4 and {loop.loop}.feedback 6" in caught.value.what
    assert "rekey: true" in caught.value.hint
    rig = new_rig(kafka, tmp_path)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    grown = [NewPartitions(topics.feedback(rig.loop.loop), 6)]
    for done in admin.create_partitions(grown).values():
        done.result()
    assert rig.ended() == EXIT_REFUSED
    said = rig.log().rsplit("the worker ends: ", 1)[1]
    assert f"{rig.loop.loop}.feedback has 6" in said
    assert "rekey: true" in said


def test_feedback_of_other_keys_is_refused_with_what_to_do(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """Conformance 18. As many partitions, but keyed by user: next to nothing would join."""
    rig = new_rig(kafka, tmp_path, idle_after="1h", partitions=2)
    producer = ForeignProducer(kafka, rig.loop)
    for number in range(1_000):
        producer.decide(f"d{number}", START + number * SECOND / 100)
        producer.feed(f"d{number}", START + number * SECOND / 100)
    producer.flush()
    assert rig.ended() == EXIT_REFUSED
    said = rig.log().rsplit("the worker ends: ", 1)[1]
    assert "is keyed by something else than decisions" in said
    assert "rekey: true" in said


def test_feedback_of_other_keys_and_partitions_is_rekeyed_exactly_once(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """Conformance 18. Workers are killed in the middle of it: each feedback is in the lake once."""
    rig = foreign_rig(kafka, tmp_path, 6)
    producer = ForeignProducer(kafka, rig.loop)
    last = START
    worker = rig.start()
    try:
        for number in range(3):
            before = committed(rig)
            chunk = range(number * 4_000, (number + 1) * 4_000)
            last = max(last, send_traffic(producer, chunk, seed=number))
            until(partial(is_past, rig, before), "a commit")
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            worker = rig.start()
        wanted = sorted(produced(rig, 6))
        until(lambda: len(rekeyed(rig)) >= len(wanted), "all of it is re-keyed")
        rig.close(last)
        until(rig.is_done, "everything is closed")
    finally:
        assert end(worker) == 0
    found = rekeyed(rig)
    assert sorted(sources(found)) == wanted
    assert rig.rows("feedback") == len(wanted)
    assert_exact(rig)
    states = dict(rig.examples()["state"].value_counts().iter_rows())
    assert states["labeled"] > 12_000 * 0.2, "they did meet"


@pytest.mark.soak
def test_a_frozen_worker_that_wakes_doubles_nothing(kafka: KafkaConfig, tmp_path: Path) -> None:
    """It believes that it owns partition 0, but another process has its transactional id."""
    rig = foreign_rig(kafka, tmp_path, 3)
    producer = ForeignProducer(kafka, rig.loop)
    with rig.worker() as frozen:
        send_traffic(producer, range(1_000), seed=1)
        until(lambda: rekeyed(rig), "it re-keys")
        frozen.send_signal(signal.SIGSTOP)
        last = send_traffic(producer, range(1_000, 3_000), seed=2)
        wanted = sorted(produced(rig, 3))
        with rig.worker():
            until(lambda: len(rekeyed(rig)) >= len(wanted), "the other one goes on")
            frozen.send_signal(signal.SIGCONT)
            last = max(last, send_traffic(producer, range(3_000, 4_000), seed=3))
            wanted = sorted(produced(rig, 3))
            until(lambda: len(rekeyed(rig)) >= len(wanted), "all of it")
            rig.close(last)
            until(rig.is_done, "everything is closed")
    assert sorted(sources(rekeyed(rig))) == wanted
    assert_exact(rig)


def test_a_record_without_a_decision_is_a_dead_letter_and_is_sent_to_its_source_again(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """The ledger counts it with all others, and a replay has it keyed by its decision."""
    rig = foreign_rig(kafka, tmp_path, 3)
    producer = ForeignProducer(kafka, rig.loop)
    source = topics.feedback(rig.loop.loop)
    producer.decide("d", START)
    producer.send(source, "user-1", b"no feedback at all", 2)
    producer.feed("d", START + SECOND)
    producer.flush()
    with rig.worker():
        rig.close(START + SECOND)
        until(rig.is_done, "everything is closed")
    (letter,) = rig.dead_letters()
    assert letter.fields["topic"] == topics.rekeyed(rig.loop.loop)
    assert (letter.fields["key"], letter.value) == ("user-1", b"no feedback at all")
    assert sum(account.ends["dead_letter"] for account in rig.accounts()) == 1
    assert rig.examples()["state"].to_list() == ["labeled"]
    assert_exact(rig)
    before = len(produced(rig, 3))
    judge = Judge(fetch_loops(kafka), KafkaSchemaStore(kafka))
    redrive(DeadLetterReader(kafka), Wanted(loop=rig.loop.loop), judge, RedriveCounts(), every=True)
    assert len(produced(rig, 3)) > before


@pytest.mark.soak
def test_each_stream_of_feedback_is_rekeyed_by_itself(kafka: KafkaConfig, tmp_path: Path) -> None:
    """Clicks are keyed by session and orders by customer, in as many partitions as each team likes.

    Three streams in one join, none of them made for it. What is unreadable goes back to its own.
    """
    within: dict[str, object] = {"within": "60s", "values": {"amount": "float"}}
    kinds = {"click": within, "buy": within | {"stream": "orders"}}
    loop = new_loop(rekey=True, idle_after="1h", feedback=kinds)
    orders = topics.feedback(loop.loop, "orders")
    ensure_topics(kafka, [Topic(name=topics.feedback(loop.loop), partitions=3)])
    ensure_topics(kafka, [Topic(name=orders, partitions=6)])
    publish_loop(kafka, loop)
    rig = Rig(kafka, loop, tmp_path)
    producer = ForeignProducer(kafka, loop)
    last = send_traffic(producer, range(1_000), seed=8)
    producer.send(orders, "user-1", b"no feedback at all", 5)
    producer.flush()
    wanted = sorted([*produced(rig, 3), *produced(rig, 6, "orders")])
    with rig.worker():
        rig.close(last)
        until(rig.is_done, "everything is closed")
    found = [*rekeyed(rig), *rekeyed(rig, stream="orders")]
    assert sorted(sources(found)) == wanted
    assert rig.rows("feedback") == len(wanted) - 1
    assert_exact(rig)
    positions = rig.examples()["feedback_offsets"].explode().drop_nulls()
    assert {log_of(position, loop.logs) for position in positions} == {
        "feedback",
        "feedback.orders",
    }
    (letter,) = rig.dead_letters()
    assert letter.fields["topic"] == topics.rekeyed(loop.loop, "orders")
    judge = Judge(fetch_loops(kafka), KafkaSchemaStore(kafka))
    redrive(DeadLetterReader(kafka), Wanted(loop=loop.loop), judge, RedriveCounts(), every=True)
    grown = sorted([*produced(rig, 3), *produced(rig, 6, "orders")])
    assert {position.split("/")[0] for position in set(grown) - set(wanted)} == {orders}


@pytest.mark.soak
def test_feedback_that_waits_to_be_rekeyed_keeps_windows_open(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """Conformance 5 and 18. The internal topic is at its end, but more is to come: no log is idle.

    How long is long enough says another loop, whose windows have closed by the clock meanwhile.
    """
    quick: dict[str, object] = {
        "feedback": {"click": {"within": "2s", "values": {"amount": "float"}}},
        "grace": "1s",
    }
    (tmp_path / "other").mkdir()
    rig = foreign_rig(kafka, tmp_path, 3, **quick | {"idle_after": "1s"})
    other = new_rig(kafka, tmp_path / "other", **quick, idle_after="1s")
    producers = [each.producer() for each in (rig, other)]
    for producer in producers:
        producer.decide("d", START)
        producer.flush()
    open_transaction = TransactionalWriter(kafka, rig.loop.loop)
    with rig.worker(), open_transaction.transaction():
        click = producers[0].click("d", START + SECOND)
        open_transaction.write(topics.feedback(rig.loop.loop), b"user-1", click)
        open_transaction._producer.flush()  # it is there, but nobody may read it yet
        until(lambda: rig.rows("decisions") == 1, "the decision is read")
        with other.worker():
            until(other.is_done, "a window closes by the clock")
    assert rig.rows("examples") == 0
    open_transaction.close()
    with rig.worker():
        until(rig.is_done, "and now this one")
    assert rig.examples()["state"].to_list() == ["labeled"]


class KilledError(Exception):
    """The process ends here."""


class DyingWriter(TransactionalWriter):
    """Is killed once, between the records of a transaction and their offsets."""

    alive = True

    def move(self, group: str, offsets: Mapping[tuple[str, int], int]) -> None:
        """Crash before any offset is written."""
        if DyingWriter.alive:
            self._producer.flush()
            DyingWriter.alive = False
            raise KilledError
        super().move(group, offsets)


class CarelessWriter(DyingWriter):
    """The same without transactions: sent records stay."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write the records at once, whatever happens later."""
        self._producer.begin_transaction()
        try:
            yield
        finally:
            self._producer.commit_transaction()


@pytest.mark.parametrize(("writer", "times"), [(DyingWriter, 1), (CarelessWriter, 2)])
def test_a_crash_between_records_and_offsets_doubles_nothing_unless_transactions_are_off(
    kafka: KafkaConfig, tmp_path: Path, writer: type[DyingWriter], times: int
) -> None:
    """The second case is the negative control: without transactions each record is there twice."""
    rig = foreign_rig(kafka, tmp_path, 3)
    producer = ForeignProducer(kafka, rig.loop)
    for number in range(50):
        producer.feed(f"d{number}", START + number * SECOND)
    producer.flush()
    DyingWriter.alive = True
    source = SourceEnd(kafka, rig.loop)

    async def rekey() -> None:
        rekeyer = Rekeyer(kafka, rig.loop, KafkaSchemaStore(kafka), lambda: 1, writer=writer)
        await rekeyer.work(lambda: not source.is_reached())

    with pytest.raises(KilledError):
        asyncio.run(rekey())
    assert len(rekeyed(rig)) == 50 * (times - 1)
    asyncio.run(rekey())
    source.close()
    assert sorted(sources(rekeyed(rig))) == sorted(produced(rig, 3) * times)
    assert len(rekeyed(rig, committed=False)) == 100, "what was aborted is there for who asks"


def test_a_backlog_is_rekeyed_in_the_order_of_time(kafka: KafkaConfig, tmp_path: Path) -> None:
    """Conformance 6 and 18. One partition read before the other would make its feedback late."""
    rig = foreign_rig(kafka, tmp_path, 2)
    producer = ForeignProducer(kafka, rig.loop)
    topic = topics.feedback(rig.loop.loop)
    for number in range(12_000):
        at = START + number * SECOND / 10
        producer.decide(f"d{number}", at)
        producer.send(topic, "any", producer.click(f"d{number}", at + SECOND), number // 6_000)
    producer.flush()
    with rig.worker():
        until(lambda: rig.rows("feedback") == 12_000, "it is read")
        rig.close(START + 1_200 * SECOND)
        until(rig.is_done, "everything is closed")
    states = dict(rig.examples()["state"].value_counts().iter_rows())
    assert states == {"labeled": 12_000}
    assert_exact(rig)

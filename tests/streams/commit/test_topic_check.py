"""A topic that was deleted and made anew is refused by its id: at a start, and while it is read."""

from pathlib import Path
from uuid import UUID

import pytest
from confluent_kafka.admin import AdminClient
from tests.streams.rig import START, PlainProducer, Rig, end, new_rig, until
from tests.streams.runtime.test_worker import SECOND

from tidemill.errors import ContractError
from tidemill.features.lake.progress_keys import CLUSTER_ID, OFFSET, TOPIC_ID
from tidemill.kafka import KafkaConfig, Topic, ensure_topics
from tidemill.schemas import topics
from tidemill.schemas.logs import DECISIONS, FEEDBACK
from tidemill.streams.commit.leases import Lease
from tidemill.streams.commit.topic_check import check_identity
from tidemill.streams.consumer.topic_ids import TopicIdentity, read_identities
from tidemill.streams.reprocess.accept_topic import accept_topics
from tidemill.streams.runtime.worker import EXIT_REFUSED

HERE = TopicIdentity(topic="t.feedback", id=UUID(int=7), cluster="c")


def lease(identity: TopicIdentity | None, offset: int = 100) -> Lease:
    """Return a lease on a partition that was read up to *offset* from the topic *identity*."""
    numbers: dict[str, int | None] = {
        OFFSET: offset,
        TOPIC_ID: None if identity is None else identity.number,
        CLUSTER_ID: None if identity is None else identity.cluster_number,
    }
    return Lease(2, numbers={DECISIONS: numbers, FEEDBACK: numbers})


def test_the_topic_that_was_read_is_read_further() -> None:
    """Its id stays as long as it exists."""
    assert not check_identity("t", lease(HERE), FEEDBACK, HERE)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (TopicIdentity(topic="t.feedback", id=UUID(int=8), cluster="c"), "deleted and made anew"),
        (TopicIdentity(topic="t.feedback", id=UUID(int=7), cluster="d"), "another cluster, d"),
    ],
)
def test_another_topic_of_that_name_is_refused(now: TopicIdentity, said: str) -> None:
    """Its first records are at offsets that count as read. The hint has both ways on."""
    with pytest.raises(ContractError) as caught:
        check_identity("t", lease(HERE), FEEDBACK, now)
    assert said in caught.value.what
    assert "up to offset 100 of partition 2" in caught.value.what
    assert "tidemill lake replay t --into LAKE" in caught.value.hint
    assert "tidemill lake accept-topic t" in caught.value.hint


def test_a_lake_without_ids_adopts_the_first() -> None:
    """Lakes of earlier releases have none; the runner tells which partitions had been read."""
    assert check_identity("t", lease(None), FEEDBACK, HERE)
    assert not check_identity("t", lease(None, offset=0), FEEDBACK, HERE)


def made_anew(rig: Rig, *, records: int, first: int) -> None:
    """Delete the topics of *rig*, make them again and send *records*, numbered from *first*."""
    names = [topics.decisions(rig.loop.loop), topics.feedback(rig.loop.loop)]
    before = read_identities(rig.kafka, names)
    admin = AdminClient({"bootstrap.servers": rig.kafka.bootstrap})
    for done in admin.delete_topics(names).values():
        done.result()
    until(lambda: not read_identities(rig.kafka, names), "they are gone")
    ensure_topics(rig.kafka, [Topic(name=name, partitions=1) for name in names])
    until(lambda: len(read_identities(rig.kafka, names)) == 2, "they are there")
    after = read_identities(rig.kafka, names)
    assert all(after[name] != before[name] is not None for name in names)
    send(rig.producer(), records, first)


def send(producer: PlainProducer, records: int, first: int) -> None:
    """Send decisions and their feedback."""
    for number in range(first, first + records):
        producer.decide(f"d{number}", START + number * SECOND)
        producer.feed(f"d{number}", START + number * SECOND)
    producer.flush()


def rows(rig: Rig) -> set[str]:
    """Return the ids of all decisions in the lake."""
    return set(rig.lake.table(rig.loop.loop, "decisions").read(["id"])["id"])


@pytest.mark.kafka
@pytest.mark.soak
def test_a_topic_made_anew_is_refused_until_it_is_accepted(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """100 of 250 new decisions and as many feedback were never read, and the ledger was balanced.

    The new topics are longer than what was read. Nothing of them reaches the lake, neither at a
    start nor while a worker reads. A topic that was restored with its offsets can be accepted.
    """
    rig = new_rig(kafka, tmp_path, idle_after="1h", partitions=1)
    send(rig.producer(), 100, first=0)
    with rig.worker():
        until(rig.is_read, "the first topics are read")
    old = {f"d{number}" for number in range(100)}
    assert rows(rig) == old

    made_anew(rig, records=150, first=0)
    assert rig.ended() == EXIT_REFUSED
    said = rig.log().rsplit("the worker ends: ", 1)[1]
    assert "was deleted and made anew" in said
    assert f"tidemill lake accept-topic {rig.loop.loop}" in said
    assert rows(rig) == old

    accepted = accept_topics(kafka, rig.lake, rig.loop)
    assert {each.read[0] for each in accepted} == {100}
    assert accept_topics(kafka, rig.lake, rig.loop) == []
    worker = rig.start()
    try:
        until(rig.is_read, "it goes on behind what was read")
        restored = {f"d{number}" for number in range(150)}
        assert rows(rig) == restored
        made_anew(rig, records=400, first=1_000)
        assert worker.wait(100) == EXIT_REFUSED
    finally:
        end(worker)
    assert rows(rig) == restored, "nothing of the topic that was made while it was read"
    assert rig.ended() == EXIT_REFUSED
    assert "was deleted and made anew" in rig.log().rsplit("the worker ends: ", 1)[1]

    made_anew(rig, records=10, first=2_000)
    with pytest.raises(ContractError, match="was not restored with its offsets"):
        accept_topics(kafka, rig.lake, rig.loop)
    assert rig.ended() == EXIT_REFUSED
    assert rows(rig) == restored

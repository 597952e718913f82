"""Publishing loops: one contract for the loops in memory and on Kafka."""

import uuid

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from tests.schemas.loops import minimal

from tidemill.errors import ContractError
from tidemill.kafka import (
    BadRecords,
    CompactedLog,
    KafkaConfig,
    Record,
    Topic,
    ensure_topics,
    partition_count,
    write_all,
)
from tidemill.schemas import topics
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import (
    KafkaLoops,
    Loops,
    LoopTopic,
    MemoryLoops,
    check_unchanged,
    event_topics,
    fetch_loops,
    key_of,
    latest_loop,
    newest,
    parse_loop,
    publish_loop,
    retired_version,
    used_loops,
)


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def loops(request: pytest.FixtureRequest) -> Loops:
    """Each implementation of the port in turn."""
    if request.param == "memory":
        return MemoryLoops()
    return KafkaLoops(request.getfixturevalue("kafka"))


@pytest.fixture
def loop() -> Loop:
    """A loop under a name of its own: the broker is shared."""
    return minimal(loop=f"t{uuid.uuid4().hex}")


def changed(loop: Loop, **changes: object) -> Loop:
    """Return *loop* with *changes*."""
    return Loop.model_validate({**loop.model_dump(mode="json"), **changes})


def test_a_published_loop_is_found_again(loops: Loops, loop: Loop) -> None:
    """Workers start from it, and from nothing else."""
    assert loops.publish(loop) is True
    assert loops.fetch()[loop.loop, 1] == loop
    assert newest(loops.fetch(), loop.loop) == loop


def test_features_keep_their_order(loops: Loops, loop: Loop) -> None:
    """A model's columns, an Avro record and a fingerprint all depend on it."""
    reordered = changed(loop, features={"zone": "int", "area": "int", "man": "int"})
    loops.publish(reordered)
    assert list(loops.fetch()[loop.loop, 1].features) == ["zone", "area", "man"]
    with pytest.raises(ContractError, match="order"):
        loops.publish(changed(loop, features={"area": "int", "zone": "int", "man": "int"}))


def test_publishing_again_changes_nothing(loops: Loops, loop: Loop) -> None:
    """A deployment publishes on every run."""
    loops.publish(loop)
    assert loops.publish(loop) is False


def test_the_same_version_with_other_content_is_refused(loops: Loops, loop: Loop) -> None:
    """Two meanings of one version could never be told apart in the lake."""
    loops.publish(loop)
    with pytest.raises(ContractError, match="differs in grace") as caught:
        loops.publish(changed(loop, grace="9m"))
    assert "version: 2" in caught.value.hint
    assert loops.fetch()[loop.loop, 1] == loop


def test_a_newer_version_stands_beside_the_older(loops: Loops, loop: Loop) -> None:
    """Events of the older one are still on their way."""
    loops.publish(loop)
    newer = changed(loop, version=2, grace="9m")
    assert loops.publish(newer) is True
    assert {version for name, version in loops.fetch() if name == loop.loop} == {1, 2}
    assert newest(loops.fetch(), loop.loop) == newer


def test_an_incompatible_version_is_refused(loops: Loops, loop: Loop) -> None:
    """Yesterday's events must be readable tomorrow."""
    loops.publish(loop)
    features = {"country": "category", "visits": "category"}
    with pytest.raises(ContractError, match="becomes category"):
        loops.publish(changed(loop, version=2, features=features))


def test_a_retired_loop_is_not_used_until_a_newer_version_follows(loop: Loop) -> None:
    """Retiring is a version like any other: no process has another topic to read for it."""
    loops = MemoryLoops()
    loops.publish(loop)
    assert used_loops(loops.fetch()) == {loop.loop: loop}
    retired = retired_version(loop, "ann: nobody asks")
    assert loops.publish(retired)
    assert used_loops(loops.fetch()) == {}
    with pytest.raises(ContractError, match="is retired: ann: nobody asks"):
        retired_version(newest(loops.fetch(), loop.loop), "again")
    with pytest.raises(ContractError, match="write version: 3"):
        loops.publish(loop.model_copy(update={"version": 2}))
    again = loop.model_copy(update={"version": 3})
    assert loops.publish(again)
    assert used_loops(loops.fetch()) == {loop.loop: again}
    assert '"retired"' not in loop.canonical, "older releases read loops that are in use"


def test_an_unknown_loop_names_those_that_are_known() -> None:
    """The name was mistyped, or the publish forgotten."""
    with pytest.raises(ContractError, match="no loop 'baner'") as caught:
        newest({("banner", 1): minimal()}, "baner")
    assert "banner" in caught.value.hint


def record(key: bytes | None, value: bytes | None, offset: int = 0) -> Record:
    """Return a record of the topic of loops."""
    return Record(
        topic=topics.LOOPS, partition=0, offset=offset, key=key, value=value, timestamp_ms=0
    )


BAD = {
    "no JSON": (b"junk/1", b"not json"),
    "another document": (b"junk/1", b"[1]"),
    "a field is missing": (b"banner/1", b'{"loop": "banner"}'),
    "a key that is no text": (b"\xff\xfe/1", b"{}"),
    "no key": (None, minimal().canonical.encode()),
    "the key of another loop": (b"shop/1", minimal().canonical.encode()),
    "deeply nested": (b"junk/1", b"[" * 200_000),
    "a number of a million digits": (b"junk/1", b"9" * 1_000_000),
    "a digit that int() refuses": ("banner/²".encode(), minimal().canonical.encode()),
}


@pytest.mark.parametrize(("key", "value"), BAD.values(), ids=BAD)
def test_a_bad_record_costs_that_record_alone(key: bytes | None, value: bytes) -> None:
    """Anybody who may write to the topic could otherwise end every process of every loop."""
    good, old = minimal(), minimal(loop="old")
    log = CompactedLog(parse_loop)
    log.take([record(key_of(old), old.canonical.encode()), record(key, value, 1)])
    log.take([record(key_of(good), good.canonical.encode(), 2)])
    topic = LoopTopic.of(log)
    assert set(topic.loops) == {("banner", 1), ("old", 1)}
    if key != key_of(good):  # else it was written anew
        (bad,) = topic.bad
        assert (bad.topic, bad.partition, bad.offset) == (topics.LOOPS, 0, 1)
        assert len(str(bad)) < 700
        assert str(bad).isprintable()


def test_a_version_that_is_overwritten_by_junk_stays() -> None:
    """The loop keeps its last good version for whoever reads the topic."""
    good = minimal()
    log = CompactedLog(parse_loop)
    log.take([record(key_of(good), good.canonical.encode()), record(key_of(good), b"junk", 1)])
    assert log.values == [good]
    assert [bad.offset for bad in log.bad] == [1]
    log.take([record(key_of(good), None, 2)])
    assert (log.values, log.bad) == ([], [])


def test_a_version_never_changes_whoever_writes_it_anew() -> None:
    """The lake could not tell two meanings of one version apart, and would refuse the loop."""
    good = minimal()
    other = changed(good, grace="9m")
    log = CompactedLog(parse_loop, check_unchanged)
    log.take([record(key_of(good), good.canonical.encode())])
    log.take([record(key_of(good), other.canonical.encode(), 1)])
    assert (log.values, [bad.offset for bad in log.bad]) == ([good], [1])
    log.take([record(key_of(good), None, 2), record(key_of(good), other.canonical.encode(), 3)])
    assert (log.values, log.bad) == ([other], [])


def test_the_newest_number_counts_what_cannot_be_read() -> None:
    """A newer tidemill may have written it: its events are not those of an older version."""
    good = minimal()
    log = CompactedLog(parse_loop)
    log.take([record(key_of(good), good.canonical.encode()), record(b"banner/7", b"{}", 1)])
    topic = LoopTopic.of(log)
    assert newest(topic.loops, "banner").version == 1
    assert topic.newest_number("banner") == 7
    assert topic.newest_number("other") == 0


@pytest.mark.kafka
def test_publishing_passes_over_bad_records_and_replaces_one(
    kafka: KafkaConfig, loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    """The repair is to publish; it must not be refused by what it repairs."""
    other = f"{loop.loop}-junk/1".encode()
    write_all(kafka, topics.LOOPS, [(key_of(loop), b"not json"), (other, b"not json")])
    try:
        bad = BadRecords()
        assert loop.loop not in {name for name, _ in fetch_loops(kafka, bad)}
        assert KafkaLoops(kafka, bad=bad).publish(loop) is True
        assert fetch_loops(kafka, bad)[loop.loop, 1] == loop
        said = [line.getMessage() for line in caplog.records]
        assert sum(f"key '{loop.loop}-junk/1'" in line for line in said) == 1
        assert sum(f"key '{loop.loop}/1'" in line for line in said) == 1
        assert [each.key for each in bad.all() if each.key.startswith(loop.loop)] == [
            other.decode()
        ]
    finally:
        write_all(kafka, topics.LOOPS, [(other, None)])


@pytest.mark.kafka
def test_publishing_makes_the_topics_of_the_events(kafka: KafkaConfig, loop: Loop) -> None:
    """A service that starts right after must not find its topic missing."""
    publish_loop(kafka, changed(loop, partitions=2))
    assert [partition_count(kafka, topic.name) for topic in event_topics(loop)] == [2, 2]
    assert latest_loop(kafka, loop.loop).partitions == 2


@pytest.mark.kafka
def test_topics_with_the_time_of_their_producers_are_refused_unless_accepted(
    kafka: KafkaConfig, loop: Loop
) -> None:
    """Skew, age, lag and retention would be by clocks that nobody here sets."""
    name = topics.feedback(loop.loop)
    made = NewTopic(name, loop.partitions, 1, config={"message.timestamp.type": "CreateTime"})
    admin = AdminClient(kafka.client())
    for done in admin.create_topics([made]).values():
        done.result()
    with pytest.raises(ContractError, match=f"{name} have the time of their producer") as caught:
        publish_loop(kafka, loop)
    assert "--accept-create-time" in caught.value.hint
    assert (loop.loop, loop.version) not in fetch_loops(kafka)
    assert publish_loop(kafka, loop, accept_create_time=True)
    assert not publish_loop(kafka, loop), "what is published already is not asked again"


@pytest.mark.kafka
def test_a_stream_has_a_topic_with_as_many_partitions(kafka: KafkaConfig, loop: Loop) -> None:
    """Orders of another team lie where the decisions are that they belong to, or are refused."""
    kinds = {"clicked": {"within": "1m"}, "sold": {"within": "7d", "stream": "orders"}}
    apart = changed(loop, partitions=2, feedback=kinds)
    publish_loop(kafka, apart)
    counts = {topic.name: partition_count(kafka, topic.name) for topic in event_topics(apart)}
    names = [f"{loop.loop}.{log}" for log in ("decisions", "feedback", "feedback.orders")]
    assert counts == dict.fromkeys(names, 2)
    other = minimal(loop=f"{loop.loop}-other", partitions=2, feedback=kinds)
    ensure_topics(kafka, [Topic(name=f"{other.loop}.feedback.orders", partitions=3)])
    ensure_topics(kafka, [Topic(name=f"{other.loop}.decisions", partitions=2)])
    with pytest.raises(ContractError, match=r"decisions 2 and .*orders 3 partitions") as caught:
        publish_loop(kafka, other)
    assert "rekey: true and partitions: 2" in caught.value.hint
    publish_loop(kafka, changed(other, rekey=True))
    made = [f"{other.loop}.feedback.orders.rekeyed", f"{other.loop}.feedback.orders"]
    assert [partition_count(kafka, name) for name in made] == [2, 3]


@pytest.mark.kafka
def test_publishing_goes_on_where_a_crash_stopped_it(kafka: KafkaConfig, loop: Loop) -> None:
    """Definition written, process killed: the next publish still makes topics and schemas."""
    KafkaLoops(kafka).publish(minimal(loop=f"{loop.loop}x"))
    write_all(kafka, topics.LOOPS, [(key_of(loop), loop.canonical.encode())])
    assert publish_loop(kafka, loop) is False
    assert partition_count(kafka, topics.decisions(loop.loop)) == loop.partitions

"""Dead letters read back and sent again, on a real broker: each once, whatever happens."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message, TopicPartition
from tests.streams.rig import PlainProducer, assert_exact, new_loop, new_rig, until

from tidemill.cli.app import main
from tidemill.errors import FencedError
from tidemill.kafka import KafkaConfig, Topic, TransactionalWriter, ensure_topics, write_all
from tidemill.schemas import topics
from tidemill.schemas.events.schemas import event_schemas
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import SHARED_TOPICS, fetch_loops, publish_loop
from tidemill.schemas.registry.choose import KafkaSchemaStore
from tidemill.streams.deadletters.reader import DeadLetterReader, Wanted, overview
from tidemill.streams.deadletters.redrive import (
    NAME,
    Judge,
    Opinion,
    RedriveCounts,
    preview,
    redrive,
)
from tidemill.streams.deadletters.writer import PART_BYTES, DeadLetter, DeadLetterWriter

pytestmark = pytest.mark.kafka

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SKEW = frozenset({"skew"})


def dead_letter(loop: str, offset: int, **changes: object) -> DeadLetter:
    """Return a dead letter about a decision of *loop* in partition 1."""
    fields: dict[str, object] = {
        "topic": f"{loop}.decisions",
        "partition": 1,
        "offset": offset,
        "timestamp_ms": 1_000 * offset,
        "reason": "unknown-schema",
        "detail": "no schema is registered",
        "key": f"k{offset}".encode(),
        "value": b"\xc3\x01" + offset.to_bytes(8, "big"),
    }
    return DeadLetter(**(fields | changes))  # type: ignore[arg-type]


def name() -> str:
    """Return the name of a loop that nobody else has."""
    return f"t-a{uuid.uuid4().hex[:10]}"


def write(kafka: KafkaConfig, dead_letters: Sequence[DeadLetter]) -> None:
    """Write *dead_letters* like a worker."""
    ensure_topics(kafka, SHARED_TOPICS)
    writer = DeadLetterWriter(kafka)
    writer.write(dead_letters)
    writer.close()


def records(
    kafka: KafkaConfig, topic: str, partition: int, *, committed: bool = True
) -> list[Message]:
    """Return what is in a partition; unless *committed*, also what was never committed."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": "unused",
            "enable.partition.eof": True,
            "isolation.level": "read_committed" if committed else "read_uncommitted",
        }
    )
    consumer.assign([TopicPartition(topic, partition, 0)])
    found: list[Message] = []
    while True:
        message = consumer.poll(10)
        assert message is not None
        if message.error() is not None:
            consumer.close()
            return found
        found.append(message)


def test_a_dead_letter_written_twice_or_in_parts_is_shown_once_and_whole(
    kafka: KafkaConfig,
) -> None:
    """A crash before the commit writes it again; an oversize one is several records."""
    loop = name()
    huge = dead_letter(loop, 3, reason="oversize", value=os.urandom(2 * PART_BYTES + 7))
    dead_letters = [dead_letter(loop, 1), dead_letter(loop, 2, value=None, key=None), huge]
    write(kafka, [dead_letters[0]])
    write(kafka, dead_letters)
    write(kafka, [huge])
    write_all(kafka, topics.DEAD_LETTERS, [(b"stray", b"of somebody else")])
    reader = DeadLetterReader(kafka)
    assert list(reader.read(Wanted(loop=loop))) == dead_letters
    assert reader.copies == 2
    newest = overview(reader, Wanted(loop=loop), limit=2, by_offset=False)
    assert newest.dead_letters == [huge, dead_letters[1]]
    assert newest.waiting == {"unknown-schema": 2, "oversize": 1}
    assert (
        overview(reader, Wanted(loop=loop), limit=2, by_offset=True).dead_letters
        == dead_letters[:2]
    )


def test_dead_letters_are_chosen_by_loop_topic_reason_time_and_source(kafka: KafkaConfig) -> None:
    """A thousand dead letters of yesterday must not hide the one of today."""
    loop = name()
    feedback = dead_letter(loop, 5, topic=f"{loop}.feedback", reason="truncated")
    dead_letters = [dead_letter(loop, 1), dead_letter(loop, 2), feedback]
    write(kafka, [*dead_letters, dead_letter(f"{loop}-more", 1)])
    for wanted, found in (
        (Wanted(loop=loop), dead_letters),
        (Wanted(topic=feedback.topic), [feedback]),
        (Wanted(loop=loop, reasons=frozenset({"truncated", "empty"})), [feedback]),
        (Wanted(loop=loop, since=datetime.fromtimestamp(2, UTC)), dead_letters[1:]),
        (Wanted(sources=frozenset({dead_letters[1].source})), [dead_letters[1]]),
    ):
        assert list(DeadLetterReader(kafka).read(wanted)) == found


@pytest.fixture
def unregistered(kafka: KafkaConfig) -> tuple[Loop, Loop, list[bytes]]:
    """A loop, its next version, and events of that: written, but their schema is unknown still."""
    loop = new_loop(partitions=2)
    publish_loop(kafka, loop)
    features = loop.model_dump(mode="json")["features"] | {
        "weather": {"type": "category", "nullable": True}
    }
    following = loop.model_validate(
        loop.model_dump(mode="json") | {"version": 2, "features": features}
    )
    producer = PlainProducer(kafka, following)
    events = [producer.decision(f"d{number}", START, weather="rain") for number in range(700)]
    return loop, following, events


def judge(kafka: KafkaConfig) -> Judge:
    """Return one that knows what is published and registered now."""
    return Judge(fetch_loops(kafka), KafkaSchemaStore(kafka))


def test_dead_letters_are_sent_again_once_their_schema_is_registered(
    kafka: KafkaConfig, unregistered: tuple[Loop, Loop, list[bytes]]
) -> None:
    """Before that nothing is sent; after it each event once, unchanged, to its partition."""
    loop, following, events = unregistered
    topic = topics.decisions(loop.loop)
    dead_letters = [
        dead_letter(loop.loop, number, value=event) for number, event in enumerate(events)
    ]
    ahead = PlainProducer(kafka, loop).decision("f", datetime.now(UTC) + timedelta(hours=1))
    dead_letters.append(dead_letter(loop.loop, 900, value=ahead, reason="skew"))
    dead_letters.append(dead_letter(loop.loop, 901, value=b"junk", reason="unknown-schema"))
    write(kafka, dead_letters)
    wanted = Wanted(loop=loop.loop)
    early, counts = RedriveCounts(), RedriveCounts()
    redrive(DeadLetterReader(kafka), wanted, judge(kafka), early, every=False)
    assert not early.sent
    assert early.left.total() == 702
    assert records(kafka, topic, 1) == []
    for subject, schema in event_schemas(following).items():
        KafkaSchemaStore(kafka).register(subject, schema)
    preview(DeadLetterReader(kafka), wanted, judge(kafka), counts, every=False)
    assert counts.sent == {"unknown-schema": 700}
    assert records(kafka, topic, 1) == [], "looking changes nothing"
    for sent in (700, 0):
        counts = RedriveCounts()
        redrive(DeadLetterReader(kafka), wanted, judge(kafka), counts, every=False)
        assert counts.sent.total() == sent
        assert counts.before.total() == 700 - sent
        assert counts.left == {("skew", "skew"): 1, ("unknown-schema", "unknown-schema"): 1}
        found = [(each.key(), each.value()) for each in records(kafka, topic, 1)]
        assert found == [(each.key, each.value) for each in dead_letters[:700]]
    shown = overview(DeadLetterReader(kafka), wanted, limit=3, by_offset=False)
    assert shown.resent == {"unknown-schema": 700}
    assert shown.waiting == {"unknown-schema": 1, "skew": 1}
    later = Judge(fetch_loops(kafka), KafkaSchemaStore(kafka), lambda: datetime.now(UTC) + DAY)
    preview(
        DeadLetterReader(kafka),
        Wanted(loop=loop.loop, reasons=SKEW),
        later,
        counts := RedriveCounts(),
        every=False,
    )
    assert counts.sent == {"skew": 1}, "its time comes"
    redrive(DeadLetterReader(kafka), wanted, judge(kafka), RedriveCounts(), every=True)
    assert [each.value() for each in records(kafka, topic, 1)[700:]] == [ahead, b"junk"]


class Interrupted(Judge):
    """A judge in whose second portion something happens."""

    def __init__(self, kafka: KafkaConfig, what: BaseException | None) -> None:
        super().__init__(fetch_loops(kafka), KafkaSchemaStore(kafka))
        self._kafka = kafka
        self._what = what
        self.portions = 0

    def judge(self, dead_letters: Sequence[DeadLetter]) -> list[Opinion]:
        """Judge; but in the second portion another process begins, or a person ends this one."""
        self.portions += 1
        if self.portions == 2 and self._what is not None:
            raise self._what
        if self.portions == 2:
            TransactionalWriter(self._kafka, NAME).close()
        return super().judge(dead_letters)


@pytest.mark.parametrize(
    ("what", "raised"), [(None, FencedError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_an_interrupted_replay_continues_with_the_rest(
    kafka: KafkaConfig,
    unregistered: tuple[Loop, Loop, list[bytes]],
    what: BaseException | None,
    raised: type[BaseException],
) -> None:
    """Ctrl-C, or a second operator with the same idea: nothing is sent twice, nothing is lost."""
    loop, following, events = unregistered
    for subject, schema in event_schemas(following).items():
        KafkaSchemaStore(kafka).register(subject, schema)
    write(kafka, [dead_letter(loop.loop, number, value=each) for number, each in enumerate(events)])
    counts, wanted = RedriveCounts(), Wanted(loop=loop.loop)
    with pytest.raises(raised):
        redrive(DeadLetterReader(kafka), wanted, Interrupted(kafka, what), counts, every=False)
    assert counts.sent.total() == len(records(kafka, topics.decisions(loop.loop), 1)) == 500
    redrive(DeadLetterReader(kafka), wanted, judge(kafka), counts, every=False)
    assert counts.sent.total() == 700
    found = [each.value() for each in records(kafka, topics.decisions(loop.loop), 1)]
    assert found == events


KILLED = """
import signal, sys
from tidemill.kafka import KafkaConfig, TransactionalWriter
writer = TransactionalWriter(KafkaConfig(sys.argv[1]), sys.argv[2])
with writer.transaction():
    writer.write(sys.argv[3], b"k", b"1")
    writer._producer.flush()
    print("inside", flush=True)
    signal.pause()
"""


def test_the_open_transaction_of_a_killed_process_is_never_read(kafka: KafkaConfig) -> None:
    """The next process with its id can write at once; only a reader of all records sees both."""
    topic = name()
    ensure_topics(kafka, [Topic(name=topic)])
    command = [sys.executable, "-c", KILLED, kafka.bootstrap, topic, topic]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"inside\n"
        process.send_signal(signal.SIGKILL)
    writer = TransactionalWriter(kafka, topic)
    with writer.transaction():
        writer.write(topic, b"k", b"1")
    writer.close()
    assert len(records(kafka, topic, 0)) == 1
    assert len(records(kafka, topic, 0, committed=False)) == 2


def test_a_replay_killed_at_any_moment_sends_each_dead_letter_once(
    kafka: KafkaConfig, unregistered: tuple[Loop, Loop, list[bytes]]
) -> None:
    """The whole command as a process, killed again and again, then run to its end."""
    loop, following, events = unregistered
    for subject, schema in event_schemas(following).items():
        KafkaSchemaStore(kafka).register(subject, schema)
    dead_letters = [
        dead_letter(loop.loop, number, value=events[number % 700]) for number in range(4_000)
    ]
    write(kafka, dead_letters)
    command = "import sys; from tidemill.cli.app import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["dead-letters", "replay", "--apply", "--loop", loop.loop, "--json"]
    environment = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap}
    topic = topics.decisions(loop.loop)
    ends = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "unused"})

    def end() -> int:
        high: int = ends.get_watermark_offsets(TopicPartition(topic, 1), timeout=120)[1]
        return high

    for _ in range(2):
        before = end()
        process = subprocess.Popen([sys.executable, "-c", command, *arguments], env=environment)
        until(lambda before=before: end() > before, "it has sent some")  # type: ignore[misc]
        process.kill()
        process.wait()
    ends.close()
    output = json.loads(
        subprocess.run(
            [sys.executable, "-c", command, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
    )
    assert output["sent"].get("unknown-schema", 0) + output["before"]["unknown-schema"] == 4_000
    assert [each.key() for each in records(kafka, topic, 1)] == [each.key for each in dead_letters]


def test_the_command_shows_and_says_what_it_would_do(
    kafka: KafkaConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An operator needs one table, no control characters, and nothing done by accident."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap)
    monkeypatch.setenv("COLUMNS", "200")
    loop = new_loop(partitions=2)
    publish_loop(kafka, loop)
    good = PlainProducer(kafka, loop).decision("d", START)
    evil = dead_letter(loop.loop, 1, value=b"\x1b[2J[red]x", detail="\x1b[31m[bold]no")
    write(kafka, [evil, dead_letter(loop.loop, 2, value=good)])
    assert main(["dead-letters", "show", "--loop", loop.loop]) == 0
    shown = capsys.readouterr().out
    assert f"{loop.loop}.decisions/1/2" in shown
    assert "\\x1b[2J[red]x" in shown
    assert "\x1b[2J" not in shown
    assert main(["dead-letters", "show", "--letter", evil.source, "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["reasons"] == {"unknown-schema": {"waiting": 1, "resent": 0}}
    assert output["letters"][0]["value"] == "\\x1b[2J[red]x"
    assert main(["dead-letters", "replay", "--loop", loop.loop]) == 1
    shown = capsys.readouterr().out
    assert "would be sent again" in shown
    assert "--apply" in shown
    assert records(kafka, topics.decisions(loop.loop), 1) == []
    assert main(["dead-letters", "replay", "--loop", loop.loop, "--apply", "--since", "99d"]) == 0
    assert main(["dead-letters", "replay", "--loop", loop.loop, "--apply"]) == 1
    assert [each.value() for each in records(kafka, topics.decisions(loop.loop), 1)] == [good]
    assert main(["dead-letters", "replay", "--since", "yesterday"]) == 2


def test_a_running_worker_reads_the_records_that_are_sent_again(
    kafka: KafkaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A schema was registered too late: its events become examples, and every record is counted."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap)
    rig = new_rig(kafka, tmp_path, idle_after="1h", partitions=1)
    features = rig.loop.model_dump(mode="json")["features"] | {
        "weather": {"type": "category", "nullable": True}
    }
    following = rig.loop.model_validate(rig.loop.model_dump(mode="json") | {"features": features})
    early = PlainProducer(kafka, following)
    for number in range(20):
        early.decide(f"d{number}", START, weather="rain")
        early.feed(f"d{number}", START)
    early.flush()
    with rig.worker():
        until(rig.is_read, "they are dead letters")
        assert len(rig.dead_letters()) == 20
        for subject, schema in event_schemas(following).items():
            KafkaSchemaStore(kafka).register(subject, schema)
        assert main(["dead-letters", "replay", "--loop", rig.loop.loop, "--apply"]) == 0
        until(lambda: rig.rows("decisions") == 20, "they are read")
        rig.close(START)
        until(rig.is_done, "and closed")
    assert rig.examples()["state"].to_list() == ["labeled"] * 20
    assert_exact(rig)

"""Streams workers on a real broker: killed, frozen, added, removed, poisoned; the lake is exact."""

import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO
from pathlib import Path

import polars as pl
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from tests.streams.faults import committed
from tests.streams.rig import (
    ROOT,
    START,
    Rig,
    assert_exact,
    end,
    new_rig,
    path_with,
    raise_limit,
    send_traffic,
    until,
)

from tidemill.cli.app import main
from tidemill.deploy.local.kafka import EmbeddedKafka
from tidemill.kafka import KafkaConfig, write_all
from tidemill.schemas import topics
from tidemill.schemas.avro.wire import single_object_prefix
from tidemill.schemas.published import publish_loop
from tidemill.streams.runtime.worker import EXIT_REFUSED
from tidemill.streams.runtime.worker_config import group_name
from tidemill.testing.kafka import START_S

pytestmark = pytest.mark.kafka

NEVER = {"TIDEMILL_COMMIT_S": "3600", "TIDEMILL_COMMIT_ROWS": "1000000000"}
SECOND = timedelta(seconds=1)


def is_past(rig: Rig, records: int) -> bool:
    """Return whether more than *records* are committed to the lake."""
    return committed(rig) > records


def with_create_time(kafka: KafkaConfig, topic: str) -> None:
    """Let producers write the times of the records of *topic*, any time."""
    entries = {
        "message.timestamp.type": "CreateTime",
        "message.timestamp.after.max.ms": str(2**63 - 1),
    }
    changes = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        for name, value in entries.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=changes)
    admin = AdminClient(kafka.client())
    for done in admin.incremental_alter_configs([resource]).values():
        done.result()


def test_wrong_times_are_dead_letters_and_a_label_error_is_told(
    kafka: KafkaConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Seconds for microseconds, a record of the year 50000: neither a label nor the end of it."""
    label = {"sql": "max(100 % cast(amount as int)) > 1"}
    rig = new_rig(kafka, tmp_path, idle_after="1h", partitions=1, label=label)
    topic = topics.decisions(rig.loop.loop)
    with_create_time(kafka, topic)
    producer = rig.producer()
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    producer.decide("seconds", epoch + (START - epoch) / 1_000_000)
    producer.send(topic, "d", producer.decision("d", START), timestamp_ms=1_500_000_000_000_000)
    for number, amount in enumerate((0.0, 7.0, 7.0)):
        producer.decide(f"n{number}", START + number * SECOND)
        producer.feed(f"n{number}", START + (number + 1) * SECOND, amount=amount)
    producer.decide("last", START + timedelta(hours=1))
    producer.feed("last", START + timedelta(hours=1))
    producer.flush()
    with rig.worker():
        until(rig.is_read, "everything was read")
        until(lambda: rig.rows("examples") == 3, "the windows have closed")
    reasons = [each.fields["reason"] for each in rig.dead_letters()]
    assert reasons == ["age", "record-time"]
    assert "in seconds" in rig.dead_letters()[0].fields["detail"]
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap)
    assert main(["dead-letters", "show", "--loop", rig.loop.loop, "--json"]) == 0
    arrived = [each["arrived"] for each in json.loads(capsys.readouterr().out)["letters"]]
    assert "1500000000000000 ms" in arrived, "shown as it is: there is no such date"
    assert rig.examples()["state"].to_list() == ["label_error", "labeled", "labeled"]
    assert "the label of 1 decisions is an error" in rig.log()
    assert "One is n0: Invalid Input Error: " in rig.log()
    assert_exact(rig)


@pytest.mark.soak
def test_workers_are_killed_added_and_removed_and_the_lake_is_exact(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """The one promise everything else rests on: each event once, whatever happens to processes."""
    rig = new_rig(kafka, tmp_path, idle_after="1h")
    parts = [range(start, start + 22_500) for start in range(0, 180_000, 22_500)]
    last = START
    workers = [rig.start()]
    try:
        for number, part in enumerate(parts):
            before = committed(rig)
            last = max(last, send_traffic(rig.producer(), part, seed=number))
            until(partial(is_past, rig, before), "a commit")
            if number < 5:
                victim = workers.pop()
                victim.send_signal(signal.SIGKILL)
                victim.wait()
                workers.append(rig.start())
            if number == 2:
                workers.insert(0, rig.start())
            if number == 5:
                assert end(workers.pop(0)) == 0
        rig.close(last)
        until(rig.is_done, "everything is closed")
    finally:
        codes = [end(worker) for worker in workers]
    assert codes == [0]
    assert sum(rig.ends().values()) >= 300_000
    assert_exact(rig)


@contextmanager
def zombie(rig: Rig, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that took rows and was frozen until another worker owned its partitions."""
    send_traffic(rig.producer(), range(5_000), seed=1)
    workers = [rig.start(**NEVER, **settings)]
    try:
        until(lambda: rig.taken(workers[0]) >= 5_000, "it has taken rows")
        workers[0].send_signal(signal.SIGSTOP)
        workers.append(rig.start(**settings))
        until(rig.is_read, "the other one has read everything")
        workers[0].send_signal(signal.SIGCONT)
        yield workers[0]
    finally:
        for worker in workers:
            end(worker)


def test_a_zombie_changes_nothing(kafka: KafkaConfig, tmp_path: Path) -> None:
    """A worker that was frozen past its session still believes that it owns its partitions."""
    rig = new_rig(kafka, tmp_path, idle_after="1h")
    with zombie(rig) as worker:
        assert worker.wait(300) == 2
        rig.close(START + 60 * SECOND)
        until(rig.is_done, "windows close")
    assert "another worker has taken over" in rig.log()
    assert_exact(rig)


@pytest.mark.soak
def test_without_the_fence_a_zombie_corrupts_the_lake(kafka: KafkaConfig, tmp_path: Path) -> None:
    """With the guard switched off the check must fail, or it proves nothing."""
    rig = new_rig(kafka, tmp_path, idle_after="1h")
    rig.program = ("-m", "tests.streams.unguarded", "fence")
    with zombie(rig, PYTHONPATH=path_with(ROOT)):
        until(lambda: any(account.twice for account in rig.accounts()), "rows are there twice")
    assert "THE FENCE IS OFF" in rig.log()
    with pytest.raises(AssertionError):
        assert_exact(rig)


def replayed(kafka: KafkaConfig, rig: Rig, folder: Path, group: str, **settings: str) -> Rig:
    """Read the topics of *rig* into another lake."""
    folder.mkdir()
    again = Rig(kafka, rig.loop, folder)
    with again.worker(TIDEMILL_GROUP=group, **settings):
        until(again.is_done, f"{group} is done")
    return again


@pytest.mark.soak
def test_replays_with_other_batch_sizes_give_the_same_bytes(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """How large a fetch is depends on the network; what a model learns from must not."""
    rig = new_rig(kafka, tmp_path, idle_after="1h")
    last = send_traffic(rig.producer(), range(30_000), seed=2)
    rig.close(last)
    large = replayed(kafka, rig, tmp_path / "large", f"{rig.loop.loop}-large")
    small = replayed(
        kafka,
        rig,
        tmp_path / "small",
        f"{rig.loop.loop}-small",
        TIDEMILL_FETCH_RECORDS="700",
        TIDEMILL_COMMIT_S="0.2",
        TIDEMILL_COMMIT_ROWS="2000",
    )
    commits = [each.lake.table(rig.loop.loop, "examples").version() for each in (large, small)]
    assert commits[1] > commits[0], "the sizes did differ"
    assert as_bytes(large.examples()) == as_bytes(small.examples())
    assert_exact(large)
    assert_exact(small)


def test_the_rest_of_a_backlog_waits_for_nothing(kafka: KafkaConfig, tmp_path: Path) -> None:
    """With an interval of an hour, only the end of the backlog can make a commit cycle due."""
    rig = new_rig(kafka, tmp_path, idle_after="1h")
    send_traffic(rig.producer(), range(20_000), seed=8)
    sizes = {"TIDEMILL_FETCH_RECORDS": "300", "TIDEMILL_COMMIT_ROWS": "2000"}
    with rig.worker(TIDEMILL_COMMIT_S="3600", **sizes):
        until(rig.is_read, "the end of the backlog is committed")


@pytest.mark.soak
def test_windows_longer_than_memory_are_exact_whatever_is_killed(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """A worker whose open windows do not fit into its memory is a worker like any other."""
    rig = new_rig(kafka, tmp_path, idle_after="1h", memory="6MB", partitions=1)
    producer = rig.producer()
    send_traffic(producer, range(40_000), seed=3, per_second=900)
    many = {"TIDEMILL_COMMIT_ROWS": "5000", "TIDEMILL_SCRATCH": str(tmp_path)}
    with rig.worker(**many) as killed:
        until(lambda: rig.metric(killed, "tidemill_stream_away_rows") > 10_000, "rows leave")
        killed.kill()
        killed.wait()
    with rig.worker(**many) as again:
        until(rig.is_read, "all is read")
        assert rig.metric(again, "tidemill_stream_open_bytes") < 6 * 10**6
        last = send_traffic(producer, range(40_000, 60_000), seed=4, per_second=900)
        rig.close(last)
        until(rig.is_done, "everything is closed")
        assert rig.metric(again, "tidemill_stream_returned_rows_total") > 10_000
        assert rig.metric(again, "tidemill_stream_open_bytes") < 6 * 10**6
    assert_exact(rig)


def as_bytes(frame: pl.DataFrame) -> bytes:
    """Return the rows as a Parquet file; Arrow's bytes depend on how a frame was put together."""
    written = BytesIO()
    frame.rechunk().write_parquet(written, compression="uncompressed")
    return written.getvalue()


def test_a_disk_that_refuses_is_named_and_loses_nothing(kafka: KafkaConfig, tmp_path: Path) -> None:
    """The operator has to read what to do, and nothing may be lost."""
    rig = new_rig(kafka, tmp_path, idle_after="1h")
    producer = rig.producer()
    send_traffic(producer, range(3_000), seed=5)
    log = tmp_path / "lake" / rig.loop.loop / "decisions" / "_delta_log"
    aside = log.with_name("aside")
    worker = rig.start(TIDEMILL_PATIENCE_S="1")
    try:
        until(rig.is_read, "it reads")
        log.rename(aside)
        log.write_text("no folder any more")
        last = send_traffic(producer, range(3_000, 6_000), seed=6)
        assert worker.wait(300) == 2
    finally:
        end(worker)
    said = rig.log()
    assert "the worker ends: " in said
    assert "hint: " in said.rsplit("the worker ends: ", 1)[1]
    log.unlink()
    aside.rename(log)
    with rig.worker():
        rig.close(last)
        until(rig.is_done, "it continues from the lake")
    assert_exact(rig)


def test_poison_goes_to_the_dead_letters_and_its_neighbours_pass(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """One broken producer must not stop the loop, and its bytes must be there for inspection."""
    rig = new_rig(kafka, tmp_path, idle_after="1h", partitions=1)
    raise_limit(kafka, topics.decisions(rig.loop.loop))
    producer = rig.producer()
    good = producer.decision("good", START)
    poison: dict[str, tuple[bytes | None, set[str]]] = {
        "empty": (b"", {"empty"}),
        "tombstone": (None, {"empty"}),
        "truncated": (good[:-3], {"truncated"}),
        "overlong": (good + b"\x00\x01", {"overlong"}),
        "unknown": (b"\xc3\x01" + b"\x07" * 8 + good[10:], {"unknown-schema"}),
        "text": (b"not avro at all", {"unknown-schema"}),
        "feedback": (producer.click("x", START), {"wrong-type"}),
        "negative length": (good[:10] + b"\x03" + good[11:], {"malformed"}),
        "bomb": (recursive_bomb(kafka), {"recursive-schema"}),
        "huge": (good + b"\x00" * (2**20), {"oversize"}),
        "future": (producer.decision("f", datetime.now(UTC) + timedelta(hours=1)), {"skew"}),
    }
    topic = topics.decisions(rig.loop.loop)
    for number, (value, _reasons) in enumerate(poison.values()):
        producer.decide(f"n{number}", START + number * SECOND)
        producer.send(topic, "poison", value)
    producer.decide("last", START + 100 * SECOND)
    producer.flush()
    with rig.worker():
        rig.close(START + 100 * SECOND)
        until(rig.is_done, "everything is read")
    found = rig.dead_letters()
    for dead_letter in found:
        source = [dead_letter.fields[name] for name in ("topic", "partition", "offset")]
        assert dead_letter.key == "/".join(source).encode()
        assert (source[:2], dead_letter.fields["key"]) == ([topic, "0"], "poison")
    parts = [
        dead_letter.value or b""
        for dead_letter in found
        if dead_letter.fields["reason"] == "oversize"
    ]
    assert len(parts) == 2
    assert sorted(b"".join(parts)) == sorted(poison["huge"][0] or b"")
    whole = [dead_letter for dead_letter in found if dead_letter.fields["reason"] != "oversize"]
    assert [
        (dead_letter.fields["reason"], dead_letter.offset, dead_letter.value or None)
        for dead_letter in whole
    ] == [
        (next(iter(each)), 2 * number + 1, value or None)
        for number, (value, each) in enumerate(poison.values())
        if "oversize" not in each
    ]
    assert rig.examples()["decision_id"].to_list() == sorted(
        [*(f"n{number}" for number in range(len(poison))), "last"]
    )
    dead = sum(account.ends["dead_letter"] for account in rig.accounts())
    assert dead == len(poison)
    assert_exact(rig)


def recursive_bomb(kafka: KafkaConfig) -> bytes:
    """Return an event of 200 KB whose schema, written to the topic directly, contains itself."""
    schema = {
        "type": "record",
        "name": f"tidemill.Bomb{uuid.uuid4().hex}",
        "fields": [{"name": "next", "type": ["null", "tidemill.Bomb"]}],
    }
    schema["fields"] = [{"name": "next", "type": ["null", schema["name"]]}]
    prefix = single_object_prefix(schema)
    key = f"elsewhere/Bomb/{prefix[2:].hex()}".encode()
    write_all(kafka, topics.SCHEMAS, [(key, json.dumps(schema).encode())])
    return prefix + b"\x02" * 200_000


@pytest.mark.soak
def test_more_poison_than_the_loop_allows_stops_the_worker(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """With a wrong schema registry all is unreadable, and the topic must not be emptied."""
    rig = new_rig(kafka, tmp_path, idle_after="1h", partitions=1, max_bad={"share": 0.3, "of": 200})
    producer = rig.producer()
    unknown = b"\xc3\x01" + os.urandom(8)
    topic = topics.decisions(rig.loop.loop)
    for number in range(200):
        producer.decide(f"n{number}", START + number * SECOND / 10)
        if number % 5 == 0:
            producer.send(topic, "junk", unknown + b"a few of them are no reason to stop")
    producer.flush()
    with rig.worker():
        until(rig.is_read, "what the loop allows goes to the dead letters")
    known = rig.dead_letters()
    assert len(known) == 40
    for number in range(300):
        producer.send(topic, "junk", unknown + b"%d" % number)
    producer.flush()
    for _supervisor_starts_it_again in range(2):
        assert rig.ended() == EXIT_REFUSED
    assert len(rig.dead_letters()) <= len(known) + 60, "no more than one stretch allows"
    assert committed(rig) < 400
    said = rig.log().rsplit("the worker ends: ", 1)[1]
    assert f"{topic}/0: " in said
    assert "unknown-schema" in said
    assert "hint: were these schemas registered" in said
    assert "--accept-bad 20" in said
    accepted = datetime.now(UTC) + timedelta(minutes=1)
    with rig.worker(TIDEMILL_ACCEPT_BAD=accepted.isoformat()):
        until(rig.is_read, "what an operator accepts goes to the dead letters")
    with rig.worker():
        until(rig.is_read, "it is counted no more")
    assert len({dead_letter.offset for dead_letter in rig.dead_letters()}) == 340
    for number in range(1_000):
        producer.send(topic, "junk", unknown + b"%d" % number)
    producer.flush()
    rig.loop = rig.loop.model_validate(
        rig.loop.model_dump(mode="json") | {"version": 2, "max_bad": {"share": 1.0}}
    )
    publish_loop(kafka, rig.loop)
    with rig.worker():
        until(rig.is_read, "without the limit all of it goes to the dead letters")
    assert len({dead_letter.offset for dead_letter in rig.dead_letters()}) == 1_340
    assert_exact(rig)


@pytest.mark.soak
def test_late_truth_revises_what_is_closed_whatever_happens_to_the_worker(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """Conformance 13. Only the lake has the decisions that may be corrected."""
    rig = new_rig(kafka, tmp_path, idle_after="1h", corrections="1h", partitions=2)
    producer, later = rig.producer(), START + 300 * SECOND
    for number in range(2_000):
        producer.decide(f"d{number}", START + number * SECOND / 100)
    for number in range(rig.loop.partitions):
        end_of_log = (f"end{number}", later)
        names = (topics.decisions(rig.loop.loop), topics.feedback(rig.loop.loop))
        producer.send(names[0], "end", producer.decision(*end_of_log), number)
        producer.send(names[1], "end", producer.click(*end_of_log), number)
    producer.flush()
    worker = rig.start()
    until(lambda: rig.rows("examples") == 2_000, "the windows are closed")
    for part in range(4):
        for number in range(part * 500, part * 500 + 500):
            producer.feed(f"d{number}", START + 30 * SECOND)
        producer.flush()
        if part % 2:
            worker.kill()
            worker.wait()
            worker = rig.start()
        at_least = 2_000 + part * 500
        until(partial(has_examples, rig, at_least), "revisions are written")
    until(partial(has_examples, rig, 4_000), "the last revision is written")
    assert end(worker) == 0
    with rig.worker():
        rig.close(later)
        until(rig.is_done, "the last windows are closed")
    assert_exact(rig)
    found = rig.examples()
    assert found.filter(revision=1)["state"].to_list() == ["labeled"] * 2_000
    assert found.filter(pl.col("revision") > 1).is_empty()
    corrected = [each.ends["corrected"] for each in rig.accounts() if each.log == "feedback"]
    assert sum(corrected) == 2_000


def has_examples(rig: Rig, rows: int) -> bool:
    """Return whether there are so many rows of examples, revisions included."""
    return rig.rows("examples") >= rows


def test_a_worker_ends_before_its_interval_does_and_leaves_nothing_uncommitted(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """Deployments replace workers all the time; no work may be done twice after them."""
    rig = new_rig(kafka, tmp_path, idle_after="1h")
    send_traffic(rig.producer(), range(3_000), seed=8)
    worker = rig.start(**NEVER)
    until(lambda: rig.taken(worker) >= sum(rig.ends().values()), "it has polled everything")
    assert end(worker) == 0
    assert rig.is_read()


def test_a_new_version_of_the_loop_is_taken_up_at_once(kafka: KafkaConfig, tmp_path: Path) -> None:
    """A worker that continued with the old version would leave out new features."""
    rig = new_rig(kafka, tmp_path, idle_after="1h")
    old = rig.producer()
    old.decide("old", START)
    old.flush()
    with rig.worker() as worker:
        until(lambda: rig.rows("decisions") == 1, "the old version is read")
        rig.loop = rig.loop.model_validate(
            rig.loop.model_dump(mode="json")
            | {
                "version": 2,
                "features": rig.loop.model_dump(mode="json")["features"]
                | {"weather": {"type": "category", "nullable": True}},
            }
        )
        publish_loop(kafka, rig.loop)
        new = rig.producer()
        new.decide("new", START + SECOND, weather="rain")
        new.flush()
        until(lambda: rig.rows("decisions") == 2, "the new version is read")
        rig.close(START + SECOND)
        until(rig.is_done, "both are closed")
        assert worker.poll() is None, "it is the same process"
    weather = rig.examples().unnest("features")["weather"].to_list()
    assert weather == ["rain", None]
    assert_exact(rig)


def test_the_group_of_a_worker_is_that_of_the_loops_it_was_asked_for() -> None:
    """With the second loop that was published, the lag of the first group grew for ever."""
    assert group_name([]) == "tidemill-streams"
    assert group_name(["shop"]) == "tidemill-shop"
    assert group_name(["shop", "news"]) == group_name(["news", "shop"]) == "tidemill-news+shop"


def test_a_worker_that_starts_before_its_broker_waits_for_it(
    own_kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    """It ended after 30 s, and its supervisor waited longer from start to start."""
    rig = new_rig(own_kafka.config, tmp_path)
    own_kafka.kill()
    worker = rig.start()
    try:
        until(lambda: "the worker waits for Kafka" in rig.log(), "it tells")
        own_kafka.start(timeout_s=START_S)
        producer = rig.producer()
        send_traffic(producer, range(100), seed=1)
        until(rig.is_read, "it reads")
        assert worker.poll() is None
    finally:
        assert end(worker) == 0

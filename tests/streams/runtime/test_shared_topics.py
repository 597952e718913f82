"""What others write on the shared topics, and what one loop is like, costs no other loop."""

import json
import subprocess
import urllib.request
from datetime import timedelta
from pathlib import Path

import pytest
from tests.streams.rig import START, WORKER, Rig, assert_exact, end, new_loop, new_rig, until

from tidemill.deploy.local.kafka import EmbeddedKafka
from tidemill.kafka import KafkaConfig, Topic, ensure_topics, write_all
from tidemill.schemas import topics
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import key_of, publish_loop
from tidemill.streams.runtime.worker import EXIT_REFUSED

pytestmark = pytest.mark.kafka

MINUTE = timedelta(minutes=1)

JUNK: list[tuple[bytes, bytes | None]] = [
    (b"junk/1", b"not json"),
    (b"\xff\xfe/1", b"\x1b[31m\xff"),
    ("banner/²".encode(), b"{}"),
    (b"", b""),
]


def named(rig: Rig, *loops: str) -> Rig:
    """Return *rig* with workers for *loops* instead of its own; for all published without names."""
    rig.program = ("-c", f"import sys; sys.argv[1:] = {loops!r}\n{WORKER}")
    return rig


def health(rig: Rig, worker: "subprocess.Popen[bytes]") -> dict[str, object]:
    """Return the health page of *worker*."""
    address = f"http://127.0.0.1:{rig.ports[worker.pid]}/healthz"
    with urllib.request.urlopen(address, timeout=60) as answer:
        page: dict[str, object] = json.loads(answer.read())
    return page


def send(rig: Rig, first: int, count: int = 50) -> None:
    """Send decisions and clicks of a minute of their own, and the end of the minute after it."""
    producer = rig.producer()
    for number in range(first, first + count):
        at = START + first * MINUTE + timedelta(seconds=number - first)
        producer.decide(f"d{number}", at)
        producer.feed(f"d{number}", at + timedelta(seconds=1))
    producer.flush()


def is_learned(rig: Rig, examples: int) -> bool:
    """Return whether the lake has so many examples."""
    return rig.rows("examples") >= examples


def test_a_nameless_worker_runs_what_is_fit_and_takes_up_what_is_mended(
    own_kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    """One record, or one loop, must not end the loops of everybody else."""
    kafka = own_kafka.config
    healthy = new_loop(partitions=1)
    publish_loop(kafka, healthy)
    homeless = new_loop(partitions=1)
    unlabelled = new_loop(label={"sql": "nonsense(amount)", "type": "bool"}, partitions=1)
    misshapen = new_loop(partitions=1)
    ensure_topics(kafka, [Topic(name=topics.decisions(misshapen.loop), partitions=3)])
    ensure_topics(kafka, [Topic(name=topics.feedback(misshapen.loop), partitions=3)])
    unfit = [homeless, unlabelled, misshapen]
    written = [(key_of(loop), loop.canonical.encode()) for loop in unfit]
    write_all(kafka, topics.LOOPS, [*JUNK, *written])
    rig = named(Rig(kafka, healthy, tmp_path))
    worker = rig.start()
    try:
        send(rig, 0)
        until(rig.is_read, "the healthy loop is read")
        page = health(rig, worker)
        assert page["running"] == {healthy.loop: 1}
        assert page["refused"].keys() == {loop.loop for loop in unfit}  # type: ignore[attr-defined]
        assert rig.metric(worker, "tidemill_loop_refused{") == 3
        bad_loops = f'tidemill_bad_shared_records{{topic="{topics.LOOPS}"}}'
        assert rig.metric(worker, bad_loops) == len(JUNK)
        write_all(kafka, topics.LOOPS, [(b"junk/2", b"again")])
        write_all(kafka, topics.CONTROL, [(b"\xff\xfe", b"1"), (b"close/x", b"\xff"), (b"x", b"y")])
        write_all(kafka, topics.SCHEMAS, [(b"\xff\xfe", b"1"), (b"a/b", b"[" * 90_000)])
        publish_loop(kafka, homeless)
        until(lambda: homeless.loop in str(health(rig, worker)["running"]), "it is taken up")
        write_all(kafka, topics.LOOPS, [(b"junk/1", None), (b"junk/2", None)])
        send(rig, 50)
        rig.close(START + 200 * MINUTE)
        until(lambda: is_learned(rig, 100), "the healthy loop goes on")
        until(
            lambda: rig.metric(worker, bad_loops) == len(JUNK) - 1, "what was mended is forgotten"
        )
        control = f'tidemill_bad_shared_records{{topic="{topics.CONTROL}"}}'
        assert rig.metric(worker, control) == 3
    finally:
        code = end(worker)
    assert code == 0
    said = rig.log()
    assert said.count("key 'junk/1'") == 1
    assert said.count("key '\\xff\\xfe/1'") == 1
    assert "\x1b" not in said
    assert said.count(f"version 1 of {unlabelled.loop} is refused") == 1
    assert_exact(rig)


def changed(loop: Loop, **changes: object) -> Loop:
    """Return *loop* with *changes*."""
    return Loop.model_validate({**loop.model_dump(mode="json"), **changes})


def restarts(rig: Rig) -> int:
    """Return how often the workers of *rig* have begun anew."""
    return rig.log().count("restarting with the newest")


def test_a_version_that_cannot_be_read_or_was_withdrawn_is_no_reason_to_begin_anew(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """A worker that begins anew for ever reads nothing, hears no signal, and leaks."""
    rig = new_rig(kafka, tmp_path, partitions=1)
    name = rig.loop.loop
    withdrawn = changed(rig.loop, version=3)
    junk = f"{name}/2".encode()
    write_all(kafka, topics.LOOPS, [(junk, b"junk"), (key_of(withdrawn), b"{}")])
    records = [(key_of(withdrawn), withdrawn.canonical.encode()), (key_of(withdrawn), None)]
    write_all(kafka, topics.LOOPS, records)
    worker = rig.start()
    try:
        send(rig, 0)
        until(rig.is_read, "it reads")
        write_all(kafka, topics.LOOPS, [(junk, None), *records])
        send(rig, 50)
        until(rig.is_read, "it goes on")
        assert restarts(rig) == 0
        newer = changed(rig.loop, version=4, grace="11s")
        publish_loop(kafka, newer)
        until(lambda: health(rig, worker)["running"] == {name: 4}, "it takes up a real one")
        assert restarts(rig) == 1
    finally:
        assert end(worker) == 0
    assert "the worker ends as asked" in rig.log()


def test_a_loop_that_was_named_and_is_unfit_has_an_exit_status_of_its_own(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """The supervisor shows the status, and a script can tell it from a crash."""
    loop = new_loop(partitions=1)
    ensure_topics(kafka, [Topic(name=topics.decisions(loop.loop), partitions=3)])
    write_all(kafka, topics.LOOPS, [(key_of(loop), loop.canonical.encode())])
    rig = Rig(kafka, loop, tmp_path)
    assert rig.ended() == EXIT_REFUSED
    assert f"{topics.decisions(loop.loop)} has 3" in rig.log()
    assert "hint: a decision and its feedback must share a partition" in rig.log()
    assert named(rig, "nobody").ended() == EXIT_REFUSED
    assert "no loop 'nobody' is published" in rig.log()


def test_events_of_a_newer_version_that_is_unfit_are_not_read_as_those_of_the_older(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """Its new features would be missing for ever, and nobody would know."""
    rig = new_rig(kafka, tmp_path, partitions=1)
    newer = changed(rig.loop, version=2, label={"sql": "nonsense(amount)", "type": "bool"})
    write_all(kafka, topics.LOOPS, [(key_of(newer), newer.canonical.encode())])
    worker = rig.start()
    try:
        send(rig, 0)
        until(rig.is_read, "the last good version goes on")
        assert health(rig, worker)["running"] == {rig.loop.loop: 1}
        assert rig.metric(worker, "tidemill_loop_refused{") == 1
        read, old = sum(rig.ends().values()), rig.loop
        rig.loop = newer
        send(rig, 50)
        assert worker.wait(300) == EXIT_REFUSED
    finally:
        end(worker)
    assert sum(rig.rows(table) for table in ("decisions", "feedback")) == read
    assert "nonsense" in rig.log().rsplit("the worker ends: ", 1)[1]
    rig.loop = changed(old, version=3)
    publish_loop(kafka, rig.loop)
    with rig.worker():
        until(rig.is_read, "a version that is fit reads them")
    assert_exact(rig)


def test_a_loop_with_too_much_poison_stops_alone(kafka: KafkaConfig, tmp_path: Path) -> None:
    """Ten loops of other teams share the worker with the one whose producer broke."""
    rig = new_rig(kafka, tmp_path, partitions=1)
    poisoned = Rig(kafka, new_loop(partitions=1, max_bad={"share": 0.1, "of": 50}), tmp_path)
    publish_loop(kafka, poisoned.loop)
    worker = named(rig, rig.loop.loop, poisoned.loop.loop).start()
    try:
        send(poisoned, 0, 10)
        send(rig, 0)
        until(lambda: rig.is_read() and poisoned.is_read(), "both are read")
        producer = poisoned.producer()
        for _ in range(50):
            producer.send(topics.decisions(poisoned.loop.loop), "junk", b"junk")
        producer.flush()
        until(lambda: poisoned.loop.loop in str(health(rig, worker)["refused"]), "it is refused")
        send(rig, 50)
        until(rig.is_read, "the other one goes on")
        assert health(rig, worker)["running"] == {rig.loop.loop: 1}
    finally:
        code = end(worker)
    assert code == EXIT_REFUSED
    assert f"{poisoned.loop.loop}.decisions/0: " in rig.log()
    assert poisoned.rows("decisions") == 10
    assert_exact(rig)


def test_a_loop_whose_table_refuses_stops_alone(kafka: KafkaConfig, tmp_path: Path) -> None:
    """One damaged table ended the worker for all loops of the lake, at each restart."""
    rig = new_rig(kafka, tmp_path, partitions=1)
    damaged = Rig(kafka, new_loop(partitions=1), tmp_path)
    publish_loop(kafka, damaged.loop)
    worker = named(rig, rig.loop.loop, damaged.loop.loop).start(TIDEMILL_PATIENCE_S="1")
    log = tmp_path / "lake" / damaged.loop.loop / "decisions" / "_delta_log"
    try:
        send(damaged, 0, 10)
        send(rig, 0)
        until(lambda: rig.is_read() and damaged.is_read(), "both are read")
        log.rename(log.with_name("aside"))
        log.write_text("no folder any more")
        send(damaged, 10, 10)
        until(lambda: damaged.loop.loop in str(health(rig, worker)["refused"]), "it is refused")
        send(rig, 50)
        until(rig.is_read, "the other one goes on")
        assert health(rig, worker)["running"] == {rig.loop.loop: 1}
        assert rig.metric(worker, "tidemill_loop_refused{") == 1
    finally:
        code = end(worker)
    assert code == EXIT_REFUSED
    assert f"version 1 of {damaged.loop.loop} is refused: " in rig.log()
    assert_exact(rig)
    log.unlink()
    log.with_name("aside").rename(log)
    with damaged.worker():
        until(damaged.is_read, "it goes on from the last commit")
    assert_exact(damaged)

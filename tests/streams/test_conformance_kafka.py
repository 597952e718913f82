"""The cases of the join that are about delivery, once more: real Kafka, real workers.

Numbers and names are those of `test_conformance.py`.
"""

import random
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
from tests.streams.faults import FEEDBACK, SECOND, committed, two_kinds
from tests.streams.rig import START, PlainProducer, Rig, assert_exact, new_rig, send_traffic, until

from tidemill.kafka import KafkaConfig
from tidemill.monitor.ledger import Account
from tidemill.schemas.logs import log_of
from tidemill.schemas.published import publish_loop

pytestmark = pytest.mark.kafka

NEVER = {"TIDEMILL_COMMIT_S": "3600", "TIDEMILL_COMMIT_ROWS": "1000000000"}
SMALL = {"TIDEMILL_FETCH_RECORDS": "300", "TIDEMILL_COMMIT_ROWS": "500", "TIDEMILL_COMMIT_S": "0.2"}
BEFORE, MEANWHILE, LATE = 300, 6_000, 7


def test_each_case_about_delivery_has_a_test_of_its_number() -> None:
    """What the pure core guarantees must hold with real Kafka around it."""
    found = re.findall(r"^def test_case_(\d+)_", Path(__file__).read_text(), re.MULTILINE)
    assert {int(number) for number in found} == {5, 6, 9, 10, 11, 12, 13, 20}


def test_case_5_an_idle_partition_closes_by_the_clock(kafka: KafkaConfig, tmp_path: Path) -> None:
    """The last window of a quiet topic has no next event that could close it."""
    short = {"click": {"within": "2s", "values": {"amount": "float"}}}
    rig = new_rig(kafka, tmp_path, feedback=short, grace="1s", idle_after="1s")
    producer = rig.producer()
    producer.decide("a", START)
    producer.decide("b", START + SECOND)
    producer.feed("a", START + SECOND)
    producer.flush()
    with rig.worker():
        until(rig.is_done, "the windows close without a next event")
    assert states(rig) == {"a": "labeled", "b": "no_feedback"}
    assert_exact(rig, idle=True)


@dataclass(frozen=True)
class Outage:
    """A loop whose worker was down, came back to a backlog, and then got late clicks."""

    rig: Rig
    before_late: pl.DataFrame


@pytest.fixture(scope="module")
def outage(kafka: KafkaConfig, tmp_path_factory: pytest.TempPathFactory) -> Outage:
    """One run for three cases; its worker is under pressure: small fetches, small commits."""
    rig = two_kinds(kafka, tmp_path_factory.mktemp("outage"))
    producer = rig.producer()
    for number in range(BEFORE):
        producer.decide(f"d{number}", START + number * SECOND / 10)
    producer.flush()
    with rig.worker() as worker:
        until(rig.is_read, "the decisions are read")
        worker.kill()
        worker.wait()
    last = send_backlog(producer)
    with rig.worker(**SMALL):
        until(rig.is_read, "the backlog is read")
        rig.close(START + 30 * SECOND)
        until(lambda: first_examples(rig).height == BEFORE, "the old windows are closed")
        before_late = first_examples(rig)
        for number in range(1, 2 * LATE, 2):
            producer.feed(f"d{number}", START + (number / 10 + 1) * SECOND, id=f"late{number}")
        producer.flush()
        until(rig.is_read, "the late clicks are read")
        rig.close(last + 10 * SECOND)
        until(rig.is_done, "everything is closed")
    return Outage(rig, before_late)


def send_backlog(producer: PlainProducer) -> datetime:
    """Send events while nobody reads: feedback of old decisions, and five minutes of new ones."""
    for number in range(0, BEFORE, 2):
        producer.feed(f"d{number}", START + (number / 10 + 1) * SECOND)
    at = START
    for number in range(MEANWHILE):
        at = START + (31 + number / 20) * SECOND
        producer.decide(f"e{number}", at)
        if number % 3 == 0:
            kind = "click" if number % 2 else "buy"
            producer.feed(f"e{number}", at, kind=kind)
    producer.flush()
    return at


def first_examples(rig: Rig) -> pl.DataFrame:
    """Return the examples of the decisions made before the outage."""
    ours = pl.col("decision_id").str.starts_with("d")
    return rig.examples().filter(ours).select("decision_id", "state", "label", "feedback_offsets")


def states(rig: Rig) -> dict[str, str]:
    """Return the state of each example."""
    return dict(rig.examples().select("decision_id", "state").iter_rows())


def test_case_6_catching_up_after_an_outage_skips_no_join(outage: Outage) -> None:
    """Feedback that came while nobody read joins the decisions that were read before."""
    found = states(outage.rig)
    wanted = {f"d{number}": number % 2 == 0 for number in range(BEFORE)}
    wanted |= {f"e{number}": number % 3 == 0 for number in range(MEANWHILE)}
    assert {key: state == "labeled" for key, state in found.items()} == wanted
    assert_exact(outage.rig)


def test_case_9_pressure_never_drops_silently(outage: Outage) -> None:
    """However little is read at once, broker and lake have the same number of records."""
    ends = outage.rig.ends()
    accounts = outage.rig.accounts()
    assert {(each.log, each.partition): each.read for each in accounts} == ends
    assert not [each for each in accounts if each.lost or each.twice or each.difference]
    assert outage.rig.examples().height == BEFORE + MEANWHILE


def test_case_13_late_feedback_is_visible_with_counts(outage: Outage) -> None:
    """Late clicks change no example here, and the ledger says how many there were."""
    assert first_examples(outage.rig).equals(outage.before_late)
    assert total(outage.rig.accounts(), "feedback", "late") == LATE


def total(accounts: list[Account], log: str, end: str) -> int:
    """Return how many records of *log* ended so, over all partitions."""
    return sum(each.ends[end] for each in accounts if each.log == log)


def test_case_10_a_crash_between_poll_and_write_loses_nothing(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """Records that were read and not written are lost with the process, and read again."""
    rig = two_kinds(kafka, tmp_path)
    last = send_traffic(rig.producer(), range(4_000), seed=7)
    worker = rig.start(**NEVER)
    until(lambda: rig.taken(worker) >= sum(rig.ends().values()), "it has polled everything")
    worker.kill()
    worker.wait()
    assert committed(rig) == 0
    with rig.worker():
        rig.close(last + 10 * SECOND)
        until(rig.is_done, "the next one reads it again")
    assert_exact(rig)


def test_case_11_the_first_start_reads_from_the_beginning(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """A loop has events before its first worker starts, and they count."""
    rig = new_rig(kafka, tmp_path, partitions=1)
    producer = rig.producer()
    producer.decide("first", START)
    producer.flush()
    with rig.worker():
        until(lambda: rig.rows("decisions") == 1, "the decision from before")
    assert rig.accounts()[0].read == 1


def test_case_12_a_rebalance_inside_a_window_leaves_no_gap_and_no_double(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """The decision is read by one worker, its feedback by another."""
    rig = new_rig(kafka, tmp_path, idle_after="1h")
    producer = rig.producer()
    for number in range(400):
        producer.decide(f"d{number}", START + number * SECOND / 100)
    producer.flush()
    with rig.worker():
        until(rig.is_read, "decisions are read")
        with rig.worker():
            until(lambda: rig.log().count("owns partitions") >= 3, "the second one has some")
            for number in range(0, 400, 2):
                producer.feed(f"d{number}", START + number * SECOND / 100 + SECOND)
            producer.flush()
            rig.close(START + 4 * SECOND)
            until(rig.is_done, "both have closed theirs")
    assert dict(rig.examples()["state"].value_counts().iter_rows()) == {
        "labeled": 200,
        "no_feedback": 200,
    }
    assert_exact(rig)


@pytest.mark.soak
def test_case_20_shuffled_delivery_any_batches_any_crashes_give_the_same_rows(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """Events out of order, none of them late, in small batches, to workers that are killed."""
    straight, shuffled = (two_kinds(kafka, tmp_path / name) for name in ("one", "two"))
    send(straight, events(0.0))
    with straight.worker():
        until(straight.is_read, "it is read")
        straight.close(START + 300 * SECOND)
        until(straight.is_done, "it is closed")
    mixed = events(8.0)
    for part in (mixed[:2_000], mixed[2_000:4_000]):
        with shuffled.worker(**SMALL) as worker:
            before = committed(shuffled)
            send(shuffled, part)
            until(lambda before=before: committed(shuffled) > before, "it commits")  # type: ignore[misc]
            worker.kill()
    with shuffled.worker(**SMALL):
        send(shuffled, mixed[4_000:])
        until(shuffled.is_read, "it is read")
        shuffled.close(START + 300 * SECOND)
        until(shuffled.is_done, "it is closed")
    assert meaning(straight).equals(meaning(shuffled))
    assert_exact(shuffled)


def events(disorder_s: float) -> list[tuple[float, str, str, float]]:
    """Return (at, kind, decision id, amount) of the same events, each moved by so much at most."""
    draw, order = random.Random(1), random.Random(2)
    made = []
    for number in range(3_000):
        made.append((number / 20, "", f"d{number}", 0.0))
        for kind in ("click", "buy"):
            if draw.random() < 0.5:
                at = number / 20 + draw.uniform(-2.0, 70.0)
                made.append((at, kind, f"d{number}", draw.random()))
    return sorted(made, key=lambda event: event[0] + order.uniform(0.0, disorder_s))


def send(rig: Rig, some: list[tuple[float, str, str, float]]) -> None:
    """Send events in their order."""
    producer = rig.producer()
    for at, kind, key, amount in some:
        if kind:
            own = f"{kind}-{key}"
            producer.feed(key, START + at * SECOND, id=own, amount=amount, kind=kind)
        else:
            producer.decide(key, START + at * SECOND)
    producer.flush()


def meaning(rig: Rig) -> pl.DataFrame:
    """Return the examples without the positions of their records in the logs."""
    joined = pl.col("feedback_offsets").list.len().alias("joined")
    return rig.examples().select("decision_id", "at", "state", "label", "first_feedback_at", joined)


@pytest.mark.soak
def test_three_streams_in_one_join_whatever_is_killed(kafka: KafkaConfig, tmp_path: Path) -> None:
    """Clicks and orders come to topics of two teams; their rows are those of the oracle."""
    orders = FEEDBACK["buy"] | {"stream": "orders"}
    rig = new_rig(kafka, tmp_path, feedback={**FEEDBACK, "buy": orders}, idle_after="1h")
    assert {log for log, _ in rig.ends()} == {"decisions", "feedback", "feedback.orders"}
    producer = rig.producer()
    send_traffic(producer, range(2_000), seed=3)
    with rig.worker(**SMALL) as worker:
        until(lambda: committed(rig), "it commits")
        worker.kill()
    last = send_traffic(producer, range(2_000, 3_000), seed=4)
    broken = producer.click("d1", START, kind="buy")[:-3]
    producer.send(f"{rig.loop.loop}.feedback.orders", "d1", broken)
    producer.flush()
    with rig.worker(**SMALL):
        until(rig.is_read, "it is read")
        assert not rig.is_done()
        rig.close(last + 10 * SECOND)
        until(rig.is_done, "everything is closed")
    assert_exact(rig)
    joined = rig.examples()["feedback_offsets"].explode().drop_nulls()
    streams = {log_of(position, rig.loop.logs) for position in joined}
    assert streams == {"feedback", "feedback.orders"}
    (letter,) = rig.dead_letters()
    assert letter.fields["topic"] == f"{rig.loop.loop}.feedback.orders"
    ends = [end for (log, _), end in rig.ends().items() if log == "feedback.orders"]
    assert letter.offset < max(ends), "the Kafka offset, not the log position"


def test_a_version_that_adds_a_stream_is_adopted_by_all_workers(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """While they restart one after the other, some read a log that others do not read yet."""
    rig = two_kinds(kafka, tmp_path)
    send_traffic(rig.producer(), range(1_000), seed=5)
    with rig.worker() as first, rig.worker() as second:
        until(rig.is_read, "the old version is read")
        plain = rig.loop.model_dump(mode="json")
        returned = {"within": "60s", "stream": "returns", "values": {"amount": "float"}}
        plain["feedback"]["returned"] = returned
        rig.loop = rig.loop.model_validate(plain | {"version": 2})
        publish_loop(kafka, rig.loop)
        last = send_traffic(rig.producer(), range(1_000, 3_000), seed=6)
        until(rig.is_read, "the new version is read")
        rig.close(last + 10 * SECOND)
        until(rig.is_done, "everything is closed")
        assert (first.poll(), second.poll()) == (None, None), "both are the same processes"
    states = rig.lake.table(rig.loop.loop, "feedback").read(["kind", "verdict"])
    assert states.filter(pl.col("kind") == "returned").height > 0
    for account in rig.accounts():
        assert account.is_balanced, account

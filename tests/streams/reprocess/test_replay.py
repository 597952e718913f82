"""Replays over a real broker: equal to the live worker's lake, and without effect on it."""

import signal
import subprocess
from pathlib import Path

import polars as pl
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from tests.streams.rig import START, Rig, assert_exact, new_rig, send_traffic, until

from tidemill.cli.app import main
from tidemill.deploy.local.supervisor import tidemill_command
from tidemill.kafka import KafkaConfig
from tidemill.schemas import topics
from tidemill.schemas.logs import DECISIONS
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import publish_loop

pytestmark = pytest.mark.kafka

AMOUNT = {"values": {"amount": "float"}}
STREAMS = {
    "click": {"within": "60s", **AMOUNT},
    "buy": {"within": "4s", "stream": "orders", **AMOUNT},
}
"""Three topics: a replay reads each to its end."""


def replayed(rig: Rig, folder: Path, *more: str) -> Rig:
    """Replay the topics of *rig* into a lake in *folder*."""
    command = tidemill_command("replay", rig.loop.loop, "--into", str(folder / "lake"), *more)
    subprocess.run(command, env=rig.environment(), check=True)
    return Rig(rig.kafka, rig.loop, folder)


def rows(rig: Rig, table: str) -> pl.DataFrame:
    """Return a table by partition and offset."""
    return rig.lake.table(rig.loop.loop, table).read().sort("partition", "offset")


def test_a_replay_gives_the_tables_of_the_live_worker(kafka: KafkaConfig, tmp_path: Path) -> None:
    """All three tables, row by row; the worker keeps its partitions and its group its offsets."""
    rig = new_rig(kafka, tmp_path, idle_after="1h", feedback=STREAMS)
    last = send_traffic(rig.producer(), range(6_000), seed=5)
    with rig.worker() as worker:
        rig.close(last)
        until(rig.is_done, "the live lake is done")
        again = replayed(rig, tmp_path / "again", "--until", last.isoformat())
        assert worker.poll() is None
        assert rig.log().count("owns partitions") == 1, "nobody made it rebalance"
    for table in ("decisions", "feedback", "examples"):
        assert rows(again, table).equals(rows(rig, table)), table
    assert_exact(again)
    for partition in ("1", "3"):
        chosen = ("--until", last.isoformat(), "--partition", partition)
        part = replayed(rig, tmp_path / "part", *chosen)
    for table in ("decisions", "feedback", "examples"):
        wanted = rows(rig, table).filter(pl.col("partition").is_in([1, 3]))
        assert rows(part, table).equals(wanted), table
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})  # held until it has answered
    groups = admin.list_consumer_groups().result()
    assert not [each for each in groups.valid if each.group_id.startswith("tidemill-replay")]


def abort(rig: Rig) -> None:
    """Write an aborted transaction at the end of a log: its offsets have no record to read."""
    producer = Producer(
        {"bootstrap.servers": rig.kafka.bootstrap, "transactional.id": f"{rig.loop.loop}-aborted"}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    value = rig.producer().decision("never", START)
    producer.produce(topics.decisions(rig.loop.loop), value, b"never", 0)
    producer.flush(30)
    producer.abort_transaction(30)


def test_a_backfill_gives_what_a_replay_by_the_new_version_gives(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """Two ways to another window: the rows of the lake, and the topics from their first record."""
    rig = new_rig(kafka, tmp_path, idle_after="1h", feedback=STREAMS)
    last = send_traffic(rig.producer(), range(6_000), seed=9)
    with rig.worker():
        until(rig.is_read, "the live lake has everything")
    abort(rig)
    command = tidemill_command("backfill", rig.loop.loop, "--name", "wide", "--within", "click=5s")
    subprocess.run([*command, "--grace", "6s"], env=rig.environment(), check=True)
    tree = rig.loop.model_dump(mode="json") | {"version": 2, "grace": "6s"}
    tree["feedback"]["click"]["within"] = "5s"
    publish_loop(kafka, Loop.model_validate(tree))
    again = replayed(rig, tmp_path / "again", "--until", last.isoformat())
    of_replay = rows(again, "examples")
    found = rows(rig, "examples@wide").select(of_replay.columns)
    wanted = of_replay.join(found, on=["partition", "offset"], how="semi")
    assert found.equals(wanted.sort("partition", "offset"))
    assert 0 < len(found) < len(of_replay), "only the end of the replay has closed the last windows"


@pytest.mark.soak
def test_an_interrupted_replay_continues_and_a_worker_can_use_its_lake(
    kafka: KafkaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was ended by Ctrl-C and by `kill -9`. The result is a lake like any other."""
    rig = new_rig(kafka, tmp_path, idle_after="1h")
    last = send_traffic(rig.producer(), range(8_000), seed=6)
    again = Rig(kafka, rig.loop, tmp_path / "again")
    again.folder.mkdir()
    command = tidemill_command("replay", rig.loop.loop, "--into", str(again.folder / "lake"))
    small = {"TIDEMILL_FETCH_RECORDS": "300", "TIDEMILL_COMMIT_ROWS": "600"}
    for number, status in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        before = again.rows("decisions")
        process = subprocess.Popen(command, env=rig.environment(**small))
        until(lambda least=before: again.rows("decisions") > least, "it commits")  # type: ignore[misc]
        process.send_signal(number)
        assert process.wait() == status
    assert again.rows("decisions") < 8_000, "it was not at its end"
    replayed(rig, again.folder)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap)
    assert main(command[3:]) == 2, "it is complete, and no target of a replay any more"
    last = max(last, send_traffic(again.producer(), range(8_000, 9_000), seed=7))
    with again.worker():
        again.close(last)
        until(again.is_done, "the worker goes on behind the replay")
    assert_exact(again)


def test_records_that_kafka_has_deleted_are_reported(
    kafka: KafkaConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A lake that silently begins in March is worse than none."""
    rig = new_rig(kafka, tmp_path, idle_after="1h")
    send_traffic(rig.producer(), range(500), seed=8)
    admin, topic = (
        AdminClient({"bootstrap.servers": kafka.bootstrap}),
        topics.decisions(rig.loop.loop),
    )
    whole = rig.ends()[DECISIONS, 1]
    places = [TopicPartition(topic, 0, 3), TopicPartition(topic, 1, whole)]
    for done in admin.delete_records(places).values():
        done.result()
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap)
    arguments = ["replay", rig.loop.loop, "--into", str(tmp_path / "rest")]
    assert main(arguments) == 2
    assert f"deleted the {whole + 3} oldest records" in capsys.readouterr().err
    rest = replayed(rig, tmp_path / "rest-of", "--partial", "--until", START.isoformat())
    left = sum(end for (log, _number), end in rig.ends().items() if log == "decisions")
    assert rest.rows("decisions") == left - 3 - whole

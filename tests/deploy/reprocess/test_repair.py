"""Lost rows are put back into the lake by the command that ledger, audit and sql print."""

import json
import re
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from polars.testing import assert_frame_equal
from tests.streams.rig import START, Rig, assert_exact, new_rig, send_traffic, until

from tidemill.cli.app import main
from tidemill.features.lake.lake import Lake, LakeConfig, Table
from tidemill.features.lake.layouts import TABLES
from tidemill.kafka import KafkaConfig
from tidemill.schemas import topics
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import publish_loop

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

Damage = Callable[[Rig], None]
PRINTED = re.compile(r"tidemill (lake repair [\w-]+(?: --partition \d+)?)")


@pytest.fixture(scope="module")
def written(kafka: KafkaConfig, tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """A closed lake of two versions of a loop, with copies, late records and corrections."""
    rig = new_rig(
        kafka, tmp_path_factory.mktemp("rig"), partitions=2, corrections="60s", idle_after="1h"
    )
    producer = rig.producer()
    with rig.worker():
        last = send_traffic(producer, range(1_500), seed=3, per_second=10.0)
        until(lambda: rig.is_read() and rig.rows("examples") > 300, "the first windows are closed")
        for number in range(500, 700):
            producer.feed(f"d{number}", START + timedelta(seconds=number / 10 + 20), amount=0.9)
        producer.flush()
        until(lambda: rig.is_read() and "revision" in str(newest_revision(rig)), "corrections")
        kinds = {"click": {"within": "50s", "values": {"amount": "float"}}}
        plain = rig.loop.model_dump(mode="json")
        rig.loop = Loop.model_validate(plain | {"version": 2, "feedback": kinds})
        publish_loop(kafka, rig.loop)
        last = send_traffic(rig.producer(), range(1_500, 3_000), seed=4, per_second=10.0)
        rig.close(last)
        until(rig.is_done, "all is closed")
    assert_whole(rig)
    return rig


def newest_revision(rig: Rig) -> str:
    """Return a word once an example was corrected."""
    rows = rig.lake.table(rig.loop.loop, "examples").read(["revision"])
    return "revision" if rows["revision"].max() else ""


def assert_whole(rig: Rig) -> None:
    """The figures of the fixture are worth repairing."""
    examples = rig.examples()
    assert examples["revision"].max() == 1
    assert set(examples["loop_version"].drop_nulls().unique()) <= {1, 2}
    decisions = rig.lake.table(rig.loop.loop, "decisions").read(["verdict"])["verdict"]
    assert {"late", "duplicate"} <= set(decisions.drop_nulls())


@pytest.fixture
def damaged(written: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A copy of that lake, to be damaged, which the environment names."""
    shutil.copytree(written.folder / "lake", tmp_path / "lake")
    rig = Rig(written.kafka, written.loop, tmp_path)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", rig.kafka.bootstrap)
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path / "lake"))
    return rig


def table_of(rig: Rig, name: str) -> Table:
    """Return a table of the lake of *rig*, without anything that was cached."""
    return Lake(LakeConfig(root=str(rig.folder / "lake"))).table(rig.loop.loop, name)


def rows_of(rig: Rig) -> dict[str, pl.DataFrame]:
    """Return all rows of all tables, in order."""
    found = {name: table_of(rig, name).read() for name in TABLES}
    keys = ["partition", "offset"]
    return {
        name: frame.sort([*keys, "revision"] if name == "examples" else keys)
        for name, frame in found.items()
    }


def lose_files(*names: str) -> Damage:
    """Return what removes every second data file of these tables."""

    def lose(rig: Rig) -> None:
        for name in names:
            for uri in table_of(rig, name).uris()[::2]:
                Path(uri).unlink()

    return lose


def cut_file(rig: Rig) -> None:
    """Leave the beginning of a data file."""
    file = Path(table_of(rig, "feedback").uris()[-1])
    file.write_bytes(file.read_bytes()[:100])


def remove_feedback(rig: Rig) -> None:
    """Remove one row, as a hand in the lake would."""
    table_of(rig, "feedback").handle().delete('"partition" = 1 AND "offset" = 17')


def remove_first_revisions(rig: Rig) -> None:
    """Remove what examples were before they were corrected."""
    table = table_of(rig, "examples")
    corrected = table.read(["offset", "partition", "revision"]).filter(pl.col("revision") > 0)
    row = corrected.row(0, named=True)
    table.handle().delete(
        f'"partition" = {row["partition"]} AND "offset" = {row["offset"]} AND revision = 0'
    )


def remove_newest_commit(rig: Rig) -> None:
    """Take the newest entry of the log of examples away, and what was made of it."""
    log = rig.folder / "lake" / rig.loop.loop / "examples" / "_delta_log"
    newest = max(log.glob("*.json"))
    for file in (*log.glob(f"{newest.stem}*"), log / "_last_checkpoint"):
        file.unlink(missing_ok=True)


def everything(rig: Rig) -> None:
    """Do all of it."""
    remove_first_revisions(rig)
    remove_feedback(rig)
    lose_files(*TABLES)(rig)


@pytest.mark.parametrize(
    ("damage", "shows"),
    [
        pytest.param(lose_files("decisions"), "sql", marks=pytest.mark.soak),
        pytest.param(lose_files("feedback"), "ledger", marks=pytest.mark.soak),
        (lose_files("examples"), "sql"),
        pytest.param(cut_file, "sql", marks=pytest.mark.soak),
        pytest.param(remove_feedback, "ledger", marks=pytest.mark.soak),
        pytest.param(remove_first_revisions, "audit", marks=pytest.mark.soak),
        pytest.param(remove_newest_commit, "audit", marks=pytest.mark.soak),
        pytest.param(everything, "audit", marks=pytest.mark.soak),
    ],
)
def test_the_printed_command_puts_exactly_the_lost_rows_back(
    damaged: Rig, capsys: pytest.CaptureFixture[str], damage: Damage, shows: str
) -> None:
    """The operator is told one command at night, and it has to be the right one."""
    before = rows_of(damaged)
    damage(damaged)
    name = damaged.loop.loop
    query = f'SELECT * FROM "{name.replace("-", "_")}".{{}}'
    looks = {
        "sql": [["sql", query.format(view)] for view in ("decision_states", "feedback_states")],
        "ledger": [["ledger", name]],
        "audit": [["audit", name]],
    }
    assert any([main(look) != 0 for look in looks[shows]])  # noqa: C419 (all are to be printed)
    printed = PRINTED.search("".join(capsys.readouterr()).replace("\n", " "))
    assert printed is not None
    assert main(printed[1].split()) == 0
    capsys.readouterr()
    after = rows_of(damaged)
    for table, rows in before.items():
        assert_frame_equal(after[table], rows)
    assert main(["ledger", name]) == 0, capsys.readouterr()
    assert main(["audit", name]) == 0, capsys.readouterr()
    assert_exact(damaged)
    assert main(["lake", "repair", name]) == 0
    assert "none, nothing is lost" in capsys.readouterr().out


@pytest.mark.soak
def test_a_repair_can_be_limited_to_a_partition_and_its_offsets(
    damaged: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    """A large table is repaired in parts, and what is left is found by the next call."""
    before, name = rows_of(damaged), damaged.loop.loop
    table_of(damaged, "feedback").handle().delete('"offset" IN (17, 20, 21, 30)')
    limits = ["--partition", "1", "--from", "18", "--to", "21"]
    assert main(["lake", "repair", name, *limits, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]["feedback"] == 2
    assert main(["audit", name]) == 1
    assert main(["lake", "repair", name]) == 0
    assert_frame_equal(rows_of(damaged)["feedback"], before["feedback"])


@pytest.mark.soak
def test_a_worker_goes_on_beside_a_repair(damaged: Rig) -> None:
    """A repair at noon must not be an outage."""
    with damaged.worker() as worker:
        until(lambda: "owns partitions" in damaged.log(), "it has its partitions")
        lose_files("decisions", "examples")(damaged)
        remove_feedback(damaged)
        assert main(["lake", "repair", damaged.loop.loop]) == 0
        last = send_traffic(damaged.producer(), range(3_000, 3_200), seed=5, per_second=10.0)
        damaged.close(last)
        until(damaged.is_done, "the worker reads on")
        assert worker.poll() is None
    assert damaged.log().count("owns partitions") == 1, "it was not fenced"
    assert main(["audit", damaged.loop.loop]) == 0
    assert_exact(damaged, idle=True)  # the records came after the logs were ended


@pytest.mark.soak
def test_rows_that_kafka_no_longer_has_are_refused(
    damaged: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of the rows would look like all of them."""
    files = {uri: Path(uri).read_bytes() for uri in table_of(damaged, "decisions").uris()}
    before = rows_of(damaged)
    lose_files("decisions")(damaged)
    topic = topics.decisions(damaged.loop.loop)
    admin = AdminClient({"bootstrap.servers": damaged.kafka.bootstrap})
    for future in admin.delete_records([TopicPartition(topic, 0, 1_000)]).values():
        future.result()
    assert main(["lake", "repair", damaged.loop.loop]) == 2
    error = capsys.readouterr().err
    assert "Kafka no longer has" in error
    assert "put the lost files back from a backup" in error
    for uri, content in files.items():
        Path(uri).write_bytes(content)
    assert_frame_equal(rows_of(damaged)["decisions"], before["decisions"])

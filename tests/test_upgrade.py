"""Old data stays readable: what every release has left behind is read, audited and gone on with.

The samples are in `tests/data`, one folder a release; its README says what is in one and when a new
one is due.
"""

import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable
from tests.data.contents import (
    accounts,
    acknowledgements,
    audits,
    backfilled,
    continued,
    definitions,
    deliveries,
    events,
    kept_scores,
    models,
    published_scores,
    rows_for,
    tables,
)
from tests.data.samples import (
    DATA,
    SUMS,
    VERSIONS,
    Sample,
    copy_of,
    go_on,
    restore,
    send_further,
    sums,
)
from tests.streams.rig import Rig

from tidemill import Client
from tidemill.deploy.local.kafka import EmbeddedKafka
from tidemill.features.audit.audit import audit
from tidemill.features.lake.lake import Lake
from tidemill.kafka import KafkaConfig
from tidemill.schemas import topics
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.manifest import payload_digest
from tidemill.schemas.models.river_state import LinearState
from tidemill.schemas.models.signing import SigningKey
from tidemill.streams.deadletters.reader import DeadLetterReader, Wanted
from tidemill.trainers.commit_log import commits_after
from tidemill.trainers.cycle import TrainingCycle
from tidemill.trainers.learners.online import OnlineLearner
from tidemill.trainers.publisher import KafkaModelTopic, Publisher
from tidemill.trainers.registry import Registry

pytestmark = [pytest.mark.parametrize("version", VERSIONS), pytest.mark.slow]  # reads whole lakes


@pytest.fixture
def sample(version: str, tmp_path: Path) -> Sample:
    """A copy of the sample of *version*, to be worked on."""
    return copy_of(version, tmp_path / "sample")


def test_a_released_sample_is_never_edited(version: str) -> None:
    """A sample that follows the code proves nothing about the data that users have."""
    assert sums(DATA / version) == (DATA / version / SUMS).read_text()


def test_a_written_sample_is_not_written_again(version: str) -> None:
    """Whoever runs the script twice must not replace what a release has left behind."""
    command = [sys.executable, "-m", "tests.data.write_sample", version]
    done = subprocess.run(command, cwd=DATA.parents[1], capture_output=True, text=True)
    assert done.returncode == 1
    assert "never written again" in done.stderr


def test_every_table_has_the_rows_and_values_it_had(sample: Sample) -> None:
    """A lake of years is why an upgrade is feared; views, revisions and backfills included."""
    known = sample.expected["tables"]
    assert tables(sample, known) == known


def test_every_published_version_of_a_loop_is_still_itself(sample: Sample) -> None:
    """A definition with another digest would be refused by the lake that was made for it."""
    assert definitions(sample) == sample.expected["loops"]


def test_the_bytes_of_old_events_mean_what_they_meant(sample: Sample) -> None:
    """A replay reads years of topics by schemas that nobody registers any more."""
    known = sample.expected["events"]
    assert events(sample, known) == known


def test_the_ledger_is_balanced_and_says_what_it_said(sample: Sample) -> None:
    """Progress numbers that are read under other names would count records as lost."""
    assert accounts(sample) == sample.expected["ledger"]
    assert all(account["balanced"] for account in sample.expected["ledger"])


def test_a_backfill_is_still_complete(sample: Sample) -> None:
    """A backfill that no longer counts as complete would vanish from the views."""
    assert backfilled(sample) == sample.expected["backfills"]


def test_published_models_are_believed_and_score_to_the_bit(sample: Sample) -> None:
    """After an upgrade the fleet must serve the model that served before, and nothing else."""
    assert models(sample) == sample.expected["models"]
    assert published_scores(sample) == sample.expected["published_scores"]


def test_kept_models_score_to_the_bit(sample: Sample) -> None:
    """The gate compares candidates with models of old; so does whoever asks why one was live."""
    assert kept_scores(sample) == sample.expected["kept_scores"]


def test_acknowledgements_are_still_read(sample: Sample) -> None:
    """An operator looks there which worker serves what, right after the upgrade above all."""
    assert acknowledgements(sample) == sample.expected["acknowledgements"]


def test_the_audit_finds_no_difference(sample: Sample) -> None:
    """The join of today must mean what the join meant that made the examples."""
    assert audits(sample) == sample.expected["audits"]
    assert all(not told["differences"] for told in sample.expected["audits"].values())


def test_a_changed_byte_of_a_model_is_noticed(sample: Sample) -> None:
    """A check that passes with any bytes would not protect anyone."""
    records = sample.records(topics.MODELS)
    payloads = {delivery.payload for delivery in deliveries(sample)}
    carriers = [
        (number, record.value.index(payload) + len(payload) // 2)
        for number, record in enumerate(records)
        for payload in payloads
        if record.value is not None and payload in record.value
    ]
    assert len(carriers) >= len(payloads)
    for number, place in carriers:
        value = bytearray(records[number].value or b"")
        value[place] ^= 1
        changed = replace(records[number], value=bytes(value))
        with pytest.raises(ValueError, match="digest-mismatch"):
            deliveries(sample, [*records[:number], changed, *records[number + 1 :]])


def test_a_changed_value_of_a_raw_row_is_noticed(sample: Sample) -> None:
    """The digests of the tables and the audit both have to see it, each by itself."""
    lake = sample.lake
    ids = lake.table("offers", "examples").read(["decision_id"], pl.col("label") == 1.0)
    chosen: str = min(ids["decision_id"].to_list())
    table = DeltaTable(lake.table("offers", "feedback").uris()[0].split("/event_date=")[0])
    table.update(
        updates={
            "values": "named_struct('amount', 0.0, 'total', 0.0, 'depth', cast(null as bigint))"
        },
        predicate=f"decision_id = '{chosen}'",
    )
    known = sample.expected["tables"]
    found = tables(sample, known)
    assert [name for name in known if found[name] != known[name]] == ["offers.feedback"]
    report = audit(sample.lake, "offers")
    assert [(each.id, each.column) for each in report.first] == [(chosen, "label")]


@pytest.fixture
def kafka_of(sample: Sample, own_kafka: EmbeddedKafka) -> KafkaConfig:
    """A broker with the topics of the sample, each record at its offset."""
    restore(sample, own_kafka.config)
    return own_kafka.config


def rigs(sample: Sample, kafka: KafkaConfig) -> list[Rig]:
    """Return each loop in its newest version, with the lake of *sample* and topics on *kafka*."""
    lake = sample.lake
    return [Rig(kafka, lake.loop(name), sample.folder) for name in lake.loops()]


@pytest.mark.kafka
def test_workers_and_trainers_go_on_where_the_old_ones_ended(
    sample: Sample, kafka_of: KafkaConfig
) -> None:
    """Open windows close, late feedback revises, and no example is learned twice or left out."""
    told = sample.expected["continued"]
    revised = revisions(sample)
    before = {rig.loop.loop: learned(rig.lake, rig.loop) for rig in rigs(sample, kafka_of)}
    send_further(sample, kafka_of)
    for rig in rigs(sample, kafka_of):
        go_on(rig, datetime.fromisoformat(told["until"][rig.loop.loop]))
        assert all(account.is_balanced for account in rig.accounts())
        report = audit(rig.lake, rig.loop.loop)
        assert report.agrees, report.first
        assert_learned_on(rig, before[rig.loop.loop], sample.signing_key)
    assert continued(sample, told["tables"]) == told["tables"]
    now = revisions(sample)
    assert any(now[each] > number for each, number in revised.items()), "feedback has revised"
    assert len(now) > len(revised), "windows that were open have closed"


def revisions(sample: Sample) -> dict[tuple[str, str], int]:
    """Return the newest revision of each example, by loop and decision."""
    found: dict[tuple[str, str], int] = {}
    for loop in sample.lake.loops():
        rows = sample.lake.table(loop, "examples").read(["decision_id", "revision"])
        for key, revision in rows.iter_rows():
            found[loop, key] = max(revision or 0, found.get((loop, key), 0))
    return found


def learned(lake: Lake, loop: Loop) -> OnlineLearner:
    """Return the online learner of *loop* as its newest published state has it."""
    online = loop.models.online
    assert online is not None
    registry = Registry(lake, loop.loop)
    model = registry.newest(online.learner)
    assert model is not None
    return OnlineLearner(loop, online, LinearState.from_bytes(registry.payload(model)))


def assert_learned_on(rig: Rig, expected: OnlineLearner, key: SigningKey) -> None:
    """Let a trainer do all that is due; its learner must have gone on as *expected*.

    The state on the topic of models is that of a learner that went through the commits after the
    old state, each once.
    """
    examples = rig.lake.table(rig.loop.loop, "examples")
    known = rig.lake.table(rig.loop.loop, "online_predictions").read(["decision_id"])
    old_rows = expected.rows
    for version, rows in commits_after(examples, expected.learned_until, pl.Series):
        expected.learn(version, rows)
    assert expected.rows > old_rows == known.height
    publisher = Publisher(KafkaModelTopic(rig.kafka), rig.loop.loop, key)
    TrainingCycle(rig.loop, rig.lake, publisher).run(force=True)
    announced = publisher.manifest("online")
    assert announced is not None
    assert announced.trained_on_rows == expected.rows
    assert announced.digest == payload_digest(expected.state().to_bytes())
    ids = rig.lake.table(rig.loop.loop, "online_predictions").read(["decision_id"])["decision_id"]
    assert ids.n_unique() == len(ids) == expected.rows


@pytest.mark.kafka
def test_a_serving_worker_decides_by_the_model_of_the_old_topic(
    sample: Sample, kafka_of: KafkaConfig
) -> None:
    """Workers are upgraded before any trainer publishes again."""
    live = {said["version"] for name, said in sample.expected["models"].items() if "/live" in name}
    scores = sample.expected["published_scores"]
    with Client.embedded(kafka_of, trusted=sample.trusted, name="upgraded") as client:
        for name in sample.lake.loops():
            rows = rows_for(sample.lake.loop(name))
            results = [client.loop(name).get_decision(row) for row in rows]
            assert {result.source for result in results} == {"model"}
            (version,) = {result.model_version for result in results}
            assert version in live
            told = [(result.score or 0.0).hex() for result in results]
            assert told == scores[f"{name}/live/{version}"]


@pytest.mark.kafka
def test_dead_letters_of_old_are_still_shown(sample: Sample, kafka_of: KafkaConfig) -> None:
    """What could not be read then may be readable now; someone has to find it."""
    written = {
        (record.key or b"", dict(record.headers)["reason"], record.value or b"")
        for record in sample.records(topics.DEAD_LETTERS)
    }
    shown = list(DeadLetterReader(kafka_of).read(Wanted()))
    assert len(shown) == len(written) > 0
    assert written == {
        (letter.source.encode(), letter.reason.encode(), letter.value or b"") for letter in shown
    }

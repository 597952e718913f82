"""What this release reads from a sample, as plain values to compare with what was read before.

A column is told by a digest of all its values, so that a release that adds columns still agrees
on those of old, and a difference names its column.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
from tests.data.samples import Record, Sample

from tidemill.features.audit.audit import audit
from tidemill.features.sql.backfills import completed, done, read_backfill
from tidemill.features.sql.views import connect, schema_name
from tidemill.kafka import Record as KafkaRecord
from tidemill.monitor.ledger import ledger
from tidemill.schemas import topics
from tidemill.schemas.events.decoder import EventDecoder
from tidemill.schemas.events.schemas import decision_frame_schema
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.assembler import Delivery, ModelAssembler
from tidemill.schemas.models.manifest import Ack
from tidemill.schemas.published import newest, parse_loop, produced_topics
from tidemill.schemas.registry.choose import MemorySchemaStore
from tidemill.serving.decision.requests import DecisionReader
from tidemill.serving.model.admission import admit
from tidemill.serving.model.trial_process import TrialLimits, TrialProcess
from tidemill.trainers.evaluation.evaluation_sets import load_model
from tidemill.trainers.registry import Registry

SLOTS = ("live", "online", "chunked")
UNHURRIED = TrialLimits(time_s=120.0, score_ms=10_000.0)  # a busy machine is no difference
ROWS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "offers": [
        {"hour": 3, "price": 9.5, "page": "deal", "tags": ["new"], "member": True},
        {"hour": 17, "price": 45.0, "page": "home", "tags": [], "member": False, "region": "north"},
        {"hour": 0, "page": "never seen", "tags": ["süß", "red"], "member": False},
        {
            "hour": 23,
            "price": -1e9,
            "page": "search",
            "tags": ["new", "red"],
            "member": True,
            "seen": datetime(2025, 12, 31, 12, tzinfo=UTC),
        },
    ],
    "delays": [
        {"distance": 100.0, "carrier": "AA"},
        {"distance": 950.5, "carrier": "UA"},
        {"distance": 0.0, "carrier": "never seen"},
    ],
}
"""Features to score by every model of a loop; version 1 of `offers` knows no region."""

_CONTINUED = ("decision_states", "examples", "example_revisions", "feedback_states")
_KEYS = ("partition", "log", "offset", "revision", "number", "row")


def summary(frame: pl.DataFrame, columns: Iterable[str] | None = None) -> dict[str, object]:
    """Return how many rows *frame* has, and a digest of each of its *columns*."""
    chosen = frame.select(sorted(columns if columns is not None else frame.columns))
    keys = [name for name in _KEYS if name in chosen.columns] or chosen.columns
    rows = sorted(chosen.iter_rows(named=True), key=lambda row: _told([row[key] for key in keys]))
    digests = {
        name: hashlib.sha256(_told([row[name] for row in rows]).encode()).hexdigest()[:16]
        for name in chosen.columns
    }
    return {"rows": len(rows), "columns": digests}


def _told(value: object) -> str:
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: object) -> object:
    match value:
        case float():
            return value.hex()
        case datetime():
            return value.astimezone(UTC).isoformat()
        case date():
            return value.isoformat()
        case bytes():
            return hashlib.sha256(value).hexdigest()
        case dict():  # a field that is not there and one that is null are the same
            return {name: _plain(inner) for name, inner in value.items() if inner is not None}
        case list():
            return [_plain(inner) for inner in value]
    return value


def loops_of(sample: Sample) -> dict[tuple[str, int], Loop]:
    """Return every published version of every loop, read from its topic."""
    records = (
        KafkaRecord(topic=topics.LOOPS, partition=0, offset=n, key=key, value=value, timestamp_ms=0)
        for n, (key, value) in enumerate(sample.compacted(topics.LOOPS).items())
    )
    return {(loop.loop, loop.version): loop for loop in map(parse_loop, records)}


def tables(sample: Sample, known: Mapping[str, Any] | None = None) -> dict[str, object]:
    """Return a summary of every view and every table without a view.

    Args:
        sample: which sample.
        known: what was told before: only its views and columns are looked at.
    """
    found: dict[str, object] = {}
    for name, frame in _frames(sample):
        if known is None:
            found[name] = summary(frame)
        elif name in known:
            found[name] = summary(frame, known[name]["columns"])
    return found


def continued(sample: Sample, known: Mapping[str, Any] | None = None) -> dict[str, object]:
    """Return summaries of what a worker has made of the sample and of what came after it.

    When a row was written is left out: that is not told by the logs.
    """
    found: dict[str, object] = {}
    for name, frame in _frames(sample):
        if name.rpartition(".")[2] in _CONTINUED:
            columns = frame.columns if known is None else known[name]["columns"]
            found[name] = summary(frame, [one for one in columns if one != "ingested_at"])
    return found


def _frames(sample: Sample) -> Iterator[tuple[str, pl.DataFrame]]:
    lake = sample.lake
    with connect(lake) as connection:
        for loop in lake.loops():
            schema = schema_name(loop)
            asked = "SELECT view_name FROM duckdb_views() WHERE schema_name = ? ORDER BY view_name"
            for (view,) in connection.execute(asked, [schema]).fetchall():
                rows = connection.sql(f'FROM "{schema}"."{view}"').to_arrow_table()
                yield f"{loop}.{view}", pl.DataFrame(rows)
            for table in ("models", "online_predictions"):
                yield f"{loop}.{table}", lake.table(loop, table).read()


def accounts(sample: Sample) -> list[object]:
    """Return the ledger of every loop."""
    lake = sample.lake
    return [
        {
            "loop": account.loop,
            "log": account.log,
            "partition": account.partition,
            "read": account.read,
            "ends": dict(account.ends),
            "open": account.open,
            "balanced": account.is_balanced,
        }
        for name in lake.loops()
        for account in ledger(lake, lake.loop(name))
    ]


def audits(sample: Sample) -> dict[str, object]:
    """Return what the audit of each loop says."""
    found: dict[str, object] = {}
    for name in sample.lake.loops():
        report = audit(sample.lake, name)
        found[name] = {
            "differences": [str(difference) for difference in report.first],
            "records": report.records,
            "decisions": report.decisions,
            "feedback": report.feedback,
        }
    return found


def definitions(sample: Sample) -> dict[str, str]:
    """Return the digest of every version of every loop; topic and lake must say the same."""
    found = {f"{name}/{version}": loop.digest for (name, version), loop in loops_of(sample).items()}
    lake = sample.lake
    kept = {
        f"{loop.loop}/{loop.version}": loop.digest
        for name in lake.loops()
        for loop in lake.definitions(name)
    }
    if kept != found:
        raise ValueError(f"the lake has {kept}, the topic {found}")
    return found


def schema_store(sample: Sample) -> MemorySchemaStore:
    """Return a store with all schemas of the topic; each must be found by the key it stands under.

    Raises:
        ValueError: a schema has another fingerprint than its key says.
    """
    store = MemorySchemaStore()
    for key, value in sample.compacted(topics.SCHEMAS).items():
        subject, _, fingerprint = key.decode().rpartition("/")
        prefix = store.register(subject, json.loads(value))
        if prefix[2:].hex() != fingerprint:
            raise ValueError(f"{key!r} is the key of {prefix.hex()}")
    return store


def events(sample: Sample, known: Mapping[str, Any] | None = None) -> dict[str, object]:
    """Return what the newest version of each loop makes of the bytes on its topics."""
    published, store = loops_of(sample), schema_store(sample)
    found: dict[str, object] = {}
    for name in sorted({name for name, _ in published}):
        loop = newest(published, name)
        for log, topic in produced_topics(loop).items():
            values = [record.value for record in sample.records(topic)]
            decoded = EventDecoder(loop, log, store).decode(values)
            columns = None if known is None else known[topic]["columns"]
            reasons = sorted(poison.reason for poison in decoded.poison)
            found[topic] = summary(decoded.frame, columns) | {"unreadable": reasons}
    return found


def deliveries(sample: Sample, records: Iterable[Record] | None = None) -> list[Delivery]:
    """Return the models on the model topic that a trusted key has signed, every slot's newest.

    Raises:
        ValueError: one is refused.
    """
    inbox = ModelAssembler(sample.trusted, slots=SLOTS)
    newest_of: dict[tuple[str, str], Delivery] = {}
    for record in sample.records(topics.MODELS) if records is None else records:
        match inbox.feed(record.key, record.value):
            case Delivery() as delivery:
                said = delivery.manifest
                newest_of[said.loop, said.slot] = delivery
            case None:
                pass
            case refusal:
                raise ValueError(f"{refusal.reason}: {refusal.detail}")
    if inbox.pending():
        raise ValueError(f"chunks are missing: {inbox.pending()}")
    return list(newest_of.values())


def published_scores(sample: Sample) -> dict[str, list[str]]:
    """Return the bits of the scores of every published model, after its admission."""
    published, found = loops_of(sample), {}
    for delivery in deliveries(sample):
        said = delivery.manifest
        loop = published[said.loop, said.loop_version]
        with TrialProcess(UNHURRIED) as trials:
            score, reader = admit(delivery, loop, trials), DecisionReader(loop)
        asked = (reader.check(row).features for row in rows_for(loop))
        found[f"{said.loop}/{said.slot}/{said.version}"] = [score(row).hex() for row in asked]
    return found


def kept_scores(sample: Sample) -> dict[str, list[str]]:
    """Return the bits of the scores of every model in the lake, as the gate asks them."""
    published, found = loops_of(sample), {}
    for name in sample.lake.loops():
        registry = Registry(sample.lake, name)
        for model in registry.models():
            loop = published[name, model.loop_version]
            reader = DecisionReader(loop)
            rows = [
                dict(zip(loop.features, reader.check(row).features, strict=True))
                for row in rows_for(loop)
            ]
            predicted = load_model(model, registry.payload(model)).predict(_frame(loop, rows))
            found[f"{name}/{model.version}"] = [float(score).hex() for score in predicted]
    return found


def rows_for(loop: Loop) -> list[dict[str, Any]]:
    """Return the rows of `ROWS` with the features that *loop* knows."""
    return [
        {name: value for name, value in row.items() if name in loop.features}
        for row in ROWS[loop.loop]
    ]


def _frame(loop: Loop, rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    features = decision_frame_schema(loop)["features"]
    return pl.DataFrame({"features": rows}, schema={"features": features}).unnest("features")


def models(sample: Sample) -> dict[str, object]:
    """Return what every published model says of itself, but for its payload."""
    return {
        f"{said.loop}/{said.slot}": {
            "version": said.version,
            "learner": said.learner,
            "loop_version": said.loop_version,
            "sequence": said.sequence,
            "digest": said.digest,
            "chunks": said.chunks,
            "trained_on_rows": said.trained_on_rows,
            "features_digest": said.features_digest,
        }
        for said in (delivery.manifest for delivery in deliveries(sample))
    }


def acknowledgements(sample: Sample) -> dict[str, str]:
    """Return what the workers said of their models."""
    acks = (Ack.from_json(value) for value in sample.compacted(topics.ACKS).values())
    return {f"{ack.worker}/{ack.loop}": f"{ack.status} {ack.version}" for ack in acks}


def backfilled(sample: Sample) -> dict[str, object]:
    """Return what is told of each backfill that is complete."""
    lake = sample.lake
    found: dict[str, object] = {}
    for name in lake.loops():
        for each in completed(lake, name):
            plan = read_backfill(lake, name, each)
            counts = done(lake, plan)
            kept = ("examples", "late", "duplicate", "open")
            found[f"{name}/{each}"] = {count: counts.total(count) for count in kept}
    return found


def contents(sample: Sample) -> dict[str, object]:
    """Return all of it."""
    return {
        "tables": tables(sample),
        "ledger": accounts(sample),
        "audits": audits(sample),
        "loops": definitions(sample),
        "events": events(sample),
        "models": models(sample),
        "published_scores": published_scores(sample),
        "kept_scores": kept_scores(sample),
        "acknowledgements": acknowledgements(sample),
        "backfills": backfilled(sample),
    }

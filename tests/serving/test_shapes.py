"""Every shape of decision, from the call of a service to the columns a streams worker reads."""

import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from tests.serving.models import FEATURES, banner

from tidemill import Client
from tidemill.features.lake.lake import CompareAndSwap, Lake, LakeConfig
from tidemill.features.lake.layouts import layouts
from tidemill.kafka import KafkaConfig, Tail
from tidemill.schemas import topics
from tidemill.schemas.events.decoder import EventDecoder
from tidemill.schemas.logs import DECISIONS
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import publish_loop
from tidemill.schemas.registry.kafka import KafkaSchemaStore
from tidemill.schemas.registry.memory import MemorySchemaStore
from tidemill.serving.client.embedded import EmbeddedTransport
from tidemill.serving.decision.decider import Decider
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.policies.choice import Features, LiveModel
from tidemill.serving.worker import ServingWorkerConfig, Worker

AT = datetime(2026, 1, 2, tzinfo=UTC)
ORDER = {"news": 0.25, "sport": 0.75, "music": 0.5}
NAMED: dict[str, object] = {"type": "choice", "actions": list(ORDER), "default": "news"}
Case = tuple[dict[str, object], dict[str, object], pl.DataType, object, object]
SHAPES: dict[str, Case] = {
    # decision, policy, type of the column, action without a model, action with one
    "bool": (
        {"type": "bool", "default": False},
        {"kind": "threshold", "threshold": 0.5, "above": True, "below": False},
        pl.Boolean(),
        False,
        True,
    ),
    "choice": (NAMED, {"kind": "greedy"}, pl.String(), "news", "sport"),
    "float": ({"type": "float", "default": 9.5}, {"kind": "value"}, pl.Float64(), 9.5, 0.75),
    "ranking": (
        {**NAMED, "type": "ranking", "default": ["news", "sport", "music"]},
        {"kind": "greedy"},
        pl.List(pl.String),
        ["news", "sport", "music"],
        ["sport", "music", "news"],
    ),
}


def score(features: Features) -> float:
    """Score as a model would: by the action where the policy asks for each, else 0.75."""
    return ORDER.get(str(features[-1]), 0.75)


def read_topic(kafka: KafkaConfig, topic: str, count: int) -> Sequence[bytes | None]:
    """Return the first *count* values of *topic*."""
    tail, deadline = Tail(kafka, topic), time.monotonic() + 300
    found: list[bytes | None] = []
    try:
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} events came"
            found += [record.value for record in tail.poll(0.2)]
    finally:
        tail.close()
    return found


def loop_of(shape: str) -> Loop:
    """Return a loop with that kind of decision, and a name of its own."""
    decision, policy, *_ = SHAPES[shape]
    return banner(loop=f"{shape}-{uuid.uuid4().hex[:8]}", decision=decision, policy=policy)


@pytest.mark.kafka
@pytest.mark.parametrize("shape", SHAPES)
def test_an_action_of_every_shape_arrives_as_it_was_decided(shape: str, kafka: KafkaConfig) -> None:
    """A shape that only the default survives is found by the first user, with a model live."""
    *_, kind, plain, modelled = SHAPES[shape]
    loop = loop_of(shape)
    publish_loop(kafka, loop)
    worker = Worker(ServingWorkerConfig(kafka=kafka, name="w", definitions=(loop,)))
    worker.start()
    with Client.through(EmbeddedTransport(worker)) as client:
        calls = client.loop(loop.loop)
        first = calls.get_decision(FEATURES)
        worker.decider(loop.loop).model = LiveModel("lightgbm-1", score)
        second = calls.get_decision(FEATURES)
    assert (first.action, first.source) == (plain, "default")
    assert (second.action, second.source, second.score) == (modelled, "model", 0.75)
    values = read_topic(kafka, topics.decisions(loop.loop), 2)
    found = EventDecoder(loop, DECISIONS, KafkaSchemaStore(kafka)).decode(values)
    assert not found.poison
    assert found.frame.schema["action"] == kind
    logged = {row["id"]: row["action"] for row in found.frame.to_dicts()}
    assert logged == {first.id: plain, second.id: modelled}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_action_of_every_shape_comes_back_from_the_lake(shape: str, tmp_path: Path) -> None:
    """Lists and texts take other ways through Parquet and Delta than numbers do."""
    *_, kind, plain, modelled = SHAPES[shape]
    loop, store, log = loop_of(shape), MemorySchemaStore(), MemoryEventLog()
    maker = Decider(loop, store=store, log=log)
    request = maker.decisions.check(FEATURES)
    first = maker.decide(request)
    maker.model = LiveModel("lightgbm-1", score)
    second = maker.decide(request)
    decoded = EventDecoder(loop, DECISIONS, store).decode([event.value for event in log.events])
    source = {"topic": "t", "partition": 0, "ingested_at": AT, "stream_time": AT, "verdict": None}
    rows = (
        decoded.frame.drop("row")
        .with_row_index("offset")
        .with_columns(pl.lit(value).alias(name) for name, value in source.items())
    )
    columns = layouts(loop)["decisions"]
    lake = Lake(LakeConfig(root=str(tmp_path)))
    lake.create(loop)
    table = lake.table(loop.loop, "decisions")
    table.append(
        rows.cast({name: columns[name] for name in ("offset", *source)}),
        swaps=[CompareAndSwap("offset/0", None, 2)],
    )
    back = table.read(["id", "action"])
    assert back.schema["action"] == kind
    assert dict(back.rows()) == {first.id: plain, second.id: modelled}

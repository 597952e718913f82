"""A worker of a loop with items on a real broker: an example for each shown item."""

import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.streams.reprocess.test_replay import replayed, rows
from tests.streams.rig import START, PlainProducer, Rig, assert_exact, end, new_rig, until

from tidemill.deploy.local.supervisor import tidemill_command
from tidemill.features.lake.progress_keys import UNKNOWN_ITEM
from tidemill.kafka import KafkaConfig
from tidemill.schemas import topics
from tidemill.schemas.logs import FEEDBACK, topic_of

pytestmark = pytest.mark.kafka

SECOND = timedelta(seconds=1)
DECISION = {"type": "ranking", "items": {"features": {"price": "float"}, "max": 5}}
SHOWN = ("tea", "milk")  # at the positions 0 and 1


def decide(producer: PlainProducer, key: str, at: datetime) -> None:
    """Send a decision among three items, of which two were shown."""
    position: dict[str, int | None] = {"milk": 1, "salt": None, "tea": 0}
    items = [
        {"id": name, "propensity": 0.5, "position": each, "features": {"price": len(name) / 2}}
        for name, each in position.items()
    ]
    event = {
        "id": key,
        "at": at,
        "action": list(SHOWN),
        "source": "explore",
        "items": items,
        "policy_version": 1,
        "loop_version": 1,
        "propensity": None,
        "features": {"hour": 3, "price_limit": 1.5, "page": "home"},
    }
    producer.send(topics.decisions(producer.loop.loop), key, producer.payload("", event))


def click(producer: PlainProducer, key: str, at: datetime, item: str | None, id: str) -> None:
    """Send a click on *item* of a decision, or on the whole of it."""
    event = {"id": id, "decision_id": key, "at": at, "values": {"amount": 1.0}, "item": item}
    topic = topic_of(producer.loop.loop, FEEDBACK)
    producer.send(topic, key, producer.payload("click", event))


def unknown_items(rig: Rig) -> int:
    """Return how much feedback the lake has counted that names an item not shown."""
    table = rig.lake.table(rig.loop.loop, "examples")
    return sum(n or 0 for n in table.progress([UNKNOWN_ITEM.key(0)]).values())


def items_rig(kafka: KafkaConfig, folder: Path) -> Rig:
    """Publish a loop with items and send decisions and clicks; some for what was not shown."""
    features = {"hour": "int", "price_limit": "float", "page": "category"}
    changes = {"decision": DECISION, "policy": {"kind": "greedy"}, "features": features}
    rig = new_rig(kafka, folder, idle_after="1h", partitions=1, **changes)
    producer = rig.producer()
    for number in range(4):
        decide(producer, f"d{number}", START + number * SECOND)
    click(producer, "d0", START + 5 * SECOND, "tea", "one")
    click(producer, "d1", START + 6 * SECOND, None, "all")
    click(producer, "d2", START + 7 * SECOND, "salt", "hidden")
    click(producer, "d3", START + 8 * SECOND, "milk", "other")
    click(producer, "d3", START + 9 * SECOND, "coffee", "foreign")
    for at in (3, 74):  # the second closes the windows of d0 to d2, not yet what they wait for
        decide(producer, f"end{at}", START + at * SECOND)
        click(producer, f"end{at}", START + at * SECOND, None, f"end{at}")
    producer.flush()
    return rig


def test_a_worker_writes_an_example_for_each_shown_item(kafka: KafkaConfig, tmp_path: Path) -> None:
    """Clicks fall on the item they name; one that was not shown counts once, whoever is killed."""
    rig = items_rig(kafka, tmp_path)
    worker = rig.start()
    until(lambda: rig.rows("examples") >= 6, "the first windows have closed")
    worker.kill()
    worker.wait()
    with rig.worker() as worker:
        rig.close(START + 3600 * SECOND)
        until(lambda: rig.rows("examples") == 12, "every window has closed")
        until(lambda: rig.metric(worker, "tidemill_stream_unknown_items") == 2, "both are counted")
        assert end(worker) == 0
    written = rig.examples().sort("decision_id", "position")
    found = {
        (row["decision_id"], row["item"]): (row["position"], row["state"], row["label"])
        for row in written.iter_rows(named=True)
        if row["decision_id"].startswith("d")
    }
    clicked = {("d0", "tea"), ("d1", "tea"), ("d1", "milk"), ("d3", "milk")}
    assert found == {
        (f"d{number}", item): (position, "labeled", 1.0)
        if (f"d{number}", item) in clicked
        else (position, "no_feedback", 0.0)
        for number in range(4)
        for position, item in enumerate(SHOWN)
    }
    assert written["item_features"].struct.field("price").unique().sort().to_list() == [1.5, 2.0]
    assert unknown_items(rig) == 2
    assert_exact(rig)


@pytest.mark.soak
def test_a_replay_and_a_backfill_give_the_rows_of_the_worker(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """Items are as reproducible as decisions: from the topics, and from the raw tables."""
    rig, last = items_rig(kafka, tmp_path), START + 3600 * SECOND
    with rig.worker():
        rig.close(last)
        until(lambda: rig.rows("examples") == 12, "every window has closed")
    again = replayed(rig, tmp_path / "again", "--until", last.isoformat())
    for table in ("decisions", "feedback", "examples"):
        assert rows(again, table).equals(rows(rig, table)), table
    assert unknown_items(again) == unknown_items(rig) == 2
    command = tidemill_command("backfill", rig.loop.loop, "--name", "same")
    subprocess.run(command, env=rig.environment(), check=True)
    live = rows(rig, "examples")
    found = rows(rig, "examples@same").select(live.columns)
    keys = ["offset", "position"]
    assert found.sort(keys).equals(live.join(found, on=keys, how="semi").sort(keys))
    assert len(found) >= 6, "what the logs themselves have closed"

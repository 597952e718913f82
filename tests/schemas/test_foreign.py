"""A service in another language: the program of the guide, run as it stands there."""

import re
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from tests.schemas.loops import minimal

from tidemill.kafka import KafkaConfig, Record, Tail
from tidemill.schemas import topics
from tidemill.schemas.events.decoder import EventDecoder
from tidemill.schemas.logs import DECISIONS, FEEDBACK
from tidemill.schemas.published import publish_loop
from tidemill.schemas.registry.kafka import KafkaSchemaStore

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "contracts.md"


def program() -> str:
    """Return the one Python program of the guide."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(blocks) == 1
    return str(blocks[0])


def all_records(config: KafkaConfig, topic: str) -> list[Record]:
    """Return what is on *topic*."""
    tail = Tail(config, topic)
    records: list[Record] = []
    deadline = time.monotonic() + 300
    while not tail.caught_up and time.monotonic() < deadline:
        records += tail.poll(0.1)
    tail.close()
    return records


def test_the_program_of_the_guide_knows_nothing_of_tidemill() -> None:
    """It stands for every language; an import of ours would prove nothing."""
    assert "import tidemill" not in program()
    assert "from tidemill" not in program()


@pytest.mark.kafka
def test_a_service_needs_only_what_is_published(kafka: KafkaConfig, tmp_path: Path) -> None:
    """Schemas from the topic, fastavro and confluent-kafka: nothing else may be needed."""
    loop = minimal(loop=f"banner-{uuid.uuid4().hex[:8]}")
    publish_loop(kafka, loop)
    script = tmp_path / "producer.py"
    script.write_text(program())
    command = [sys.executable, "-I", str(script), kafka.bootstrap, loop.loop]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr

    store = KafkaSchemaStore(kafka)
    shown = all_records(kafka, topics.decisions(loop.loop))
    told = all_records(kafka, topics.feedback(loop.loop))
    decisions = EventDecoder(loop, DECISIONS, store).decode([each.value for each in shown])
    feedback = EventDecoder(loop, FEEDBACK, store).decode([each.value for each in told])
    assert decisions.poison == feedback.poison == []
    decision, click = decisions.frame.to_dicts()[0], feedback.frame.to_dicts()[0]
    assert decision["features"] == {"country": "PT", "visits": 3}
    assert decision["action"] is True
    assert click["decision_id"] == decision["id"]
    assert click["kind"] == "clicked"
    assert click["values"] == {"seconds": 4.2, "page": "home"}
    assert shown[0].key == told[0].key == decision["id"].encode()
    assert shown[0].partition == told[0].partition

"""Events written in transactions, on a real broker: control batches have no event."""

from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from tests.streams.rig import START, Rig, assert_exact, new_rig, until

from tidemill.cli.app import main
from tidemill.kafka import KafkaConfig, TransactionalWriter
from tidemill.schemas import topics

pytestmark = pytest.mark.kafka

SECOND = timedelta(seconds=1)


class ChangedMindError(Exception):
    """An error that a service may raise in the middle of a transaction."""


def send(rig: Rig, writer: TransactionalWriter, numbers: range) -> None:
    """Send a decision and a click for each of *numbers*, a transaction each; every third aborts."""
    producer = rig.producer()
    for number in numbers:
        at = START + number * SECOND
        with suppress(ChangedMindError), writer.transaction():
            key = f"d{number}"
            writer.write(topics.decisions(rig.loop.loop), key.encode(), producer.decision(key, at))
            click = producer.click(key, at + SECOND)
            writer.write(topics.feedback(rig.loop.loop), key.encode(), click)
            if number % 3 == 0:
                writer._producer.flush()  # records that never left the client need no control batch
                raise ChangedMindError


def test_events_of_transactions_are_read_once_and_control_batches_are_skipped(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """Services that write exactly once leave control batches, and no event follows the last."""
    rig = new_rig(kafka, tmp_path, idle_after="1h", partitions=1)
    writer = TransactionalWriter(kafka, rig.loop.loop)
    send(rig, writer, range(31))
    with rig.worker():
        until(rig.is_read, "the control batches at the end are skipped")
        assert rig.rows("decisions") == 20
        send(rig, writer, range(31, 61))
        until(rig.is_read, "it continues behind them")
        send(rig, writer, range(300, 301))
        until(rig.is_read, "control batches without records are skipped too")
    send(rig, writer, range(61, 91))
    writer.close()
    with rig.worker():
        until(rig.is_read, "and after a restart")
        rig.close(START + 90 * SECOND)
        until(rig.is_done, "everything closes")
    assert rig.examples()["state"].to_list() == ["labeled"] * 60
    assert_exact(rig)
    group = f"tidemill-{rig.loop.loop}"
    environment = pytest.MonkeyPatch()
    environment.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap)
    assert main(["lag", group, "--limit-messages", "0"]) == 0
    environment.undo()

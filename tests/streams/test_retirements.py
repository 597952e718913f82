"""A retired loop: its windows close, its worker drops it, and a newer version brings it back."""

from datetime import timedelta
from pathlib import Path

import pytest
from tests.streams.rig import START, assert_exact, new_rig, until

from tidemill.cli.app import main
from tidemill.errors import ContractError
from tidemill.features.lake.lake import Lake
from tidemill.kafka import KafkaConfig
from tidemill.schemas.published import fetch_loops, latest_loop, publish_loop, retired_version
from tidemill.streams.retirements import Retirements

pytestmark = pytest.mark.kafka

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)


def test_a_worker_closes_the_windows_of_a_retired_loop_before_it_drops_it(
    kafka: KafkaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last decisions are worth their labels, and a newer version must go on after them."""
    rig = new_rig(kafka, tmp_path, idle_after="1h", partitions=1)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap)
    monkeypatch.setenv("TIDEMILL_LAKE", rig.lake.root)
    name, producer = rig.loop.loop, rig.producer()
    producer.decide("first", START)
    producer.flush()
    retirements = Retirements(kafka, rig.lake)
    assert not retirements.is_over(fetch_loops(kafka), name), "it is in use"
    with rig.worker():
        until(lambda: rig.rows("decisions") == 1, "the first decision is read")
        assert main(["loop", "retire", name, "--why", "nobody asks", "--as", "ann"]) == 0
        until(lambda: "version 2" in rig.log(), "the worker sees that it is retired")
        assert not retirements.is_over(fetch_loops(kafka), name), "a window is open"
        producer.decide("second", START + SECOND)
        producer.flush()
        until(lambda: rig.rows("decisions") == 2, "what was on its way is read")
        rig.close(START + SECOND)
        until(rig.is_done, "its windows are closed")
    published = fetch_loops(kafka)
    assert retirements.is_over(published, name)
    assert rig.ended() == ContractError.status, "a worker of this loop alone has nothing to do"
    assert "nobody asks" in rig.log()
    producer.decide("third", START + HOUR)
    producer.flush()
    assert not Retirements(kafka, rig.lake).is_over(published, name), "a record is unread"
    rig.loop = latest_loop(kafka, name).model_copy(update={"version": 3, "retired": ""})
    publish_loop(kafka, rig.loop)
    assert not retirements.is_over(fetch_loops(kafka), name), "it is in use again"
    with rig.worker():
        until(lambda: rig.rows("decisions") == 3, "the worker goes on where it was")
        rig.close(START + HOUR)
        until(rig.is_done, "everything is closed")
    assert_exact(rig)


def test_a_loop_that_nobody_ever_used_is_over_at_once(kafka: KafkaConfig, tmp_path: Path) -> None:
    """Most loops that are retired young have no table yet."""
    rig = new_rig(kafka, tmp_path)
    publish_loop(kafka, retired_version(rig.loop, "ann: a mistake"))
    assert Retirements(kafka, rig.lake).is_over(fetch_loops(kafka), rig.loop.loop)


def test_a_lake_that_does_not_answer_drops_no_loop(kafka: KafkaConfig, tmp_path: Path) -> None:
    """A worker that drops what it cannot look at would leave windows open for ever."""
    rig = new_rig(kafka, tmp_path)
    rig.lake.create(rig.loop)
    publish_loop(kafka, retired_version(rig.loop, "ann: a mistake"))
    for log in tmp_path.rglob("_delta_log/*.json"):
        log.write_text("junk")
    lake = Lake(rig.lake.config)
    assert not Retirements(kafka, lake).is_over(fetch_loops(kafka), rig.loop.loop)

"""Playbacks through real HTTP workers: everything arrives, in order, once more after an outage."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from tests.schemas.loops import minimal

from tidemill.deploy.demo.playback import Playback, Step
from tidemill.deploy.demo.shards import Past
from tidemill.errors import RequestError
from tidemill.http_server.listener import HttpConfig
from tidemill.kafka import KafkaConfig
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.partitioner import partition_of
from tidemill.serving.api.server import server_of
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.worker import ServingWorkerConfig, Worker

START = datetime(2013, 1, 1, tzinfo=UTC)
LOOP = minimal(models={"batch": None}, max_age="36500d")  # what is played is old


@contextmanager
def serving(loop: Loop, log: MemoryEventLog, port: int = 0) -> Iterator[str]:
    """Run a worker behind HTTP, without Kafka; yield its address."""
    config = ServingWorkerConfig(kafka=KafkaConfig("127.0.0.1:1"), name="w", definitions=(loop,))
    opened = socket.create_server(("127.0.0.1", port))
    server = server_of(Worker(config, event_log=log), HttpConfig(port=port))
    thread = threading.Thread(target=server.run, args=([opened],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{opened.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(120)


def past(count: int, **features: object) -> Past:
    """Return *count* decisions, one an hour, with a click on every other one a minute later."""
    at = [START + timedelta(hours=number) for number in range(count)]
    ids = [f"d{number}" for number in range(count)]
    sent = {"country": "CH", "visits": 3} | features
    decisions = pl.DataFrame({"id": ids, "at": at}).with_columns(
        pl.lit(None, pl.String).alias("entity"), **{n: pl.lit(v) for n, v in sent.items()}
    )
    feedback = decisions[::2].select(
        pl.concat_str("id", pl.lit("-clicked")).alias("id"),
        decision_id="id",
        at=pl.col("at") + timedelta(minutes=1),
        seconds=pl.lit(2.0),
        page=pl.lit("home"),
    )
    return Past(decisions=decisions, feedback=feedback, kind="clicked")


def test_every_event_reaches_the_worker_of_its_shard_in_order() -> None:
    """Two workers before one log would mix hours in the milliseconds between them."""
    logs = [MemoryEventLog(), MemoryEventLog()]
    steps: list[Step] = []
    played = past(60)
    with serving(LOOP, logs[0]) as first, serving(LOOP, logs[1]) as second:
        playback = Playback("banner", played, [first, second], partitions=4, on_step=steps.append)
        counts = playback.run()
    assert (counts.decisions, counts.feedback, counts.again) == (60, 30, 0)
    assert counts.sources == {"default": 60}
    assert len(counts.latencies_s) == 60
    assert [step.day for step in steps] == played.days()
    assert steps[-1].decisions + steps[-1].feedback == played.events
    for number, log in enumerate(logs):
        shards: dict[int, list[int]] = {}
        for event in log.events:
            assert event.key is not None
            shard = partition_of(event.key, 4)
            assert shard % 2 == number
            shards.setdefault(shard, []).append(int(event.key.removeprefix(b"d")))
        assert all(numbers == sorted(numbers) for numbers in shards.values())


def test_a_worker_that_is_away_is_asked_again() -> None:
    """Workers are restarted while a playback runs; what nobody has logged must be sent again."""
    with closing(socket.create_server(("127.0.0.1", 0))) as opened:
        port = opened.getsockname()[1]
    log = MemoryEventLog()
    playback = Playback("banner", past(4), [f"http://127.0.0.1:{port}"], partitions=1)
    result: list[int] = []
    thread = threading.Thread(target=lambda: result.append(playback.run().again))
    thread.start()
    with serving(LOOP, log, port):
        thread.join(120)
    assert not thread.is_alive()
    assert result
    assert len(log.events) == 6


def test_a_refused_event_ends_the_playback_and_says_why() -> None:
    """A misspelt feature is refused a million times; once is enough."""
    with serving(LOOP, MemoryEventLog()) as url:
        playback = Playback("banner", past(8, colour="red"), [url], partitions=4)
        with pytest.raises(RequestError, match="colour"):
            playback.run()

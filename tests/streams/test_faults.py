"""Real processes that are killed, ended and frozen, on both sides of a real network.

100,000 records a cell, two kinds of feedback with windows of their own, three rounds of one fault.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import polars as pl
import pytest
from confluent_kafka import KafkaException
from tests.streams.faults import OFTEN, Course, Supervised, two_kinds
from tests.streams.resetting_proxy import ResettingProxy
from tests.streams.rig import ROOT, Rig, path_with, until
from tests.streams.unguarded import GUARDS

from tidemill.deploy.local.jars import cache_dir
from tidemill.deploy.local.kafka import EmbeddedKafka
from tidemill.deploy.local.kafka_settings import free_port, proxied
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.progress_keys import OWNER
from tidemill.kafka import KafkaConfig

pytestmark = pytest.mark.kafka

DECISIONS = 60_000
RECORDS = 100_000  # with feedback, copies and strays there are more than that
FROZEN_S = 8.0  # longer than the session of a worker
Signal = Literal["SIGKILL", "SIGTERM", "SIGSTOP"]
SIGNALS: tuple[Signal, ...] = ("SIGKILL", "SIGTERM", "SIGSTOP")


@pytest.mark.soak
@pytest.mark.parametrize("name", SIGNALS)
def test_a_worker_gets_a_signal_in_each_round(
    kafka: KafkaConfig, tmp_path: Path, name: Signal
) -> None:
    """A killed worker repeats uncommitted work; a frozen one is replaced, and wakes as a zombie."""
    rig = two_kinds(kafka, tmp_path)
    course = Course(rig, DECISIONS)
    with Supervised(rig, **OFTEN) as supervised:
        course.run(lambda: hit_worker(rig, supervised, name))
    course.check()
    assert sum(rig.ends().values()) >= RECORDS
    if name == "SIGTERM":
        assert supervised.codes == [0] * len(supervised.codes)
    if name != "SIGSTOP":
        assert len(supervised.codes) >= 4


def hit_worker(rig: Rig, supervised: Supervised, name: Signal) -> None:
    """Send a signal to the worker; a frozen one is replaced first, and then continues."""
    victim = supervised.current
    victim.send_signal(signal.Signals[name])
    if name == "SIGSTOP":
        before = claims(rig)
        with rig.worker(**OFTEN):
            until(lambda: claims(rig) >= before + rig.loop.partitions, "another one owns it all")
            victim.send_signal(signal.SIGCONT)
    else:
        until(lambda: supervised.current is not victim, "a new worker is there")


def claims(rig: Rig) -> int:
    """Return how often a partition was claimed, by the table that is claimed last."""
    table = rig.lake.table(rig.loop.loop, "examples")
    owners = table.progress(OWNER.key(number) for number in range(rig.loop.partitions))
    return sum(number or 0 for number in owners.values())


@pytest.mark.soak
@pytest.mark.parametrize("name", SIGNALS)
def test_a_broker_gets_a_signal_in_each_round(
    own_kafka: EmbeddedKafka, tmp_path: Path, name: Signal
) -> None:
    """A broker that fails for a while stops the reading, and loses nothing."""
    rig = two_kinds(own_kafka.config, tmp_path)
    course = Course(rig, DECISIONS)
    with Supervised(rig, **OFTEN):
        course.run(lambda: hit_broker(own_kafka, rig, name))
    course.check()
    assert sum(rig.ends().values()) >= RECORDS


def hit_broker(kafka: EmbeddedKafka, rig: Rig, name: Signal) -> None:
    """Signal the broker, and restart it, until it leads its partitions again."""
    match name:
        case "SIGKILL":
            kafka.kill()
            kafka.start()
        case "SIGTERM":
            kafka.stop()
            kafka.start()
        case "SIGSTOP":
            kafka.suspend()
            time.sleep(FROZEN_S)  # the fault itself, not a wait for anything
            kafka.resume()
    until(lambda: leads(rig), "the broker leads its partitions")


def leads(rig: Rig) -> bool:
    """Return whether the broker returns the ends of logs; after a restart it takes a while."""
    try:
        return bool(rig.ends())
    except KafkaException:
        return False


@pytest.fixture
def bad_network() -> Iterator[tuple[EmbeddedKafka, ResettingProxy]]:
    """A broker, and a proxy through which workers reach it."""
    behind = free_port()
    with ResettingProxy(behind, seed=7, most_bytes=100_000) as proxy:
        broker = EmbeddedKafka(
            cache=cache_dir(os.environ), more=partial(proxied, behind=behind, proxy=proxy.port)
        )
        with broker:
            yield broker, proxy


@pytest.mark.soak
def test_connections_are_reset_in_each_round(
    bad_network: tuple[EmbeddedKafka, ResettingProxy], tmp_path: Path
) -> None:
    """A connection may end in the middle of a request or of an answer, and both are lost then."""
    broker, proxy = bad_network
    rig = two_kinds(broker.config, tmp_path)
    course = Course(rig, DECISIONS)
    through = {"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{proxy.port}"}
    with Supervised(rig, **OFTEN, **through):
        course.run(lambda: reset_connections(proxy))
    course.check()
    assert proxy.resets >= 30


def reset_connections(proxy: ResettingProxy) -> None:
    """Reset connections until it were ten."""
    before = proxy.resets
    proxy.is_bad = True
    until(lambda: proxy.resets >= before + 10, "connections are reset")
    proxy.is_bad = False


@pytest.mark.soak
@pytest.mark.parametrize("guard", GUARDS)
def test_without_a_guard_the_checker_goes_red(
    kafka: KafkaConfig, tmp_path: Path, guard: str
) -> None:
    """A matrix that passes whatever workers do proves nothing."""
    rig = two_kinds(kafka, tmp_path)
    rig.program = ("-m", "tests.streams.unguarded", guard)
    course = Course(rig, 1_500)
    with rig.worker(PYTHONPATH=path_with(ROOT)):
        course.run(lambda: None)
    with pytest.raises(AssertionError):
        course.check()


@pytest.fixture(scope="module")
def sound(kafka: KafkaConfig, tmp_path_factory: pytest.TempPathFactory) -> Course:
    """A finished course without any fault; tests damage copies of its lake."""
    course = Course(two_kinds(kafka, tmp_path_factory.mktemp("sound")), 1_500)
    with course.rig.worker():
        course.run(lambda: None)
    course.check()
    return course


def lose(lake: Lake, loop: str) -> None:
    """Take one row out of the raw table."""
    lake.table(loop, "feedback").handle().delete('"offset" = 3 AND "partition" = 1')


def double(lake: Lake, loop: str) -> None:
    """Write one row a second time."""
    table = lake.table(loop, "decisions")
    table.append(table.read().drop("event_date").head(1), swaps=[])


def pair_wrongly(lake: Lake, loop: str) -> None:
    """Give the feedback of one example to another one."""
    examples = lake.table(loop, "examples")
    rows = examples.read(where=pl.col("feedback_offsets").list.len() == 1).sort("offset")
    one, other = rows.filter(pl.col("partition") == 0).head(2).iter_rows(named=True)
    offsets = f"make_array(arrow_cast({other['feedback_offsets'][0]}, 'Int64'))"
    examples.handle().update(
        predicate=f"decision_id = '{one['decision_id']}'", updates={"feedback_offsets": offsets}
    )


def change_a_state(lake: Lake, loop: str) -> None:
    """Give one labeled example the state without feedback."""
    examples = lake.table(loop, "examples")
    one = examples.read(where=pl.col("state") == "labeled")["decision_id"].sort()[0]
    examples.handle().update(predicate=f"decision_id = '{one}'", updates={"state": "'no_feedback'"})


def forget_a_verdict(lake: Lake, loop: str) -> None:
    """Drop the verdict of one late decision."""
    table = lake.table(loop, "decisions")
    one = table.read(where=pl.col("verdict") == "late")["id"].sort()[0]
    table.handle().update(
        predicate=f"id = '{one}' AND verdict = 'late'", updates={"verdict": "NULL"}
    )


@pytest.mark.parametrize("damage", [lose, double, pair_wrongly, change_a_state, forget_a_verdict])
def test_the_checker_sees_damage(
    sound: Course, tmp_path: Path, damage: Callable[[Lake, str], None]
) -> None:
    """One record among thousands is enough."""
    shutil.copytree(sound.rig.folder / "lake", tmp_path / "lake")
    course = replace(sound, rig=replace(sound.rig, folder=tmp_path))
    damage(course.rig.lake, course.rig.loop.loop)
    with pytest.raises(AssertionError):
        course.check()

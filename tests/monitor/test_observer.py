"""The monitor shows each link of the chain once it is there, and says what it cannot read."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.schemas.loops import minimal

from tidemill.cli.app import main
from tidemill.cli.tables.chain import chain_table, troubles
from tidemill.cli.terminal import WRONG
from tidemill.errors import LoopError
from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.http_server.listener import HttpConfig
from tidemill.kafka import CompactedLog, KafkaConfig, Record, write_all
from tidemill.monitor.chain import Chain, parse_ack, with_trainer
from tidemill.monitor.lag import GroupLag
from tidemill.monitor.observer import MonitorConfig, Observer, Status, _check_model_record
from tidemill.monitor.readings import LoopRows, Reading
from tidemill.monitor.status import as_metrics, run_monitor
from tidemill.schemas import topics
from tidemill.schemas.control import FleetBeat, TrainerBeat
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.manifest import MAX_ACK_BYTES, Ack
from tidemill.schemas.models.signing import SigningKey, TrustedKeys
from tidemill.schemas.published import key_of, publish_loop, retired_version
from tidemill.schemas.record_signature import Attested, signed_headers
from tidemill.schemas.rules.rule_record import RuleRecord

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def loop(kafka: KafkaConfig) -> Loop:
    """A loop of this test's own, published."""
    kinds = {"clicked": {"within": "30m"}, "bought": {"within": "7d", "stream": "orders"}}
    made = minimal(loop=f"watched-{uuid.uuid4().hex[:8]}", feedback=kinds)
    publish_loop(kafka, made)
    return made


@pytest.fixture
def config(kafka: KafkaConfig, loop: Loop, tmp_path: Path) -> MonitorConfig:
    """A monitor of that loop on a free port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    lake = LakeConfig(root=str(tmp_path / "lake"))
    return MonitorConfig(
        kafka=kafka, lake=lake, loops=[loop.loop], http=HttpConfig(port=port), every_s=0.1
    )


def ack(
    loop: Loop, worker: str, version: str, status: str, at: datetime, slot: str = "live"
) -> tuple[bytes, bytes]:
    """What a worker would say of a model, as a record."""
    made = Ack.from_json(
        json.dumps(
            {"worker": worker, "loop": loop.loop, "slot": slot, "version": version}
            | {"digest": "0" * 64, "status": status, "reason": "", "at": at.isoformat()}
        ).encode()
    )
    return made.key, made.to_json()


def status_of(*rows: Chain) -> Status:
    """Return a status with these chains."""
    value = LoopRows(rows=rows)
    return Status(chains=Reading(name="loops", at_s=time.time(), value=value, problem=None))


def damage(config: MonitorConfig, loop: Loop) -> None:
    """Make the tables of *loop*, and its examples unreadable."""
    Lake(config.lake).create(loop)
    for path in Path(config.lake.root, loop.loop, "examples", "_delta_log").iterdir():
        path.write_text("junk")


def chain(config: MonitorConfig) -> Chain:
    """Read once and return the one chain."""
    with Observer(config) as observer:
        status = observer.read(Status())
    (found,) = chains(status)
    return found


def chains(status: Status) -> Sequence[Chain]:
    """Return what was read of the loops."""
    assert status.chains.value is not None, status.problem
    return status.chains.value.rows


@pytest.mark.kafka
def test_a_loop_that_was_only_published_has_no_link_yet(config: MonitorConfig) -> None:
    """An empty chain is a normal first hour, not an error."""
    found = chain(config)
    assert found.decision_age_s is found.feedback_age_s is found.example_age_s is None
    assert (found.model, found.workers) == (None, 0)


@pytest.mark.kafka
def test_each_link_shows_once_it_is_there(config: MonitorConfig, loop: Loop) -> None:
    """The row tells an operator at which link the chain is broken."""
    write_all(config.kafka, topics.decisions(loop.loop), [(b"d1", b"any bytes")])
    assert chain(config).decision_age_s is not None
    assert chain(config).feedback_age_s is None
    write_all(config.kafka, topics.feedback(loop.loop, "orders"), [(b"d1", b"any bytes")])
    assert chain(config).feedback_age_s is not None, "the newest of any stream"
    lake = Lake(config.lake)
    lake.create(loop)
    frontier = int(NOON.timestamp() * 1e6)
    lake.table(loop.loop, "examples").append(
        None,
        swaps=[CompareAndSwap(f"frontier/{n}", None, frontier + n) for n in range(loop.partitions)],
    )
    found = chain(config)
    assert found.closed_until == NOON
    assert found.example_age_s is not None
    assert found.example_age_s < 600
    assert found.trainer_age_s is None
    beat = TrainerBeat(loop=loop.loop, at=datetime.now(UTC), examples=0)
    write_all(config.kafka, topics.CONTROL, [beat.record()])
    found = chain(config)
    assert found.trainer_age_s is not None
    assert (found.trainer_age_s < 600, found.backlog) == (True, 1)


@pytest.mark.kafka
def test_workers_are_counted_by_the_model_they_serve(config: MonitorConfig, loop: Loop) -> None:
    """A worker left behind on an old model, or refusing the new one, is a worker to look at."""
    later = NOON + timedelta(minutes=1)
    said = [
        ack(loop, "a", "lightgbm-1", "serving", NOON),
        ack(loop, "b", "lightgbm-2", "serving", later),
        ack(loop, "c", "lightgbm-2", "refused", later),
        ack(loop, "a", "lightgbm-3", "serving", later + timedelta(minutes=1), "canary"),
    ]
    write_all(config.kafka, topics.ACKS, said)
    found = chain(config)
    assert found.model == "lightgbm-2", "a canary decides for a share alone"
    assert (found.serving, found.workers, found.refused) == (1, 3, 1)
    assert chain_table([found]).rows[0].style == WRONG


@pytest.mark.kafka
def test_what_nobody_has_signed_is_shown_as_unverified(config: MonitorConfig, loop: Loop) -> None:
    """Whoever may write to the topic can say that all workers serve a model that none has."""
    key = SigningKey.generate()
    trusting = replace(config, trusted=TrustedKeys.of([key.public]))
    name, value = ack(loop, "a", "lightgbm-1", "serving", NOON)
    write_all(config.kafka, topics.ACKS, [(name, value)])
    assert (chain(trusting).serving, chain(trusting).unverified) == (1, True)
    headers = signed_headers(key, topics.ACKS, name, value)
    write_all(config.kafka, topics.ACKS, [(name, value)], headers=headers)
    found = chain(trusting)
    assert (found.model, found.unverified) == ("lightgbm-1", False)
    assert found.to_json()["unverified"] is False
    assert chain(config).unverified, "this monitor trusts nobody"
    forged = ack(loop, "a", "lightgbm-9", "serving", NOON + timedelta(minutes=1))
    write_all(config.kafka, topics.ACKS, [forged])
    assert chain(trusting).model == "lightgbm-1", "what is signed stays"
    assert chain(config).model == "lightgbm-9"
    write_all(config.kafka, topics.ACKS, [ack(loop, "b", "lightgbm-9", "refused", NOON)])
    shown = chain(trusting)
    assert shown.unverified
    [*_, workers, _trainer] = chain_table([shown]).columns
    assert [str(cell) for cell in workers.cells] == ["1/2 1 refused unverified"]
    aged = replace(trusting, ack_age=timedelta(0))
    assert chain(aged).workers == 0
    write_all(config.kafka, topics.ACKS, [(name, None), (b"b/" + loop.loop.encode(), None)])


def test_trouble_comes_first_and_idle_loops_last() -> None:
    """Of a thousand loops a person reads the first ten."""
    ages = {"idle": None, "slow": 90.0, "busy": 0.5, "broken": 300.0}
    chains = [
        Chain(
            loop=name,
            decision_age_s=age,
            feedback_age_s=None,
            example_age_s=None,
            closed_until=None,
            model=None,
            model_age_s=None,
            serving=0,
            workers=1,
            refused=int(name == "broken"),
        )
        for name, age in ages.items()
    ]
    [loops, *_] = chain_table(chains).columns
    assert [str(cell) for cell in loops.cells] == ["broken", "busy", "slow", "idle"]


def test_a_trainer_that_has_stopped_is_told_with_what_waits_for_it(tmp_path: Path) -> None:
    """Its last model goes on deciding, so nothing else shows that nobody learns any more."""
    loop = minimal(loop="shop")
    lake = Lake(LakeConfig(root=str(tmp_path)))
    lake.create(loop)
    examples = lake.table(loop.loop, "examples")
    for number in range(3):
        examples.append(None, swaps=[CompareAndSwap(f"number/{number}", None, 1)])
    beat = TrainerBeat(
        loop="shop", at=NOON, examples=1, version="lightgbm-2", reason="not promoted: worse"
    )
    said = Attested(value=beat, written_ms=0, is_verified=True)
    plain = Chain(
        loop="shop",
        decision_age_s=1.0,
        feedback_age_s=None,
        example_age_s=None,
        closed_until=None,
        model=None,
        model_age_s=None,
        serving=0,
        workers=0,
        refused=0,
    )
    assert with_trainer(plain, lake, []) == plain
    alive, silent = (
        with_trainer(plain, lake, [said], now_s=NOON.timestamp() + age_s) for age_s in (5, 7_200)
    )
    assert (alive.trainer_age_s, alive.backlog) == (5.0, 2)
    assert not alive.unverified
    (made_up,) = (with_trainer(plain, lake, [replace(said, is_verified=False)]),)
    assert made_up.unverified
    fleet = FleetBeat(process="host-1", at=NOON, loops=("mail", "shop"))
    of_all = Attested(value=fleet, written_ms=0, is_verified=True)
    late = Attested(
        value=replace(beat, at=NOON - timedelta(hours=2)), written_ms=0, is_verified=True
    )
    shared = with_trainer(plain, lake, [late, of_all], now_s=NOON.timestamp() + 5)
    assert (shared.trainer_age_s, shared.backlog) == (5.0, 2), "it is alive for all its loops"
    elsewhere = replace(of_all, value=replace(fleet, loops=("mail",)))
    assert with_trainer(plain, lake, [elsewhere]).trainer_age_s is None
    assert chain_table([alive]).rows[0].style is None
    assert chain_table([silent]).rows[0].style == WRONG
    assert troubles(status_of(alive)) == []
    (line,) = troubles(status_of(silent))
    assert "trainer of shop was last seen 2.0 h ago, and 2 commits of examples wait" in line
    assert "its last verdict: lightgbm-2: not promoted: worse" in line
    shown = as_metrics(status_of(silent)).decode()
    assert 'tidemill_trainer_age_seconds{loop="shop"} 7200.0' in shown
    assert 'tidemill_trainer_backlog_commits{loop="shop"} 2.0' in shown


@pytest.mark.kafka
def test_a_retired_loop_is_shown_as_that_and_wakes_nobody(
    config: MonitorConfig, loop: Loop
) -> None:
    """Its topics grow old and its trainer is silent: that is what was asked for."""
    write_all(config.kafka, topics.decisions(loop.loop), [(b"d1", b"any bytes")])
    long_ago = datetime.now(UTC) - timedelta(hours=2)
    beat = TrainerBeat(loop=loop.loop, at=long_ago, examples=0)
    write_all(config.kafka, topics.CONTROL, [beat.record()])
    Lake(config.lake).create(loop)
    publish_loop(config.kafka, retired_version(loop, "ann: nobody asks"))
    with Observer(config) as observer:
        status = observer.read(Status())
    (found,) = chains(status)
    assert found.retired == "ann: nobody asks"
    others = "a bad record is passed over"  # other tests leave some on the shared topics
    assert [each for each in troubles(status) if not each.startswith(others)] == []
    assert chain_table([found]).rows[0].style is None
    shown = as_metrics(status).decode()
    assert f'tidemill_loop_retired{{loop="{loop.loop}"}} 1.0' in shown
    assert f'tidemill_decision_age_seconds{{loop="{loop.loop}"}}' not in shown
    assert status.lags.value is not None
    lagging = {each.topic for lag in status.lags.value for each in lag.partitions}
    assert topics.decisions(loop.loop) not in lagging


@pytest.mark.kafka
def test_the_service_answers_and_says_when_it_cannot_look(
    config: MonitorConfig, loop: Loop
) -> None:
    """A monitor that hides its own failure is worse than none."""
    stop, url = threading.Event(), f"http://127.0.0.1:{config.http.port}"
    thread = threading.Thread(target=run_monitor, args=(config, stop))
    thread.start()
    try:
        wait_for(lambda: get(f"{url}/healthz")[0] == 200)
        status = json.loads(get(f"{url}/status")[1])
        assert [loop["loop"] for loop in status["loops"]] == list(config.loops)
        assert b"tidemill_monitor_up 1.0" in get(f"{url}/metrics")[1]
        damage(config, loop)
        wait_for(lambda: get(f"{url}/healthz")[0] == 503)
        assert b"tidemill_monitor_up 0.0" in get(f"{url}/metrics")[1]
    finally:
        stop.set()
        thread.join()


@pytest.mark.kafka
def test_bad_records_are_shown_and_hide_no_loop(config: MonitorConfig, loop: Loop) -> None:
    """One record that anybody could write must not make the monitor blind for all loops."""
    name = f"junk-{loop.loop}"
    mine = [ack(loop, "a", "lightgbm-1", "serving", NOON), (f"{name}/a".encode(), b"{")]
    elsewhere = (f"{name}/b".encode(), mine[0][1])
    write_all(config.kafka, topics.ACKS, [*mine, elsewhere])
    junk = (f"{name}/1".encode(), b"not json")
    homeless = minimal(loop=f"homeless-{loop.loop}")
    home = (key_of(homeless), homeless.canonical.encode())
    write_all(config.kafka, topics.LOOPS, [home])
    for topic in (topics.LOOPS, topics.CONTROL, topics.SCHEMAS, topics.MODELS):
        write_all(config.kafka, topic, [junk])
    observer = Observer(replace(config, loops=[loop.loop, "nobody", homeless.loop]))
    try:
        status = observer.read(Status())
        assert [each.serving for each in chains(status)] == [1]
        assert status.problem is None
        assert "no loop 'nobody'" in status.unread["nobody"]
        assert f"no topic {homeless.loop}." in status.unread[homeless.loop]
        found = [bad for bad in status.bad_records.value or () if bad.key.startswith(name)]
        assert sorted(bad.topic for bad in found) == sorted(
            [topics.ACKS, topics.ACKS, topics.CONTROL, topics.LOOPS, topics.MODELS, topics.SCHEMAS]
        )
        assert any(line.startswith("nobody could not be read") for line in troubles(status))
        assert any(f"key '{name}/1'" in line for line in troubles(status))
        assert b'tidemill_loop_unread{loop="nobody"} 1.0' in as_metrics(status)
        assert json.dumps(status.to_json())
    finally:
        keys = [key for key, _ in (*mine, elsewhere)]
        write_all(config.kafka, topics.ACKS, [(key, None) for key in keys])
        for topic in (topics.LOOPS, topics.SCHEMAS, topics.MODELS):
            write_all(config.kafka, topic, [(junk[0], None)])
        write_all(config.kafka, topics.LOOPS, [(home[0], None)])
    gone = observer.read(status).bad_records.value
    assert gone is not None
    assert {bad.topic for bad in gone if bad.key.startswith(name)} == {topics.CONTROL}
    observer.close()


@pytest.mark.parametrize(
    "change",
    [
        {"at": "2026-01-01T00:00:00"},
        {"at": 7},
        {"loop": ["shop"]},
        {"status": "well"},
        {"worker": "another"},
        {"load_ms": "x"},
        {"sequence": 1.5},
        {"reason": "x" * MAX_ACK_BYTES},
        {"at": "2124-01-01T00:00:00+00:00"},
    ],
    ids=str,
)
def test_what_is_no_acknowledgement_costs_that_record_alone(change: dict[str, object]) -> None:
    """A time without a zone cannot be compared with another, and would end each reading."""
    key, value = ack(minimal(), "a", "lightgbm-1", "serving", NOON)
    broken = json.dumps(json.loads(value) | change).encode()
    log = CompactedLog(parse_ack)
    log.take(
        [
            Record(
                topic=topics.ACKS,
                partition=0,
                offset=n,
                key=key,
                value=each,
                timestamp_ms=int(NOON.timestamp() * 1000),
            )
            for n, each in enumerate((value, broken))
        ]
    )
    assert [each.version for each in log.values] == ["lightgbm-1"]
    assert [bad.offset for bad in log.bad] == [1]


def test_an_acknowledgement_of_a_newer_release_is_read() -> None:
    """Workers are upgraded one by one, and before the monitor."""
    key, value = ack(minimal(), "a", "lightgbm-1", "serving", NOON)
    newer = json.dumps(json.loads(value) | {"more": "x"}).encode()
    record = Record(topic=topics.ACKS, partition=0, offset=0, key=key, value=newer, timestamp_ms=0)
    assert parse_ack(record).version == "lightgbm-1"


@pytest.mark.kafka
def test_a_loop_whose_tables_are_damaged_hides_no_other(
    config: MonitorConfig, loop: Loop, kafka: KafkaConfig
) -> None:
    """The operator has to see the loops that are well while one is repaired."""
    other = minimal(loop=f"{loop.loop}-other")
    publish_loop(kafka, other)
    lake = Lake(config.lake)
    lake.create(loop)
    damage(config, other)
    with Observer(replace(config, loops=[loop.loop, other.loop])) as observer:
        status = observer.read(Status())
    assert [each.loop for each in chains(status)] == [loop.loop]
    assert status.problem is None
    assert status.unread.keys() == {other.loop}
    assert status.accounts.value is not None
    assert {each.loop for each in status.accounts.value.rows} == {loop.loop}


def test_figures_of_a_failed_reading_are_not_exported() -> None:
    """Old ones say that all is well, all night long; their age is what alerts."""
    lag = GroupLag(group="readers", members=1, partitions=())
    read: Reading[Sequence[GroupLag]] = Reading(name="lag", at_s=1_000.0, value=[lag], problem=None)
    metrics = as_metrics(Status(lags=read), 1_007.0).decode()
    assert 'tidemill_lag_messages{group="readers"} 0.0' in metrics
    lost = replace(read, value=None, problem="no answer")
    metrics = as_metrics(Status(lags=lost), 1_300.0).decode()
    assert "tidemill_lag_" not in metrics
    assert 'tidemill_reading_age_seconds{reading="lag"} 300.0' in metrics
    assert "tidemill_monitor_up 0.0" in metrics


@pytest.mark.slow
def test_a_monitor_without_kafka_says_what_it_could_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 3, and within ten seconds."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path))
    assert main(["monitor", "--once", "--json"]) == 3
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["groups"] == document["loops"] == []
    assert "127.0.0.1:1" in document["readings"]["lag"]["problem"]
    assert "127.0.0.1:1 does not answer" in captured.err


def get(url: str) -> tuple[int, bytes]:
    """Return status and body of *url*; 0 while nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def wait_for(is_true: object) -> None:
    """Ask until *is_true* is, at most a minute; the broker decides how long it takes."""
    assert callable(is_true)
    pause = threading.Event()
    for _ in range(600):
        if is_true():
            return
        pause.wait(0.1)
    pytest.fail("it did not come true within a minute")


@pytest.mark.parametrize("is_right", [True, False])
def test_rules_on_the_model_topic_are_no_bad_records(is_right: bool) -> None:
    """An operator who is told of what is well looks no more."""
    made = RuleRecord(
        loop="ads", version=1, at=datetime(2026, 1, 1, tzinfo=UTC), who="ann", why="?", rules=[]
    )
    record = Record(
        topic=topics.MODELS,
        partition=0,
        offset=0,
        key=made.key,
        value=made.to_json() if is_right else b"{}",
        timestamp_ms=0,
    )
    if is_right:
        _check_model_record(record)
    else:
        with pytest.raises(LoopError, match="no rules"):
            _check_model_record(record)

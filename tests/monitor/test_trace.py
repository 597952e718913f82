"""The trace of a decision: every step of its life, and each of them where the lake says it is."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from tests.features.audited import PARTITION, write_lake
from tests.features.streamlakes import ORDERS, SHOP, write_streams
from tests.streams.join_logs import LOOP, SECOND, START, D, F, Logs, Shell, seconds

from tidemill.cli.app import main
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.monitor.trace import Trace, trace
from tidemill.schemas.logs import DECISIONS, FEEDBACK
from tidemill.schemas.models.manifest import payload_digest
from tidemill.streams.join.rules import JoinRules, default_bucket
from tidemill.trainers.registry import ModelVersion, Registry

BUCKET = default_bucket(LOOP.wait)


def a_life(folder: Path) -> Lake:
    """Return a lake with a decision `a` that is closed, `b` that is open, and what goes with it."""
    decisions = [D("a", 0), D("a", 1), D("o", 20), D("a", 0), D("b", 21)]
    feedback = [
        *(F("f1", "a", 2), F("f2", "a", 5, "buy", 7.0), F("f2", "a", 5, "buy", 7.0)),
        *(F("f3", "a", 7), F("x", "nobody", 7), F("f4", "b", 22), F("f5", "a", 1)),
    ]
    stream = Shell(Logs(decisions, feedback))
    for log in (DECISIONS, FEEDBACK):
        stream.poll(log, 100)
    stream.commit()
    return write_lake(stream, folder)


def traced(lake: Lake, id_: str) -> Trace:
    """Return the trace of *id_*."""
    return trace(lake, LOOP, id_, bucket=BUCKET)


def test_every_record_of_it_is_told_with_what_became_of_it(tmp_path: Path) -> None:
    """Copies and late ones too: they are what people ask about."""
    found = traced(a_life(tmp_path), "a")
    assert [(each.row["offset"], each.state) for each in found.decisions] == [
        (0, "labeled"),
        (1, "duplicate"),
        (3, "late"),
    ]
    assert [(each.row["id"], each.row["offset"], each.state) for each in found.feedback] == [
        ("f1", 0, "joined"),
        ("f2", 1, "joined"),
        ("f2", 2, "duplicate"),
        ("f3", 3, "late"),
        ("f5", 6, "late"),
    ]
    (example,) = found.examples
    assert (example.state, example.row["feedback_offsets"]) == ("labeled", [0, 1])
    assert found.decisions[2].row["stream_time"] == START + 20 * SECOND


def test_the_files_it_names_hold_the_rows(tmp_path: Path) -> None:
    """Whoever restores a lake or erases a person opens them next."""
    lake = a_life(tmp_path)
    found = traced(lake, "a")
    entries = {"decisions": found.decisions, "feedback": found.feedback, "examples": found.examples}
    for table, rows in entries.items():
        assert rows
        for entry in rows:
            assert entry.file is not None
            assert entry.file.startswith(f"shop/{table}/event_date=")
            held = pl.read_parquet(Path(lake.root) / entry.file)
            assert entry.row["offset"] in held["offset"]


def test_an_open_decision_says_what_it_waits_for(tmp_path: Path) -> None:
    """The log that holds it back is the one to look at."""
    lake = a_life(tmp_path)
    found = traced(lake, "b")
    assert [each.state for each in found.decisions] == ["open"]
    window = found.window
    assert window is not None
    assert window.kinds["click"] == (START + 19 * SECOND, START + 24 * SECOND)
    assert window.closes == START + (22 + 8 + 2) * SECOND
    assert not window.is_closed
    assert window.waits_for == {"decisions": 11 * SECOND, "feedback": 10 * SECOND}
    closed = traced(lake, "a").window
    assert closed is not None
    assert closed.is_closed
    assert closed.waits_for == {}


def test_feedback_alone_is_known_too(tmp_path: Path) -> None:
    """A service that logs answers but not decisions is found this way."""
    found = traced(a_life(tmp_path), "nobody")
    assert found.is_known
    assert not found.decisions
    assert [each.state for each in found.feedback] == ["unmatched"]
    assert found.window is None


def add_model(lake: Lake, name: str, learner: str, snapshot: int, **changes: object) -> None:
    """Add a version to the registry."""
    registry = Registry(lake, LOOP.loop)
    model = ModelVersion(
        number=registry.next_number(),
        version=name,
        at=START + timedelta(days=1),
        learner=learner,
        loop_version=1,
        policy_version=1,
        label_type="float",
        promoted=True,
        sequence=registry.next_sequence(),
        reason="better than the base rate",
        metrics={},
        snapshot=snapshot,
        labels=1,
        until=START + 60 * SECOND,
        later_from=None,
        trained_on_rows=1,
        base_rate=0.5,
        seed=7,
        wall_s=1.0,
        cpu_s=1.0,
        digest=payload_digest(b"x"),
        features="{}",
    )
    registry.add(replace(model, **changes), b"x")  # type: ignore[arg-type]


@pytest.mark.slow
def test_it_names_the_models_that_have_seen_it_and_as_what(tmp_path: Path) -> None:
    """When a label turns out to be wrong, these are the models to look at."""
    lake = a_life(tmp_path)
    add_model(lake, "lightgbm-1", "lightgbm", 0)  # before its window was closed
    add_model(lake, "lightgbm-2", "lightgbm", 1, later_from=START + 50 * SECOND)
    add_model(lake, "lightgbm-3", "lightgbm", 1, later_from=START)
    add_model(lake, "lightgbm-4", "lightgbm", 1, later_from=START + 5 * SECOND)
    add_model(lake, "logistic_regression-5", "logistic_regression", 1, later_from=START)
    add_model(lake, "lightgbm-6", "lightgbm", 99, later_from=START + 50 * SECOND)
    add_model(lake, "lightgbm-7", "lightgbm", 1, until=START - SECOND)
    seen = {use.model.version: (use.role, use.is_sure) for use in traced(lake, "a").uses}
    assert seen == {
        "lightgbm-2": ("learned", True),
        "lightgbm-3": ("judged by", True),
        "lightgbm-4": ("left out", True),
        "logistic_regression-5": ("learned", True),
        "lightgbm-6": ("learned", False),
    }
    assert traced(lake, "b").uses == (), "it is no example yet"


@pytest.mark.slow
def test_an_example_that_was_corrected_shows_every_revision(tmp_path: Path) -> None:
    """What a reader saw last week is not what one sees today, and here is why."""
    loop = LOOP.model_copy(update={"corrections": 20 * SECOND})
    feedback = [F("w", "z", 15), F("x", "a", 1, value=4.0), F("y", "a", 2, value=1.0)]
    stream = Shell(Logs([D("a", 0), D("b", 0), D("z", 15)], feedback), JoinRules.of(loop))
    stream.poll(DECISIONS, 3)
    for _ in feedback:
        stream.poll(FEEDBACK, 1)
        stream.commit()
    lake = write_lake(stream, tmp_path, loops=[loop])
    add_model(lake, "lightgbm-1", "lightgbm", 1)
    found = trace(lake, loop, "a", bucket=BUCKET)
    assert [(each.row["revision"], each.row["label"]) for each in found.examples] == [
        (0, 0.0),
        (1, 4004.0),
        (2, 4005.0),
    ]
    assert [each.state for each in found.feedback] == ["corrected", "corrected"]
    (use,) = found.uses
    assert use.revision == 2


def test_the_command_tells_the_story(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the topic to the model, in the order in which it happened."""
    lake = a_life(tmp_path)
    add_model(lake, "lightgbm-1", "lightgbm", 1)
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path))
    assert main(["trace", "a"]) == 0
    out = capsys.readouterr().out
    words = ("decided", "read", "lies in", "state", "window", "closes", "feedback", "example")
    places = [out.index(f"  {word}") for word in (*words, "model")]
    assert places == sorted(places)
    assert f"shop/{PARTITION} offset 0" in out
    assert "verdict late" in out
    assert "buy f2 at 2026-03-01 00:00:05, 5s after it, amount 7: joined" in out
    assert "lightgbm-1 learned it (examples version 1)" in out
    assert main(["trace", "b", "--loop", LOOP.loop]) == 0
    out = capsys.readouterr().out
    assert "open since it came in" in out
    assert "feedback: stands at 2026-03-01 00:00:22, 10s of event time to go" in out


def test_json_has_all_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a program, times in ISO 8601."""
    a_life(tmp_path)
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path))
    assert main(["trace", "a", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["decisions"][0]["at"] == START.isoformat()
    assert told["examples"][0]["feedback_offsets"] == [0, 1]
    assert told["window"]["closed"] is True
    assert told["versions"]["examples"] == 1


def test_an_id_nobody_knows_is_an_error_with_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 2; an empty story would look like an answer."""
    a_life(tmp_path)
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path))
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    assert main(["trace", "zzz"]) == 2
    told = capsys.readouterr().err
    assert "no decision and no feedback with the id zzz in any loop" in told
    assert "hint:" in told


def test_a_purchase_by_another_stream_is_traced_to_its_topic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Topic and offset are those a consumer would be given; the example names both streams."""
    lake = write_streams(tmp_path)
    found = trace(lake, SHOP, "a", bucket=BUCKET)
    shown = [(each.row["topic"], each.offset, each.state) for each in found.feedback]
    assert shown == [
        ("shop.feedback", 0, "joined"),
        ("shop.feedback.orders", 0, "joined"),
        ("shop.feedback.orders", 1, "duplicate"),
    ]
    assert all(each.file for each in found.feedback)
    told = json.loads(json.dumps(found.to_json(), default=str))
    by_place = {each["place"]: each["offset"] for each in told["feedback"]}
    assert [by_place[place] for place in told["examples"][0]["feedback_offsets"]] == [0, 0]
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path))
    assert main(["trace", "a"]) == 0
    out = capsys.readouterr().out
    assert f"shop.feedback.orders/{PARTITION} offset 1" in out
    assert "of feedback at offsets [0, orders 0]" in out


def test_an_open_decision_says_which_stream_it_waits_for(tmp_path: Path) -> None:
    """A topic that is behind holds the windows of all, and this is where one sees which."""
    window = trace(write_streams(tmp_path), SHOP, "c", bucket=BUCKET).window
    assert window is not None
    assert {log: seconds(at) for log, at in window.stream_times.items() if at is not None} == {
        "decisions": 30,
        "feedback": 31,
        ORDERS: 40,
    }
    behind = {log: length for log, length in window.waits_for.items() if length is not None}
    assert {log: length // SECOND for log, length in behind.items()} == {
        "decisions": 11,
        "feedback": 10,
        ORDERS: 1,
    }


def test_a_loop_may_be_called_as_the_trace_calls_its_own_tables(tmp_path: Path) -> None:
    """Its rows of one id are in a schema that no loop can have."""
    stream = Shell(Logs([D("a", 0)], []))
    stream.finish()
    lake = Lake(LakeConfig(root=str(tmp_path)))
    loop = LOOP.model_copy(update={"loop": "traced"})
    lake.create(loop)
    place = {"topic": pl.lit("traced"), "partition": pl.lit(0, dtype=pl.Int32)}
    rows = stream.rows(DECISIONS).with_columns(ingested_at=pl.col("at"), **place)
    lake.table("traced", "decisions").append(rows, swaps=[])
    assert [entry.state for entry in trace(lake, loop, "a", bucket=BUCKET).decisions] == ["open"]

"""A history in the sandbox gives the examples and models that Kafka would have given."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.streams.rig import Rig, until

from tidemill.deploy.sandbox.history import PastEvent
from tidemill.deploy.sandbox.history_publisher import publish_history
from tidemill.deploy.sandbox.sandbox import Sandbox, empty_folder
from tidemill.errors import ConfigError, ContractError
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.kafka import KafkaConfig
from tidemill.schemas.logs import DECISIONS
from tidemill.schemas.loop.definition import Loop
from tidemill.serving.model.admission import try_payload
from tidemill.serving.policies.choice import LiveModel
from tidemill.serving.policies.policies import policy_of

START = datetime(2026, 3, 1, tzinfo=UTC)
RATES = {"x": {"a": 0.1, "b": 0.4}, "y": {"a": 0.1, "b": 0.02}}


def shop(name: str = "shop", **changes: object) -> Loop:
    """Return a loop with two actions, of which the better one depends on the segment."""
    return Loop.model_validate(
        {
            "loop": name,
            "decision": {"type": "choice", "actions": ["a", "b"], "default": "a"},
            "features": {"segment": {"type": "category"}},
            "feedback": {"click": {"within": "10m"}},
            "label": {"sql": "count(*) > 0"},
            "policy": {"kind": "greedy", "epsilon": 0.2},
            "models": {"batch": {"min_labels": 500, "retrain": {"new_labels": 2_000}}},
            "gate": {"min_rows": 100},
        }
        | changes
    )


def history(loop: Loop, decisions: int, seed: int = 7) -> list[PastEvent]:
    """Return decisions at random, one each minute, with the clicks that follow."""
    draw, events = random.Random(seed), []
    for number in range(decisions):
        at, id = START + timedelta(minutes=number), f"d{number}"
        segment, action = draw.choice("xy"), draw.choice("ab")
        fields: dict[str, object] = {"id": id, "at": at, "entity": None, "action": action}
        fields |= {"score": None, "propensity": 0.5, "source": "history"}
        fields |= {"policy_version": 1, "loop_version": loop.version}
        fields |= {"features": {"segment": segment}}
        events.append(PastEvent(at=at, log=DECISIONS, key=id, fields=fields))
        if draw.random() < RATES[segment][action]:
            clicked = at + timedelta(minutes=draw.uniform(0, 12))  # some of them too late
            given: dict[str, object] = {"id": f"{id}/c", "decision_id": id, "at": clicked}
            given |= {"values": {}}
            log = loop.feedback["click"].log
            events.append(PastEvent(at=clicked, log=log, key=id, fields=given, kind="click"))
    return sorted(events, key=lambda event: event.at)


def counted_by_hand(events: Sequence[PastEvent]) -> int:
    """Return how many decisions were clicked within ten minutes."""
    made = {event.key: event.at for event in events if event.kind is None}
    within = timedelta(minutes=10)
    return sum(event.at - made[event.key] <= within for event in events if event.kind)


@pytest.mark.slow
def test_each_decision_ends_as_an_example_by_the_rules_of_the_join(tmp_path: Path) -> None:
    """The same numbers as a count by hand: windows are closed in event time, all of them."""
    loop = shop()
    events, shown = history(loop, 3_000), []
    report = Sandbox(loop, tmp_path).play(events, lambda *both: shown.append(both))
    clicked = counted_by_hand(events)
    assert report.states == {"labeled": clicked, "no_feedback": 3_000 - clicked}
    assert (report.decisions, report.feedback) == (3_000, len(events) - 3_000)
    assert report.labels == 3_000
    assert report.mean_label == pytest.approx(clicked / 3_000)
    assert report.refused == {}
    assert shown[-1] == (len(events), len(events))


@pytest.mark.slow
def test_a_history_gives_the_same_models_each_time(tmp_path: Path) -> None:
    """Trainers look for work by time; here it is the time of the events alone."""
    loop = shop()
    events = history(loop, 3_000)
    reports = [Sandbox(loop, tmp_path / name).play(events) for name in "ab"]
    first, again = ([(m.version, m.digest, m.reason) for m in r.models] for r in reports)
    assert first == again
    assert len(first) >= 2


def test_events_that_cannot_be_joined_are_counted_by_their_reason(tmp_path: Path) -> None:
    """A clock that was wrong for a day is seen before the loop is on Kafka."""
    loop = shop(max_age="1d")
    events = history(loop, 10)
    at = START - timedelta(days=2)
    old = {**events[0].fields, "id": "old", "at": at}
    late = PastEvent(at=at, log=DECISIONS, key="old", fields=old)
    report = Sandbox(loop, tmp_path).play([*events, late])
    assert report.refused == {"age": 1}


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    """Two runs in one lake would be one loop with twice the decisions."""
    assert empty_folder(tmp_path / "new" / "lake").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        empty_folder(tmp_path)


@pytest.mark.kafka
def test_a_published_history_becomes_the_examples_of_the_sandbox(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """What `try` promised is what the worker writes, row for row."""
    loop = shop(f"try-{random.randrange(10**9)}", partitions=2)
    events = history(loop, 400)
    columns = ["decision_id", "state", "label"]
    sandbox = Sandbox(loop, tmp_path / "sandbox")
    sandbox.play(events)
    promised = sandbox.lake.table(loop.loop, EXAMPLES).read(columns).sort("decision_id")
    publish_history(kafka, loop, events, {})
    rig = Rig(kafka, loop, tmp_path)
    with rig.worker():
        until(rig.is_read, "the history is read")
        rig.close(events[-1].at)
        until(rig.is_done, "everything is closed")
    assert rig.examples().select(columns).sort("decision_id").equals(promised)
    with pytest.raises(ContractError, match="records already"):
        publish_history(kafka, loop, events, {})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linucb", "thompson"])
def test_a_policy_that_explores_by_doubt_gets_a_posterior_that_workers_admit(
    tmp_path: Path, kind: str
) -> None:
    """From the rows to a model that decides, by the trial that production has."""
    loop = shop(policy={"kind": kind, "epsilon": 0.2})
    sandbox = Sandbox(loop, tmp_path, trial=try_payload)
    report = sandbox.play(history(loop, 6_000))
    assert report.live is not None, [model.reason for model in report.models]
    assert report.live.learner == "posterior"
    payload = sandbox.cycle.registry.payload(report.live)
    score = try_payload(
        loop,
        version=report.live.version,
        learner="posterior",
        payload=payload,
        signature=report.live.signature,
    )
    policy, model = policy_of(loop), LiveModel(report.live.version, score)
    for segment, best in (("x", "b"), ("y", "a")):
        keys = [f"d{number}".encode() for number in range(200)]
        taken = [policy.choose(model, (segment,), key)[0] for key in keys]
        assert taken.count(best) > 150

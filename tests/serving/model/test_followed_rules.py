"""Rules reach workers over the model topic, and hold for whatever decides."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from tests.serving.conftest import NOWHERE
from tests.serving.decision.test_decider import logged
from tests.serving.models import FEATURES, banner

from tidemill.kafka import Record
from tidemill.schemas import topics
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.signing import SigningKey, TrustedKeys
from tidemill.schemas.record_signature import signed_headers
from tidemill.schemas.rules.rule_file import record_of
from tidemill.schemas.rules.rule_set import RuleSet
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.decision.results import DecisionResult
from tidemill.serving.worker import ServingWorkerConfig, Worker

LOOP = banner()
HIDE = {"name": "hide", "when": "true", "replace": "hide"}
SHOW = {"name": "show", "when": "true", "replace": "show"}


def ruled(
    key: SigningKey | None, version: int, *rules: Mapping[str, object], loop: Loop = LOOP
) -> Record:
    """Return the record of *rules* as it is on the topic."""
    written = RuleSet.model_validate({"loop": loop.loop, "rules": list(rules)})
    at = datetime(2026, 1, 1, tzinfo=UTC)
    made = record_of(written, loop, version=version, at=at, who="ann", why="a test")
    value = made.to_json()
    return Record(
        topic=topics.MODELS,
        partition=0,
        offset=version,
        key=made.key,
        value=value,
        timestamp_ms=0,
        headers=signed_headers(key, topics.MODELS, made.key, value),
    )


def read(worker: Worker, *records: Record) -> None:
    """Let the worker read *records*, to the end of the topic."""
    worker.subscriber.take_models(list(records))
    worker.follower.settle()


def decide(worker: Worker) -> DecisionResult:
    """Ask for one decision."""
    decider = worker.decider(LOOP.loop)
    return decider.decide(decider.decisions.check(FEATURES))


def test_rules_are_in_force_at_once_and_are_logged(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """An analysis has to know which rules made which decision, and what the policy had chosen."""
    before = decide(worker)
    read(worker, ruled(key, 1, SHOW if before.action == "hide" else HIDE))
    found = decide(worker)
    assert found.action != before.action
    assert found.policy_action == before.action
    assert found.propensity == 1.0
    first, second = logged(log, topics.decisions(LOOP.loop))
    assert (first["rule_version"], first["policy_action"]) == (None, None)
    assert (second["rule_version"], second["policy_action"]) == (1, before.action)
    assert second["action"] == found.action


def test_only_the_newest_rules_count(worker: Worker, key: SigningKey) -> None:
    """After a lost connection the topic is read from its beginning."""
    first, second, none = ruled(key, 1, SHOW), ruled(key, 2, HIDE), ruled(key, 3)
    read(worker, first, second)
    assert decide(worker).action == "hide"
    read(worker, first)
    assert decide(worker).action == "hide"
    read(worker, none)
    assert decide(worker).policy_action is None


@pytest.mark.parametrize("is_signed", [False, True])
def test_rules_of_somebody_else_change_nothing(worker: Worker, is_signed: bool) -> None:
    """Whoever may write to the topic must not be able to decide."""
    stranger = SigningKey.generate() if is_signed else None
    before = decide(worker)
    read(worker, ruled(stranger, 1, SHOW if before.action == "hide" else HIDE))
    assert decide(worker).action == before.action
    (bad,) = worker.subscriber.bad.all()
    assert "without the signature of a trusted key" in str(bad)


def test_a_signature_does_not_carry_over_to_other_rules(worker: Worker, key: SigningKey) -> None:
    """The value is part of what is signed."""
    shown, hidden = ruled(key, 1, SHOW), ruled(key, 1, HIDE)
    read(worker, replace(shown, value=hidden.value), replace(hidden, value=shown.value))
    assert worker.decider(LOOP.loop).rules is None


def test_rules_that_do_not_fit_leave_those_before(worker: Worker, key: SigningKey) -> None:
    """They were made for another version of the loop; the operator is told."""
    other = banner(features={**LOOP.model_dump()["features"], "weather": "category"})
    rainy = {"name": "rainy", "when": "weather = 'rain'", "replace": "show"}
    read(worker, ruled(key, 1, HIDE), ruled(key, 2, rainy, loop=other))
    assert decide(worker).action == "hide"
    (told,) = worker.follower.rules.troubles.values()
    assert "'weather' is no column" in told
    assert told in worker.troubles()
    read(worker, ruled(key, 3, SHOW))
    assert decide(worker).action == "show"
    assert worker.follower.rules.troubles == {}


def test_rules_that_came_before_their_loop_wait_for_it(worker: Worker, key: SigningKey) -> None:
    """The two topics are read independently."""
    later = banner(loop="later")
    read(worker, ruled(key, 1, HIDE, loop=later))
    worker.follower.install(later)
    rules = worker.decider("later").rules
    assert rules is not None
    assert rules.version == 1


def test_a_new_version_of_the_loop_keeps_its_rules(worker: Worker, key: SigningKey) -> None:
    """What is forbidden stays forbidden when a feature is added."""
    read(worker, ruled(key, 1, HIDE))
    worker.follower.install(banner(version=2))
    assert decide(worker).action == "hide"


def test_rules_hold_while_a_worker_reads_with_other_keys(worker: Worker, key: SigningKey) -> None:
    """Between two sets of trusted keys nothing forbidden is done; then only trusted rules hold."""
    read(worker, ruled(key, 1, HIDE))
    worker._start_over()
    assert decide(worker).action == "hide"
    read(worker, ruled(key, 1, HIDE))
    assert decide(worker).action == "hide"
    worker._start_over()
    worker.follower.settle()
    assert worker.decider(LOOP.loop).rules is None, "the topic has none that is trusted"


def test_hits_are_counted_by_rule(worker: Worker, key: SigningKey) -> None:
    """A rule that never holds, or always, is a question for its author."""
    never = {"name": "never", "when": "1 > 2", "replace": "show"}
    read(worker, ruled(key, 1, never, HIDE))
    for _ in range(3):
        decide(worker)
    rules = worker.decider(LOOP.loop).rules
    assert rules is not None
    assert rules.hits == {"never": 0, "hide": 3}


def test_nobody_is_trusted_without_keys(log: MemoryEventLog, key: SigningKey) -> None:
    """As with models."""
    config = ServingWorkerConfig(
        kafka=NOWHERE, name="w-2", definitions=(LOOP,), trusted=TrustedKeys({})
    )
    worker = Worker(config, event_log=log)
    read(worker, ruled(key, 1, HIDE))
    assert worker.decider(LOOP.loop).rules is None

"""Only a complete, signed, fitting model serves; others are refused and acknowledged so."""

from dataclasses import replace

import pytest
from tests.serving.conftest import NOWHERE
from tests.serving.model.bad_models import BAD, PAYLOAD, hostile, replayed
from tests.serving.models import (
    FEATURES,
    SIGNATURE,
    banner,
    manifest,
    records,
    river_state,
    text,
)

from tidemill.schemas import topics
from tidemill.schemas.loop.fields import FieldType
from tidemill.schemas.models.feature_signature import FeatureSignature, SignatureField
from tidemill.schemas.models.manifest import DEFAULT, DEFAULT_PAYLOAD, INLINE_BYTES, Ack
from tidemill.schemas.models.river_state import LinearState, Weight
from tidemill.schemas.models.signing import SigningKey, TrustedKeys
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.decision.results import DecisionResult
from tidemill.serving.worker import ServingWorkerConfig, Worker

pytestmark = pytest.mark.slow  # each model is tried in a process of its own


def acks(log: MemoryEventLog) -> list[Ack]:
    """Return what the worker has acknowledged."""
    return [Ack.from_json(event.value or b"") for event in log.events if event.topic == topics.ACKS]


def answered(log: MemoryEventLog) -> list[tuple[str, str]]:
    """Return version and status of each acknowledgement."""
    return [(ack.version, ack.status) for ack in acks(log)]


def decide(worker: Worker) -> DecisionResult:
    """Ask for a decision about the usual features."""
    maker = worker.decider("banner")
    return maker.decide(maker.decisions.check(FEATURES))


def feed(worker: Worker, *items: tuple[bytes | None, bytes | None]) -> None:
    """Let the worker read *items* from the model topic, to its end."""
    for key, value in items:
        worker.follower.take_model(key, value)
    worker.follower.settle()


def test_a_published_model_serves_and_is_acknowledged(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """The monitor measures the fleet's convergence by these acknowledgements."""
    assert decide(worker).source == "default"
    feed(worker, *records(key, PAYLOAD))
    assert decide(worker).model_version == "lightgbm-1"
    (ack,) = acks(log)
    assert (ack.worker, ack.loop, ack.status, ack.reason) == ("w-1", "banner", "serving", "")
    assert ack.digest == manifest(PAYLOAD).digest


def test_the_default_decides_again_once_a_model_is_taken_back(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """By a signed manifest without a model; an older model does not come back, a newer one does."""
    feed(worker, *records(key, PAYLOAD))
    assert decide(worker).source == "model"
    back = manifest(DEFAULT_PAYLOAD, 2, learner=DEFAULT, version="default-2", trained_on_rows=0)
    feed(worker, *records(key, DEFAULT_PAYLOAD, back))
    assert decide(worker).source == "default"
    assert answered(log)[-1] == ("default-2", "serving")
    feed(worker, *records(key, PAYLOAD, manifest(PAYLOAD, 1)))
    assert decide(worker).source == "default"
    feed(worker, *records(key, PAYLOAD, manifest(PAYLOAD, 3)))
    assert decide(worker).model_version == "lightgbm-3"


def test_nobody_but_a_trainer_can_take_a_model_back(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """Negative control: an unknown key, and a payload that is another."""
    feed(worker, *records(key, PAYLOAD))
    back = manifest(DEFAULT_PAYLOAD, 2, learner=DEFAULT, version="default-2", trained_on_rows=0)
    feed(worker, *records(SigningKey.generate(), DEFAULT_PAYLOAD, back))
    assert decide(worker).model_version == "lightgbm-1"
    assert worker.follower.refused == 1


def test_a_model_in_chunks_serves_once_it_is_whole(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """Chunks stand before their manifest; compaction may have shuffled them."""
    large = text(400).encode()
    assert len(large) > INLINE_BYTES
    *chunks, said = records(key, large)
    feed(worker, said, *chunks[1:])
    assert decide(worker).source == "default"
    assert ("lightgbm-1", "refused") in answered(log)
    feed(worker, chunks[0])
    assert decide(worker).model_version == "lightgbm-1"


def test_the_newest_of_many_serves_without_trying_the_others(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """A worker that starts reads a year of models in one go."""
    items = [
        item for number in range(1, 30) for item in records(key, PAYLOAD, manifest(PAYLOAD, number))
    ]
    feed(worker, *items)
    assert answered(log) == [("lightgbm-29", "serving")]


def test_a_model_of_the_next_loop_version_waits_for_it(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """The model topic may be read ahead of the loop topic; refused once it would never serve."""
    feed(worker, *records(key, PAYLOAD))
    feed(worker, *records(key, PAYLOAD, manifest(PAYLOAD, 2, loop_version=2)))
    assert answered(log) == [("lightgbm-1", "serving")]
    newer = banner(version=2)
    worker.follower.install(newer)
    feed(worker)
    assert answered(log)[-1] == ("lightgbm-2", "serving")
    assert decide(worker).model_version == "lightgbm-2"


def test_a_model_outlives_a_version_until_its_label_changes(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """One more feature stops nothing; under another label the default decides, and says why."""
    said = manifest(PAYLOAD, label_digest=banner().label_digest)
    feed(worker, *records(key, PAYLOAD, said))
    features = {"fresh": {"type": "int", "nullable": True}, **banner().model_dump()["features"]}
    worker.follower.install(banner(version=2, features=features))
    feed(worker)
    assert decide(worker).model_version == "lightgbm-1"
    label = {"sql": "max(seconds) > 60"}
    worker.follower.install(banner(version=3, features=features, label=label))
    feed(worker)
    assert decide(worker).source == "default"
    assert answered(log) == [
        *[("lightgbm-1", "serving")] * 2,
        ("lightgbm-1", "refused"),
    ]
    why = "lightgbm-1 has learned another label than that of banner version 3"
    assert acks(log)[-1].reason == why


def test_a_new_action_is_not_taken_for_a_learned_one(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """The worker knows it by the vocabulary of the model's action."""
    payload = replace(
        LinearState.from_bytes(river_state()),
        weights=(Weight("action=show", 2.0), Weight("action=hide", 1.0)),
    ).to_bytes()
    action = SignatureField("action", FieldType.CATEGORY, ("hide", "show"))
    signature = FeatureSignature((*SIGNATURE.fields, action))
    said = manifest(
        payload,
        learner="logistic_regression",
        features=signature.to_json(),
        features_digest=signature.digest,
    )
    greedy = {"kind": "greedy"}
    worker.follower.install(banner(version=2, policy=greedy))
    feed(worker, *records(key, payload, said))
    maker = worker.decider("banner")
    assert maker.model is not None
    assert maker.model.actions is None
    actions = {"type": "choice", "actions": ["new", "hide", "show"], "default": "hide"}
    worker.follower.install(banner(version=3, decision=actions, policy=greedy))
    feed(worker)
    maker = worker.decider("banner")
    assert maker.model is not None
    assert maker.model.actions == ["hide", "show"]
    assert decide(worker).action == "show"


def test_a_topic_read_again_after_a_lost_connection_refuses_nothing(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """The models before the live one are still there; an operator must not read 'refused'."""
    items = [
        item for number in range(1, 5) for item in records(key, PAYLOAD, manifest(PAYLOAD, number))
    ]
    feed(worker, *items)
    worker.follower.rewind()
    feed(worker, *items)
    assert answered(log) == [("lightgbm-4", "serving")]
    assert decide(worker).model_version == "lightgbm-4"


def test_an_online_model_takes_over_and_back(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """Both learners publish to the same slot; the gate decides which."""
    state = river_state()
    online = manifest(state, 2, version="river-1", learner="logistic_regression")
    feed(worker, *records(key, PAYLOAD))
    feed(worker, *records(key, state, online))
    assert decide(worker).model_version == "river-1"
    feed(worker, *records(key, PAYLOAD, manifest(PAYLOAD, 3)))
    assert decide(worker).model_version == "lightgbm-3"
    assert [status for _, status in answered(log)] == ["serving"] * 3


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
def test_a_bad_model_never_serves_and_is_reported(
    bad: object, worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """The one before goes on, and the fleet's operator reads why."""
    feed(worker, *records(key, PAYLOAD))
    feed(worker, *bad(key))  # type: ignore[operator]
    assert decide(worker).model_version == "lightgbm-1"
    assert acks(log)[0].status == "serving"
    assert {ack.status for ack in acks(log)[1:]} == {"refused"}
    assert all(ack.reason for ack in acks(log)[1:])
    assert worker.follower.refused == len(acks(log)) - 1 > 0


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
def test_a_bad_model_alone_leaves_the_default(bad: object, worker: Worker, key: SigningKey) -> None:
    """At the start nothing serves yet, and nothing bad may fill the gap; but an old one may."""
    feed(worker, *bad(key))  # type: ignore[operator]
    expected = "model" if bad is replayed else "default"
    assert decide(worker).source == expected


def test_a_tombstone_changes_nothing(worker: Worker, key: SigningKey) -> None:
    """Clearing the topic is not a way to switch a model off."""
    feed(worker, *records(key, PAYLOAD))
    feed(worker, (b"banner/live", None), (None, b"x"), (b"", None))
    assert decide(worker).model_version == "lightgbm-1"


def test_at_the_start_the_model_before_a_refused_one_serves(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """The topic may still hold it; the default would be the worse answer."""
    feed(worker, *records(key, PAYLOAD), *hostile(key))
    assert decide(worker).model_version == "lightgbm-1"
    assert answered(log) == [("lightgbm-2", "refused"), ("lightgbm-1", "serving")]


def test_without_trusted_keys_nothing_serves(log: MemoryEventLog, key: SigningKey) -> None:
    """A forgotten setting must not open the worker to everybody."""
    config = ServingWorkerConfig(kafka=NOWHERE, name="w", definitions=(banner(),))
    worker = Worker(config, event_log=log)
    feed(worker, *records(key, PAYLOAD))
    assert decide(worker).source == "default"
    assert "not trusted" in acks(log)[0].reason
    assert "TIDEMILL_TRUSTED_KEYS is not set" in worker.troubles()[0]


def test_a_new_version_keeps_the_model_that_fits_it(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """A changed window or threshold must not send everybody back to the default."""
    feed(worker, *records(key, PAYLOAD))
    newer = banner(version=2, policy={"kind": "threshold", "threshold": 0.0, "above": "show"})
    worker.follower.install(newer)
    result = decide(worker)
    assert (result.loop_version, result.model_version, result.action) == (2, "lightgbm-1", "show")


def test_a_new_version_with_other_features_waits_for_its_model(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """The old model cannot read them; it is refused for the new version, with the reason."""
    feed(worker, *records(key, PAYLOAD))
    newer = banner(version=2, features={"country": "category"})
    worker.follower.install(newer)
    maker = worker.decider("banner")
    result = maker.decide(maker.decisions.check({"country": "c01"}))
    assert (result.loop_version, result.source) == (2, "default")
    assert acks(log)[-1].status == "refused"


def test_an_older_version_is_passed_over(worker: Worker) -> None:
    """A compacted topic keeps all versions, and not in their order."""
    for number in (3, 2):
        loop = banner(version=number)
        worker.follower.install(loop)
    assert decide(worker).loop_version == 3


def test_a_model_may_come_before_its_loop(
    log: MemoryEventLog, key: SigningKey, trusted: TrustedKeys
) -> None:
    """The two topics are read side by side, in no order."""
    config = ServingWorkerConfig(kafka=NOWHERE, name="w", trusted=trusted)
    worker = Worker(config, event_log=log)
    feed(worker, *records(key, PAYLOAD))
    worker.follower.install(banner())
    worker.follower.settle()
    assert decide(worker).model_version == "lightgbm-1"


def test_counts_go_on_over_a_new_version(worker: Worker) -> None:
    """A counter that falls back to zero looks like a restart."""
    decide(worker)
    newer = banner(version=2)
    worker.follower.install(newer)
    decide(worker)
    assert worker.decider("banner").counters.decisions["default"] == 2

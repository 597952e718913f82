"""A worker serves a model in each slot, gives up the one that fails, and forgets nothing of it."""

import json
from functools import partial
from itertools import permutations

import pytest
from tests.serving.decision.test_decider import raising
from tests.serving.model.test_follower import acks, feed
from tests.serving.models import manifest, records, river_state, text
from tests.serving.stages.staged import ask, staged_loop

from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.manifest import (
    CANARY,
    DEFAULT,
    DEFAULT_PAYLOAD,
    INLINE_BYTES,
    LIVE,
    SHADOW,
    Ack,
    ModelManifest,
)
from tidemill.schemas.models.signing import SigningKey, TrustedKeys
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.worker import ServingWorkerConfig, Worker

STATE = river_state()  # is admitted without a process of its own
Slots = dict[str, str]


def loop(version: int = 1, **changes: object) -> Loop:
    """Return a loop with a rollout whose model reads no action."""
    policy = {"kind": "threshold", "threshold": 0.0, "above": "show", "below": "hide"}
    return staged_loop(version=version, policy=policy, **changes)


@pytest.fixture
def worker(log: MemoryEventLog, trusted: TrustedKeys) -> Worker:
    """A worker of a loop with a rollout; tests feed its follower."""
    config = ServingWorkerConfig(kafka=None, name="w-1", definitions=(loop(),), trusted=trusted)
    return Worker(config, event_log=log)


def said(number: int, slot: str = LIVE, **changes: object) -> ModelManifest:
    """Return the manifest of a small model in *slot*."""
    share = 0.5 if slot == CANARY else None
    told = {"version": f"river-{number}", "learner": "logistic_regression", "share": share}
    return manifest(STATE, number, slot=slot, **(told | changes))


def ended(number: int, slot: str) -> ModelManifest:
    """Return the manifest that ends the stage of *slot*."""
    told = {"version": f"default-{number}", "learner": DEFAULT, "trained_on_rows": 0}
    return manifest(DEFAULT_PAYLOAD, number, slot=slot, **told)


def publish(worker: Worker, key: SigningKey, *told: ModelManifest) -> None:
    """Let the worker read models in their order, to the end of the topic."""
    payloads = {DEFAULT: DEFAULT_PAYLOAD}
    feed(worker, *(records(key, payloads.get(one.learner, STATE), one)[0] for one in told))


def slots(worker: Worker) -> Slots:
    """Return the version in each slot."""
    models = worker.decider("banner").models
    return {slot: served.model.version for slot, served in models.by_slot().items()}


def newest_acks(log: MemoryEventLog) -> dict[bytes, Ack]:
    """Return what a compacted topic still has of the acknowledgements."""
    return {ack.key: ack for ack in acks(log)}


def test_each_slot_has_its_model_and_its_acknowledgement(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """The live one under the key that earlier releases read."""
    publish(worker, key, said(1), said(2, CANARY), said(3, SHADOW))
    assert slots(worker) == {"live": "river-1", "canary": "river-2", "shadow": "river-3"}
    assert worker.decider("banner").models.share == 0.5
    told = newest_acks(log)
    assert {name: (ack.slot, ack.version, ack.sequence) for name, ack in told.items()} == {
        b"w-1/banner": ("live", "river-1", 1),
        b"w-1/banner/canary": ("canary", "river-2", 2),
        b"w-1/banner/shadow": ("shadow", "river-3", 3),
    }
    assert all(ack.load_ms is not None and ack.load_ms >= 0.0 for ack in told.values())


def test_a_stage_ends_by_a_signed_manifest_and_by_nothing_else(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """Anybody who may write to the topic can write a tombstone."""
    publish(worker, key, said(1), said(2, CANARY), said(3, SHADOW))
    feed(worker, (b"banner/canary", None), (b"banner/shadow", None), (b"banner/canary", b"x"))
    publish(worker, SigningKey.generate(), ended(9, CANARY))
    assert slots(worker) == {"live": "river-1", "canary": "river-2", "shadow": "river-3"}
    publish(worker, key, ended(4, CANARY))
    assert slots(worker) == {"live": "river-1", "shadow": "river-3"}
    assert worker.decider("banner").models.share == 0.0
    publish(worker, key, ended(5, SHADOW))
    assert slots(worker) == {"live": "river-1"}
    assert newest_acks(log)[b"w-1/banner/canary"].status == "serving"


def test_a_share_grows_without_another_model(worker: Worker, key: SigningKey) -> None:
    """It is a manifest of the same model with another share."""
    publish(worker, key, said(1), said(2, CANARY), said(2, CANARY, sequence=3, share=0.75))
    models = worker.decider("banner").models
    assert (models.share, models.canary and models.canary.sequence) == (0.75, 3)


def test_a_canary_that_is_not_fit_leaves_its_slot_empty(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """Its forerunner was stopped or promoted; going on with that would be nobody's decision."""
    publish(worker, key, said(1), said(2, CANARY))
    publish(worker, key, said(3, CANARY, label_type="float"))
    assert slots(worker) == {"live": "river-1"}
    publish(worker, key, said(4, CANARY, share=None))
    assert slots(worker) == {"live": "river-1"}
    assert newest_acks(log)[b"w-1/banner/canary"].reason == "river-4 is a canary without a share"


def test_a_loop_without_a_rollout_has_one_slot_and_acknowledges_as_before(
    log: MemoryEventLog, trusted: TrustedKeys, key: SigningKey
) -> None:
    """Byte for byte: monitors of earlier releases refuse a field that they do not know."""
    config = ServingWorkerConfig(
        kafka=None, name="w-1", definitions=(loop(rollout=None),), trusted=trusted
    )
    worker = Worker(config, event_log=log)
    publish(worker, key, said(1), said(2, CANARY), said(3, SHADOW))
    assert slots(worker) == {"live": "river-1"}
    told = newest_acks(log)
    assert "has no rollout" in told[b"w-1/banner/canary"].reason
    fields = {"at", "digest", "loop", "reason", "slot", "status", "version", "worker"}
    assert [set(json.loads(event.value or b"")) for event in log.events] == [fields] * 3


@pytest.mark.parametrize("order", [*permutations(range(3))])
def test_a_late_joiner_finds_all_slots_in_any_order(
    order: tuple[int, ...], worker: Worker, key: SigningKey
) -> None:
    """A compacted topic has the newest manifest of each slot, wherever it was written."""
    told = [said(4), said(5, CANARY), ended(6, SHADOW)]
    publish(worker, key, *(told[number] for number in order))
    assert slots(worker) == {"live": "river-4", "canary": "river-5"}


def test_slots_survive_a_new_version_of_the_loop_and_end_with_its_rollout(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """They are admitted again for it."""
    publish(worker, key, said(1), said(2, CANARY), said(3, SHADOW))
    worker.follower.install(loop(2, budget_ms=1_000.0))
    assert slots(worker) == {"live": "river-1", "canary": "river-2", "shadow": "river-3"}
    publish(worker, key, said(4, CANARY, loop_version=3))
    assert slots(worker)["canary"] == "river-2", "it waits for its version"
    worker.follower.install(loop(3, rollout=None))
    feed(worker)
    assert slots(worker) == {"live": "river-1"}
    assert newest_acks(log)[b"w-1/banner/canary"].status == "refused"


def broken(worker: Worker, slot: str = LIVE) -> None:
    """Let the model that serves in *slot* fail from now on."""
    maker = worker.decider("banner")
    served = maker.models.by_slot()[slot]
    score = raising(ValueError("broken"))
    failing = served._replace(model=served.model._replace(score=score))
    maker.models = maker.models.with_model(slot, failing, maker.models.share)


def fail(worker: Worker, times: int) -> list[str]:
    """Ask for as many decisions; a model that rests is asked at once again."""
    maker, sources = worker.decider("banner"), []
    for number in range(times):
        for served in maker.models.by_slot().values():
            served.streak.rest_until_s = 0.0
        sources.append(ask(maker, number, entity="user-1").source)
    return sources


def test_a_live_model_that_fails_gives_way_to_the_last_good_one(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """Without anybody awake; at its third rest, and not before."""
    publish(worker, key, said(1))
    publish(worker, key, said(2))
    broken(worker)
    assert fail(worker, 8) == ["fallback"] * 8
    assert slots(worker) == {"live": "river-2"}
    assert fail(worker, 2) == ["fallback", "model"]
    assert slots(worker) == {"live": "river-1"}
    ack = newest_acks(log)[b"w-1/banner"]
    assert (ack.version, ack.status, ack.sequence) == ("river-2", "refused", 2)
    assert "ValueError('broken')" in ack.reason
    assert ack.reason.endswith("; river-1 decides")
    assert len(worker.follower.given_up) == 1


def test_without_a_good_one_the_default_decides(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """The first model of a loop, or one after a model that failed as well."""
    publish(worker, key, said(1))
    broken(worker)
    publish(worker, key, said(2))
    broken(worker)
    fail(worker, 9)
    assert slots(worker) == {"live": "river-1"}, "it was good as far as anybody knew"
    fail(worker, 9)
    assert slots(worker) == {}
    assert fail(worker, 1) == ["default"]
    ack = newest_acks(log)[b"w-1/banner"]
    assert (ack.version, ack.status) == ("river-1", "refused")
    assert ack.reason.endswith("; the default decides")
    assert len(worker.follower.given_up) == 2


@pytest.mark.parametrize("turn", ["default", "rollback"])
def test_a_model_that_was_turned_away_from_is_no_last_good_one(
    turn: str, worker: Worker, key: SigningKey
) -> None:
    """Somebody has decided against it, so nothing brings it back by itself."""
    publish(worker, key, said(2))
    if turn == "default":
        publish(worker, key, ended(4, LIVE))
        publish(worker, key, said(5, version="river-3"))
    else:
        publish(worker, key, said(1, sequence=5, rollback=True, version="river-3"))
    assert slots(worker) == {"live": "river-3"}
    broken(worker)
    fail(worker, 9)
    assert slots(worker) == {}


def test_a_canary_that_fails_leaves_its_share_to_the_live_model(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """Other workers may still serve it: the guardrail of the trainer reads them together."""
    publish(worker, key, said(1), said(2, CANARY, share=1.0))
    broken(worker, CANARY)
    maker = worker.decider("banner")
    for unit in map(str, range(40)):
        for served in maker.models.by_slot().values():
            served.streak.rest_until_s = 0.0
        ask(maker, 0, entity=unit)
    assert slots(worker) == {"live": "river-1"}
    assert maker.counters.stages["canary", "fallback"] == 9
    assert maker.counters.stages["live", "model"] > 0
    assert newest_acks(log)[b"w-1/banner/canary"].status == "refused"
    assert newest_acks(log)[b"w-1/banner"].status == "serving"


def test_a_model_that_was_given_up_comes_back_by_another_manifest_alone(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """Not by a topic that is read again, a new version of the loop, or a key that rotates."""
    publish(worker, key, said(1))
    broken(worker)
    fail(worker, 9)
    worker.follower.rewind()
    publish(worker, key, said(1))
    assert slots(worker) == {}
    worker.follower.install(loop(2))
    feed(worker)
    assert slots(worker) == {}
    worker._start_over()
    publish(worker, key, said(1))
    assert slots(worker) == {}
    assert newest_acks(log)[b"w-1/banner"].reason == "river-1 failed too often in this worker"
    publish(worker, key, said(1, sequence=2))
    assert slots(worker) == {"live": "river-1"}
    worker.close()


def test_all_slots_come_back_after_a_key_has_rotated(worker: Worker, key: SigningKey) -> None:
    """Meanwhile the defaults decide, and the control stays what it was."""
    publish(worker, key, said(1), said(2, CANARY), said(3, SHADOW))
    before = worker.decider("banner")
    worker._start_over()
    assert slots(worker) == {}
    publish(worker, key, said(1), said(2, CANARY), said(3, SHADOW))
    assert slots(worker) == {"live": "river-1", "canary": "river-2", "shadow": "river-3"}
    assert worker.decider("banner") is not before
    worker.close()


def test_a_model_that_was_swapped_meanwhile_is_not_given_up(
    worker: Worker, key: SigningKey
) -> None:
    """Decisions that began with it may fail after another one serves."""
    publish(worker, key, said(1))
    old = worker.decider("banner").models.live
    assert old is not None
    publish(worker, key, said(2))
    on_failing = worker.decider("banner").on_failing
    assert on_failing is not None
    on_failing(old, "late")
    assert slots(worker) == {"live": "river-2"}
    assert worker.follower.refused == 0


@pytest.mark.slow
def test_two_slots_may_name_one_payload_whose_chunks_are_there_once(
    worker: Worker, key: SigningKey
) -> None:
    """While a model goes from canary to live; the topic is compacted and a worker joins late."""
    large = text(400).encode()
    assert len(large) > INLINE_BYTES
    make = partial(manifest, large, version="lightgbm-1")
    worker.follower.install(loop(2))
    first, third = (make(1, slot=SHADOW), make(2, slot=CANARY, share=0.5))
    *chunks, live = records(key, large, make(3))
    manifests = [records(key, large, one)[-1] for one in (first, third)]
    feed(worker, *manifests, *chunks, live)
    assert slots(worker) == dict.fromkeys(("live", "canary", "shadow"), "lightgbm-1")
    assert worker.follower.refused == 0


def test_the_manifest_of_a_slot_is_of_that_slot_alone(worker: Worker, key: SigningKey) -> None:
    """A record of the shadow under the key of live would let it decide."""
    (_, value) = records(key, STATE, said(1, SHADOW))[0]
    refusal = worker.follower.take_model(b"banner/live", value)
    assert refusal is not None
    assert refusal.reason == "misplaced"
    assert slots(worker) == {}

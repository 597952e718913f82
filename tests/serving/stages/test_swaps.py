"""Swaps of all slots under load: no decision fails, and none is of two models."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.serving.api.test_http import DECISIONS, call, post
from tests.serving.conftest import Serve
from tests.serving.decision.test_decider import logged
from tests.serving.model.test_follower import feed
from tests.serving.models import FEATURES, SIGNATURE, manifest, records
from tests.serving.stages.staged import staged_loop

from tidemill.schemas.loop.fields import FieldType
from tidemill.schemas.models.feature_signature import FeatureSignature, SignatureField
from tidemill.schemas.models.manifest import CANARY, DEFAULT, DEFAULT_PAYLOAD, LIVE, SHADOW
from tidemill.schemas.models.river_state import LinearState, Weight
from tidemill.schemas.models.signing import SigningKey, TrustedKeys
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.model.followed import SLOTS
from tidemill.serving.worker import ServingWorkerConfig, Worker

ACTION = SignatureField("action", FieldType.CATEGORY, ("hide", "show"))
SEES = FeatureSignature((*SIGNATURE.fields, ACTION))
TURNS = 60
LOOP = staged_loop(rollout={"control": 0.2}, policy={"kind": "greedy"}, budget_ms=60_000)


def payload(number: int) -> bytes:
    """Return a model whose score is a function of its *number*: the score tells the version."""
    return LinearState(
        learner="linear_regression",
        learning_rate=0.01,
        l2=0.0,
        learned_until=0,
        rows=1,
        loss_sum=0.0,
        iterations=1,
        intercept=float(number),
        scales=(),
        weights=(Weight("action=show", 0.5 * (-1) ** number),),
    ).to_bytes()


def publish(worker: Worker, key: SigningKey, number: int, slot: str) -> None:
    """Let the worker read model *number*, or the end of a stage for each fifth."""
    is_end = slot != LIVE and number % 5 == 0
    data = DEFAULT_PAYLOAD if is_end else payload(number)
    said = manifest(
        data,
        number,
        slot=slot,
        version=f"river-{number}",
        learner=DEFAULT if is_end else "linear_regression",
        features=SEES.to_json(),
        features_digest=SEES.digest,
        share=0.4 if slot == CANARY else None,
    )
    feed(worker, *records(key, data, said))


@contextmanager
def threads(work: Callable[[], object], count: int) -> Iterator[list[BaseException]]:
    """Do *work* again and again in threads until the block ends; their errors are the value."""
    over = threading.Event()
    errors: list[BaseException] = []

    def repeat() -> None:
        try:
            while not over.is_set():
                work()
        except BaseException as error:  # told to the test
            errors.append(error)

    running = [threading.Thread(target=repeat) for _ in range(count)]
    for each in running:
        each.start()
    yield errors
    over.set()
    for each in running:
        each.join()


@pytest.fixture
def worker(log: MemoryEventLog, trusted: TrustedKeys) -> Iterator[Worker]:
    """A worker of a loop with a rollout, with a model in each slot still to come."""
    config = ServingWorkerConfig(kafka=None, name="w", definitions=(LOOP,), trusted=trusted)
    made = Worker(config, event_log=log)
    yield made
    made.close()


def checked(log: MemoryEventLog) -> int:
    """Check that each decision is of one model and one stage; return how many there are."""
    rows = logged(log, "banner.decisions", LOOP)
    for row in rows:
        if row["model_version"] is None:
            assert (row["score"], row["source"]) == (None, "default")
            continue
        number = int(str(row["model_version"]).removeprefix("river-"))
        best = "show" if number % 2 == 0 else "hide"
        assert row["score"] == number + (0.5 if best == "show" else 0.0)
        assert (row["action"], row["propensity"], row["source"]) == (best, 1.0, "model")
        slot = LIVE if row["stage"] == "live" else CANARY
        assert SLOTS.index(slot) == number % 3, "a model of another slot"
    assert {row["stage"] for row in rows} == {"control", "canary", "live"}
    return len(rows)


def swap_all(worker: Worker, key: SigningKey, turns: Callable[[], object]) -> None:
    """Swap the slots in turn; *turns* waits for decisions between."""
    for number in range(3, TURNS):
        publish(worker, key, number, SLOTS[number % 3])
        turns()


def test_no_decision_mixes_two_models_while_all_slots_are_swapped(
    worker: Worker, log: MemoryEventLog, key: SigningKey
) -> None:
    """In process, from four threads."""
    maker = worker.decider("banner")
    requests = [maker.decisions.check(FEATURES, entity=f"user-{n}") for n in range(50)]
    asked = threading.Semaphore(0)

    def work() -> None:
        for request in requests:
            maker.decide(request)
        asked.release()

    with threads(work, 4) as errors:
        swap_all(worker, key, asked.acquire)
    assert errors == []
    assert checked(log) >= TURNS
    shadow = maker.counters.shadow
    assert shadow.scored > 0
    assert shadow.failed == 0


def test_no_request_fails_while_all_slots_are_swapped(
    worker: Worker, log: MemoryEventLog, key: SigningKey, serve: Serve
) -> None:
    """Over HTTP, single decisions and batches."""
    url, asked = serve(worker), threading.Semaphore(0)
    single = [{"features": FEATURES, "entity": f"user-{n}"} for n in range(10)]

    def work() -> None:
        for one in single:
            status, _ = post(url, DECISIONS, one)
            assert status == 200
        assert post(url, DECISIONS, {"batch": single})[0] == 200
        asked.release()

    with threads(work, 2) as errors:
        swap_all(worker, key, asked.acquire)
    assert errors == []
    assert checked(log) >= TURNS
    health = call(url, "GET", "/healthz")[1]
    assert isinstance(health, dict)
    loop = health["loops"]["banner"]
    assert {slot: each["version"] for slot, each in loop["slots"].items()} == {
        "live": "river-57",
        "canary": "river-58",
        "shadow": "river-59",
    }
    assert loop["slots"]["canary"]["share"] == 0.4
    assert loop["stages"].keys() == {"control", "canary", "live"}
    metrics = str(call(url, "GET", "/metrics")[1])
    assert 'slot="canary",version="river-58"} 1.0' in metrics
    assert (
        'tidemill_stage_decisions_total{loop="banner",source="default",stage="control"}' in metrics
    )
    assert 'tidemill_stage_by_id_total{loop="banner"} 0.0' in metrics
    assert 'tidemill_shadow_failed_total{loop="banner"} 0.0' in metrics


def test_answers_over_http_are_bit_identical_with_a_shadow(
    log: MemoryEventLog, trusted: TrustedKeys, key: SigningKey, serve: Serve
) -> None:
    """The bytes of the answer, and those of the event."""
    told = []
    for slots in ((LIVE,), (LIVE, SHADOW)):
        log.events.clear()
        config = ServingWorkerConfig(kafka=None, name="w", definitions=(LOOP,), trusted=trusted)
        worker = Worker(config, event_log=log)
        for slot in slots:
            publish(worker, key, 4 if slot == LIVE else 7, slot)
        log.events.clear()
        url = serve(worker)
        asked = [{"features": FEATURES, "entity": f"user-{n}", "id": f"d-{n}"} for n in range(30)]
        bodies: list[object] = [*asked, {"batch": asked}]
        answers = [call(url, "POST", DECISIONS, json.dumps(body).encode()) for body in bodies]
        assert worker.shadows.drain()
        rows = logged(log, "banner.decisions", LOOP)
        told.append((answers, [{**row, "at": None} for row in rows]))
        scored = worker.decider("banner").counters.shadow.scored
        assert scored == (60 if SHADOW in slots else 0)
        worker.close()
    assert told[0] == told[1]

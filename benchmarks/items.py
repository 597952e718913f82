"""Decisions over 200 items of 8 features by 100 trees: checked, scored, chosen and encoded."""

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from statistics import median

import numpy as np
import polars as pl

from tidemill.schemas.loop.definition import Batch, Loop
from tidemill.schemas.registry.memory import MemorySchemaStore
from tidemill.serving.decision.decider import Decider
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.model.admission import try_payload
from tidemill.serving.policies.choice import ItemScore, LiveModel
from tidemill.trainers.learners.batch import train
from tidemill.trainers.rows import LabeledRows

ITEMS, TRAINED_ON, CALLS, DIFFERENT = 200, 50_000, 2_000, 50
FEATURES = {"topic": "category", "words": "int"} | {f"n{number}": "float" for number in range(6)}
LOOP = Loop.model_validate(
    {
        "loop": "bench-items",
        "decision": {"type": "choice", "items": {"features": FEATURES, "max": ITEMS}},
        "features": {"hour": "int"},
        "feedback": {"clicked": {"within": "1m"}},
        "label": {"sql": "count(*) > 0"},
        "policy": {"kind": "greedy", "epsilon": 0.1},
    }
)


def measure_items(say: Callable[[str], None]) -> dict[str, float]:
    """Return the figures of the report's `items`: medians of many calls, in microseconds of CPU."""
    chance, score = random.Random(5), _score()
    log = MemoryEventLog()
    decider = Decider(LOOP, store=MemorySchemaStore(), log=log)
    decider.model = LiveModel("lightgbm-1", score)
    drawn = [[_item(chance) for _ in range(ITEMS)] for _ in range(DIFFERENT)]
    rows = [[tuple(item.values()) for item in items] for items in drawn]
    requests = [
        [{"id": f"article-{place}", "features": item} for place, item in enumerate(items)]
        for items in drawn
    ]

    def decide(number: int) -> None:
        request = decider.decisions.check({"hour": number % 24}, items=requests[number])
        decider.decide(request)
        log.events.clear()

    scores = _median_us(lambda number: score.many((number % 24,), rows[number]))
    decision = _median_us(decide)
    say(f"items: {scores:.0f} us for the scores of {ITEMS} items, {decision:.0f} us a decision")
    return {"scores_us": scores, "decision_us": decision}


def _median_us(call: Callable[[int], object]) -> float:
    """Return the median CPU time of a call, which is its time on a core that does nothing else."""
    taken = []
    for number in range(CALLS):
        started = time.thread_time()
        call(number % DIFFERENT)
        taken.append(time.thread_time() - started)
    return median(taken) * 1e6


def _item(chance: random.Random) -> dict[str, str | int | float]:
    found: dict[str, str | int | float] = {"topic": f"t{chance.randrange(20)}"}
    found["words"] = chance.randrange(2_000)
    return found | {f"n{number}": chance.gauss(0.0, 1.0) for number in range(6)}


def _score() -> ItemScore:
    """Return the scores of a model of 100 trees of 31 leaves, as a worker admits it."""
    chance = random.Random(11)
    frame = pl.DataFrame([{"hour": n % 24, **_item(chance)} for n in range(TRAINED_ON)])
    noise = np.random.default_rng(3).normal(size=TRAINED_ON)
    drive = frame["n0"].to_numpy() * frame["n1"].to_numpy() + frame["n2"].to_numpy()
    start = datetime(2025, 1, 1, tzinfo=UTC)
    rows = LabeledRows(
        features=frame,
        label=(drive + noise > 0.5).astype(np.float64),
        at=pl.Series([start + timedelta(seconds=number) for number in range(TRAINED_ON)]),
        ids=pl.Series([f"row-{number}" for number in range(TRAINED_ON)]),
        snapshot=0,
    )
    trained = train(rows, LOOP, Batch(rounds=100, params={"num_leaves": 31}))
    found = try_payload(
        LOOP,
        version="lightgbm-1",
        learner=trained.learner,
        payload=trained.payload,
        signature=trained.signature,
    )
    if not isinstance(found, ItemScore):
        raise TypeError(f"a model of items is scored by {found!r}")
    return found

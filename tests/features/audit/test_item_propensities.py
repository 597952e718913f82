"""The audit of propensities where requests bring items: by place in the request and position."""

import random
from pathlib import Path

import polars as pl
import pytest
from tests.features.audit.test_propensities import audited
from tests.schemas.loops import ITEMS, with_items

from tidemill.features.audit.propensities import ALARM
from tidemill.features.lake.layouts import DECISIONS
from tidemill.schemas.events.decoder import EventDecoder
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.registry.memory import MemorySchemaStore
from tidemill.serving.decision.decider import Decider
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.policies.choice import LiveModel

pytestmark = pytest.mark.slow


def page(kind: str = "choice", **changes: object) -> Loop:
    """Return a loop with items; no machine is too busy for its budget."""
    return with_items(kind, budget_ms=60_000.0, **changes)


LOOPS = {
    "greedy": page(policy={"kind": "greedy", "epsilon": 0.3}),
    "softmax": page(policy={"kind": "softmax", "temperature": 1.0, "epsilon": 0.1}),
    "ranking": page("ranking", policy={"kind": "greedy", "epsilon": 0.4}),
    "Plackett-Luce": page("ranking", policy={"kind": "softmax", "temperature": 1.0}),
}


def logged(loop: Loop, count: int) -> pl.DataFrame:
    """Return the raw rows of *count* decisions among 2 to 12 items, half of them by a model."""
    store, log, draw = MemorySchemaStore(), MemoryEventLog(), random.Random(5)
    decider = Decider(loop, store=store, log=log)
    for number in range(count):
        if number == count // 2 or loop.policy.kind == "softmax":
            decider.model = LiveModel("m-1", lambda features: float(str(features[2])))
        items = [
            {
                "id": f"i{place}",
                "features": {"price": draw.gauss(0, 1), "topic": "news", "age": None},
            }
            for place in range(draw.randint(2, 12))
        ]
        features = {"country": "at", "visits": 1}
        decider.decide(decider.decisions.check(features, id=f"d-{number}", items=items))
    rows = EventDecoder(loop, DECISIONS, store).decode([event.value for event in log.events])
    return rows.frame.drop("row").with_columns(
        pl.int_range(count).alias("offset"),
        pl.lit(0, pl.Int32).alias("partition"),
        pl.lit(None, pl.String).alias("verdict"),
    )


@pytest.mark.parametrize("name", LOOPS)
def test_items_that_a_worker_logs_agree(name: str, tmp_path: Path) -> None:
    """A place that only some requests have is compared in those alone."""
    count = 6_000
    audit = audited(LOOPS[name], logged(LOOPS[name], count), tmp_path)
    assert (audit.decisions, audit.impossible) == (count, 0)
    assert audit.agrees
    positions = 3 if LOOPS[name].decision.type == "ranking" else 1
    assert len(audit.actions) == 10 * positions
    assert audit.actions[min(audit.actions)].offered > 0
    first = {name: ratio for name, ratio in audit.ratios().items() if not name.endswith(("1", "2"))}
    assert first == pytest.approx(dict.fromkeys(first, 1.0), abs=0.4)  # later ones scatter more


@pytest.mark.parametrize("name", LOOPS)
def test_wrong_propensities_of_items_are_an_alarm(name: str, tmp_path: Path) -> None:
    """The control: half of the chance that they had."""
    halved = pl.element().struct.with_fields(propensity=pl.element().struct["propensity"] / 2)
    rows = logged(LOOPS[name], 3_000).with_columns(pl.col("items").list.eval(halved))
    audit = audited(LOOPS[name], rows, tmp_path)
    assert not audit.agrees
    assert audit.wealth >= ALARM


@pytest.mark.parametrize("position", [1, 2])
def test_a_wrong_propensity_of_a_later_position_is_an_alarm(position: int, tmp_path: Path) -> None:
    """Estimates of rankings weigh by each position, not by the first alone."""
    each = pl.element().struct
    wrong = (
        pl.when(each["position"] == position)
        .then(each["propensity"] / 2)
        .otherwise(each["propensity"])
    )
    loop = LOOPS["Plackett-Luce"]
    rows = logged(loop, 3_000)
    spoiled = rows.with_columns(pl.col("items").list.eval(each.with_fields(propensity=wrong)))
    assert not audited(loop, spoiled, tmp_path).agrees


def test_a_log_of_shown_items_is_not_compared(tmp_path: Path) -> None:
    """It does not say what else could have been taken."""
    decision = {"type": "choice", "items": {**ITEMS, "log": "shown"}}
    loop = page(decision=decision, policy={"kind": "greedy", "epsilon": 0.3})
    audit = audited(loop, logged(loop, 100), tmp_path)
    assert (audit.decisions, audit.actions, audit.agrees) == (0, {}, True)

"""The background audit of propensities: silent where they are right, loud where they are not."""

from pathlib import Path

import polars as pl
import pytest
from tests.serving.models import FEATURES, banner

from tidemill.features.audit.propensities import ALARM, PropensityAudit
from tidemill.features.audit.spans import AuditSpan, PartitionState
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.layouts import DECISIONS
from tidemill.schemas.events.decoder import EventDecoder
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.registry.memory import MemorySchemaStore
from tidemill.serving.decision.decider import Decider
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.policies.choice import LiveModel

CHOICE = {"type": "choice", "actions": ["a", "b", "c"], "default": "c"}
RANKING = {"type": "ranking", "actions": ["a", "b", "c"], "default": ["c", "a", "b"]}
NUMBER = {
    "decision": {"type": "float", "default": 0.0},
    "label": {"sql": "max(seconds)", "type": "float"},
}
SPREAD = {"kind": "value", "low": -1.0, "high": 2.0, "spread": 0.7}
LOOPS = {
    "threshold": banner(policy={"kind": "threshold", "above": "show", "epsilon": 0.2}),
    "greedy": banner(decision=CHOICE, policy={"kind": "greedy", "epsilon": 0.2}),
    "softmax": banner(decision=CHOICE, policy={"kind": "softmax", "epsilon": 0.1}),
    "Plackett-Luce": banner(decision=RANKING, policy={"kind": "softmax", "epsilon": 0.2}),
    "grid": banner(**NUMBER, policy={**SPREAD, "spread": None, "grid": 4, "epsilon": 0.2}),
    "spread": banner(**NUMBER, policy=SPREAD),
}


def logged(loop: Loop, count: int) -> pl.DataFrame:
    """Return the raw rows of *count* decisions as a worker logs them, half of them by a model."""
    store, log = MemorySchemaStore(), MemoryEventLog()
    decider = Decider(loop, store=store, log=log)
    for number in range(count):
        if number == count // 2:
            decider.model = LiveModel("m-1", lambda features: float(str(features[-1]) == "a"))
        decider.decide(decider.decisions.check(FEATURES, id=f"d-{number}"))
    rows = EventDecoder(loop, DECISIONS, store).decode([event.value for event in log.events])
    return rows.frame.drop("row").with_columns(
        pl.int_range(count).alias("offset"),
        pl.lit(0, pl.Int32).alias("partition"),
        pl.lit(None, pl.String).alias("verdict"),
    )


def audited(loop: Loop, rows: pl.DataFrame, folder: Path, parts: int = 2) -> PropensityAudit:
    """Return the audit of *rows* of *loop*, done in so many *parts*."""
    lake = Lake(LakeConfig(root=str(folder)))
    lake.create(loop)
    table = lake.table(loop.loop, DECISIONS)
    version = table.append(rows, swaps=[])
    audit, size = PropensityAudit(loop), len(rows) // parts
    for start in range(0, len(rows), size):
        first, last = (PartitionState(positions={DECISIONS: at}) for at in (start, start + size))
        audit.take(table, [AuditSpan(partition=0, start=first, end=last)], version)
    return audit


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOPS)
def test_what_a_worker_logs_agrees(name: str, tmp_path: Path) -> None:
    """A false alarm once a year would be the end of the alarm."""
    count = 10_000
    audit = audited(LOOPS[name], logged(LOOPS[name], count), tmp_path)
    assert audit.decisions == count
    assert audit.agrees
    assert audit.ratios() == pytest.approx(dict.fromkeys(audit.actions, 1.0), abs=0.2)
    assert len(audit.ratios()) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["threshold", "greedy", "Plackett-Luce", "grid"])
def test_propensities_of_half_the_exploration_are_an_alarm(name: str, tmp_path: Path) -> None:
    """So it is when a worker of another release, or another program, decides by other settings."""
    loop = LOOPS[name]
    policy = loop.policy.model_copy(update={"epsilon": 0.4})
    rows = logged(loop.model_copy(update={"policy": policy}), 4_000)
    said = pl.col("propensity").map_elements(halved(rows), return_dtype=pl.Float64)
    first = pl.col("propensities").list.first().map_elements(halved(rows), return_dtype=pl.Float64)
    wrong = rows.with_columns(said.alias("propensity"), pl.concat_list(first).alias("propensities"))
    audit = audited(loop, wrong, tmp_path)
    assert not audit.agrees
    assert audit.wealth >= ALARM


def halved(rows: pl.DataFrame) -> "Halved":
    """Return what a propensity of *rows* would be with half of the epsilon."""
    first = rows["propensities"].list.first() if rows["propensities"].is_not_null().any() else None
    return Halved((rows["propensity"] if first is None else first).max() or 1.0)  # type: ignore[arg-type]  # numbers


class Halved:
    """Halves what is explored: large propensities grow to 1, small ones become half."""

    def __init__(self, largest: float) -> None:
        self.middle = largest / 2

    def __call__(self, propensity: float) -> float:
        """Return the propensity of half the exploration."""
        return (1 + propensity) / 2 if propensity > self.middle else propensity / 2


@pytest.mark.slow
def test_an_action_that_its_propensity_rules_out_is_an_alarm_at_once(tmp_path: Path) -> None:
    """One is enough: what cannot happen has happened."""
    loop = LOOPS["greedy"]
    rows = logged(loop, 100)
    propensity = pl.when(pl.col("offset") == 7).then(0.0).otherwise(pl.col("propensity"))
    audit = audited(loop, rows.with_columns(propensity.alias("propensity")), tmp_path)
    assert audit.impossible == 1
    assert not audit.agrees


def test_what_is_no_choice_of_the_policy_is_left_out(tmp_path: Path) -> None:
    """Fallbacks, duplicates and decisions that were certain say nothing about chance."""
    loop = LOOPS["greedy"]
    rows = logged(loop, 40)
    number = pl.col("offset")
    odd = rows.with_columns(
        pl.when(number < 10).then(pl.lit("fallback")).otherwise("source").alias("source"),
        pl.when(number.is_between(10, 19)).then(pl.lit("duplicate")).alias("verdict"),
        pl.when(number.is_between(20, 29)).then(1.0).otherwise("propensity").alias("propensity"),
    )
    assert audited(loop, odd, tmp_path).decisions == 10

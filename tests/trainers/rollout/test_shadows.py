"""A candidate in shadow is compared with what is live, on decisions that others have made."""

from collections.abc import Callable

import polars as pl
import pytest
from tests.trainers.cycles import BATCH_ONLY, NOW, cycle_of

from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import DECISIONS, fitted, layouts, undated
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.manifest import LIVE, SHADOW
from tidemill.trainers.cycle import TrainingCycle
from tidemill.trainers.publisher import MemoryModelTopic
from tidemill.trainers.rollout.by_hand import ByHand

MakeLoop = Callable[..., Loop]
MakeRows = Callable[..., pl.DataFrame]
Grow = Callable[[Lake, pl.DataFrame], int]

pytestmark = pytest.mark.slow
ROLLOUT = {"stages": ["shadow", "live"], "shadow": {"rows": 500}}


def decide(lake: Lake, loop: Loop, rows: pl.DataFrame) -> None:
    """Commit the decisions of *rows* as a worker does."""
    schema = undated(layouts(loop)[DECISIONS])
    frame = rows.rename({"decision_id": "id"})
    frame = frame.select(name for name in schema if name in frame.columns)
    table = lake.table(loop.loop, DECISIONS)
    before = table.progress(["offset/0"])["offset/0"]
    swap = CompareAndSwap("offset/0", before, (before or 0) + len(rows))
    table.append(fitted(frame, schema), swaps=[swap])


def shadowed(
    lake: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> tuple[TrainingCycle, MemoryModelTopic]:
    """Return a trainer whose first model is in shadow."""
    loop, topic = make_loop(models=BATCH_ONLY, rollout=ROLLOUT), MemoryModelTopic()
    cycle = cycle_of(loop, lake, topic)
    rows = make_rows(1_500)
    decide(lake, loop, rows)
    grow(lake, rows)
    [model] = cycle.run(force=True)
    assert model.reason.endswith("; first it is shadow")
    candidate = cycle.registry.stages.standing.candidate
    assert candidate is not None
    assert candidate.since == rows["at"].max()
    assert cycle.registry.model() is None
    return cycle, topic


def slots_of(topic: MemoryModelTopic) -> set[str]:
    """Return the slots that the topic has."""
    return {key.decode().split("/")[1] for key in topic.read() if b"payload" not in key}


def test_a_good_shadow_becomes_live(
    lake: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """It has scored its rows, and would have earned more than the default."""
    cycle, topic = shadowed(lake, make_loop, make_rows, grow)
    assert slots_of(topic) == {SHADOW}
    rows = make_rows(500, first=1_500)
    decide(lake, cycle.loop, rows)
    grow(lake, rows)
    cycle.run(force=True)
    live = cycle.registry.stages.standing.live
    assert live is not None
    assert live.metrics["gain"] > 0.0
    assert live.metrics["reward"] > live.metrics["live_reward"]
    assert slots_of(topic) == {SHADOW, LIVE}


def test_a_shadow_that_would_have_earned_less_is_stopped(
    lake: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """The world has changed since the gate: nobody was given a worse answer."""
    cycle, topic = shadowed(lake, make_loop, make_rows, grow)
    rows = make_rows(500, first=1_500).with_columns(label=pl.lit(0.0))
    decide(lake, cycle.loop, rows)
    grow(lake, rows)
    cycle.run()
    changes = cycle.registry.stages.read().changes
    assert [each.stage for each in changes][:2] == ["shadow", "stopped"]
    assert "would have earned" in changes[1].why
    assert LIVE not in slots_of(topic)


def test_a_frozen_loop_does_not_train(
    lake: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow
) -> None:
    """An audit looks at what is there."""
    cycle, _ = shadowed(lake, make_loop, make_rows, grow)
    hand = ByHand(cycle.loop, lake, who="ada@desk", clock=lambda: NOW)
    hand.freeze("an audit")
    grow(lake, make_rows(2_000, first=1_500))
    assert cycle.run(force=True) == []
    hand.release("it is over")
    assert len(cycle.run(force=True)) == 1

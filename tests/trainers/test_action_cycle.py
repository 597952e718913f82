"""The training cycle of a loop whose labels depend on the action: promoted, watched, taken back."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.trainers.cycles import BATCH_ONLY, KEY, cycle_of, live_version

from tidemill.errors import BrokerError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.assembler import Delivery, ModelAssembler
from tidemill.schemas.models.manifest import DEFAULT, DEFAULT_PAYLOAD
from tidemill.schemas.models.signing import TrustedKeys
from tidemill.trainers.item_rows import MAX_WEIGHT
from tidemill.trainers.model_restore import restore_models
from tidemill.trainers.publisher import KeyedRecord, MemoryModelTopic
from tidemill.trainers.registry import Registry

MakeLoop = Callable[..., Loop]
MakeRows = Callable[..., pl.DataFrame]
Grow = Callable[[Lake, pl.DataFrame], int]
EPSILON = 0.5
GREEDY = {"kind": "greedy", "epsilon": EPSILON}
ONLINE_ONLY = {"batch": None, "online": {"learning_rate": 0.05, "publish_every": 1_500}}

pytestmark = pytest.mark.slow


@pytest.fixture
def make_explored(make_rows: MakeRows) -> MakeRows:
    """Make examples of the default, `quiet`, with exploration; `warn` earns *gain* more."""

    def make(count: int, *, first: int = 0, gain: float = 0.3, live: str = "quiet") -> pl.DataFrame:
        random = np.random.default_rng(first + 17)
        chance = random.random(count) < EPSILON
        action = np.where(chance, random.choice(["warn", "quiet"], count), live)
        propensity = EPSILON / 2 + np.where(action == live, 1.0 - EPSILON, 0.0)
        label = random.random(count) < 0.4 + gain * (action == "warn")
        return make_rows(count, first=first).with_columns(
            pl.Series("action", action),
            pl.Series("propensity", propensity),
            pl.Series("label", label.astype(float)),
            pl.lit("explore").alias("source"),
        )

    return make


def test_a_model_that_earns_more_is_promoted_and_says_so(
    lake: Lake, make_loop: MakeLoop, make_explored: MakeRows, grow: Grow
) -> None:
    """Its record has the rewards and how its rows were weighted."""
    loop, topic = make_loop(policy=GREEDY, models=BATCH_ONLY), MemoryModelTopic()
    cycle = cycle_of(loop, lake, topic)
    grow(lake, make_explored(4_000))
    [model] = cycle.run()
    assert model.promoted
    assert model.reason.startswith("promoted: reward 0.")
    assert model.metrics["reward"] > model.metrics["default_reward"]
    assert model.params["max_weight"] == MAX_WEIGHT
    assert live_version(topic) == "lightgbm-1"


def test_an_online_learner_is_judged_by_the_actions_it_would_have_served(
    lake: Lake, make_loop: MakeLoop, make_explored: MakeRows, grow: Grow
) -> None:
    """Scores of all actions are stored with its predictions, because the log has one action."""
    loop, topic = make_loop(policy=GREEDY, models=ONLINE_ONLY), MemoryModelTopic()
    cycle = cycle_of(loop, lake, topic)
    made = []
    for first in range(0, 6_000, 500):
        grow(lake, make_explored(500, first=first))
        made += cycle.run()
    assert "no later decision was explored" in made[0].reason
    assert any(model.promoted for model in made)
    assert "reward" in made[-1].metrics
    assert made[-1].params["max_weight"] == MAX_WEIGHT
    restarted = cycle_of(loop, lake, topic)
    assert restarted.online_run is not None
    assert restarted.online_run.learner.rows == made[-1].trained_on_rows


@pytest.mark.parametrize("gain", [0.0, -0.3])
def test_a_model_that_earns_no_more_is_not_promoted(
    lake: Lake, make_loop: MakeLoop, make_explored: MakeRows, grow: Grow, gain: float
) -> None:
    """Negative control: a lower log loss than the base rate is no reason to decide."""
    loop, topic = make_loop(policy=GREEDY, models=BATCH_ONLY), MemoryModelTopic()
    cycle = cycle_of(loop, lake, topic)
    grow(lake, make_explored(4_000, gain=gain))
    [model] = cycle.run()
    assert not model.promoted
    assert live_version(topic) is None


def test_fallback_answers_enter_no_estimate(
    lake: Lake, make_loop: MakeLoop, make_explored: MakeRows, grow: Grow
) -> None:
    """Whatever propensity such an answer claims, no policy gave it."""
    loop = make_loop(policy=GREEDY, models=BATCH_ONLY)
    cycle = cycle_of(loop, lake, MemoryModelTopic())
    grow(lake, make_explored(4_000).with_columns(pl.lit("fallback").alias("source")))
    [model] = cycle.run()
    assert "no later decision was explored" in model.reason


def test_a_live_model_that_earns_less_is_taken_back(
    lake: Lake, make_loop: MakeLoop, make_explored: MakeRows, grow: Grow
) -> None:
    """The default decides by a signed manifest with the next sequence, in the registry first."""
    loop, topic = make_loop(policy=GREEDY, models=BATCH_ONLY), MemoryModelTopic()
    cycle = cycle_of(loop, lake, topic)
    grow(lake, make_explored(4_000))
    cycle.run()
    grow(lake, make_explored(3_000, first=4_000, gain=-0.3, live="warn"))
    made = cycle.run(force=True)
    back = made[0]
    assert (back.version, back.sequence, back.replaces) == ("default-2", 2, "lightgbm-1")
    assert back.reason.startswith("taken back: lightgbm-1 earns 0.")
    assert cycle.registry.payload(back) == DEFAULT_PAYLOAD
    assert Registry(lake, loop.loop).model() is None
    assembler = ModelAssembler(TrustedKeys.of([KEY.public]))
    outs = [assembler.feed(key, value) for key, value in topic.log]
    last = [out for out in outs if isinstance(out, Delivery)][-1].manifest
    assert (last.learner, last.sequence) == (DEFAULT, 2)
    assert "no later decision was explored" in made[1].reason
    assert cycle_of(loop, lake, topic).run() == []
    assert live_version(topic) == "default-2"


class AwayTopic(MemoryModelTopic):
    """A model topic whose broker is away once `is_away` is set."""

    is_away = False

    def write(self, items: Iterable[KeyedRecord]) -> None:
        """Append, unless the broker is away."""
        if self.is_away:
            raise BrokerError("away", hint="wait")
        super().write(items)


def test_what_was_taken_back_is_published_once_a_broker_answers(
    lake: Lake, make_loop: MakeLoop, make_explored: MakeRows, grow: Grow
) -> None:
    """The registry has it first, so a trainer that is killed between the two loses nothing."""
    loop, topic = make_loop(policy=GREEDY, models=BATCH_ONLY), AwayTopic()
    cycle = cycle_of(loop, lake, topic)
    grow(lake, make_explored(4_000))
    cycle.run()
    topic.is_away = True
    grow(lake, make_explored(3_000, first=4_000, gain=-0.3, live="warn"))
    with pytest.raises(BrokerError):
        cycle.run()
    assert [model.version for model in Registry(lake, loop.loop).models()][1] == "default-2"
    assert live_version(topic) == "lightgbm-1"
    topic.is_away = False
    cycle_of(loop, lake, topic).run()
    assert live_version(topic) == "default-2"


def test_after_new_evidence_a_model_may_decide_again(
    lake: Lake, make_loop: MakeLoop, make_explored: MakeRows, grow: Grow
) -> None:
    """Taken back is not for ever, and the old evidence does not count twice."""
    loop, topic = make_loop(policy=GREEDY, models=BATCH_ONLY), MemoryModelTopic()
    cycle = cycle_of(loop, lake, topic)
    grow(lake, make_explored(4_000))
    cycle.run()
    grow(lake, make_explored(2_500, first=4_000, gain=-0.3, live="warn"))
    assert cycle.run()[0].version == "default-2"
    grow(lake, make_explored(12_000, first=6_500, gain=0.4))
    [model] = cycle.run(force=True)
    assert model.promoted, model.reason
    assert model.sequence == 3
    assert live_version(topic) == model.version


def test_a_watch_over_a_cut_log_looks_at_what_the_model_has_not_learned(
    lake: Lake, make_loop: MakeLoop, make_explored: MakeRows, grow: Grow
) -> None:
    """The commits after the model's snapshot are gone; the times of its decisions are not."""
    loop, topic = make_loop(policy=GREEDY, models=BATCH_ONLY), MemoryModelTopic()
    cycle = cycle_of(loop, lake, topic)
    grow(lake, make_explored(4_000))
    cycle.run()
    for first in range(4_000, 6_500, 500):
        grow(lake, make_explored(500, first=first, gain=-0.3, live="warn"))
    examples = lake.table(loop.loop, "examples")
    log = sorted((Path(lake.root) / loop.loop / "examples" / "_delta_log").glob("*.json"))
    examples.handle().create_checkpoint()
    for file in log[:-2]:
        file.unlink()
    back = cycle_of(loop, Lake(lake.config), topic).run()[0]
    assert back.version == "default-2"
    assert "on 2,500 explored decisions since it was trained" in back.reason


def test_a_restored_model_is_watched_by_what_came_after_it(
    lake: Lake, make_loop: MakeLoop, make_explored: MakeRows, grow: Grow, tmp_path: Path
) -> None:
    """Its snapshot counts commits of a lake that is lost, where there were many more."""
    loop, topic = make_loop(policy=GREEDY, models=BATCH_ONLY), MemoryModelTopic()
    cycle = cycle_of(loop, lake, topic)
    for first in range(0, 4_000, 400):
        grow(lake, make_explored(400, first=first))
    assert cycle.run(force=True)[0].promoted
    again = Lake(LakeConfig(root=str(tmp_path / "again")))
    again.create(loop)
    grow(again, make_explored(4_000))
    [model] = restore_models(again, loop, topic, TrustedKeys.of([KEY.public]))
    assert model.snapshot > again.table(loop.loop, "examples").version()
    restored = cycle_of(loop, again, topic)
    restored.run()
    grow(again, make_explored(2_000, first=4_000, gain=-0.3, live="warn"))
    back = restored.run(force=True)[0]
    assert back.learner == DEFAULT
    assert "on 2,000 explored decisions since it was trained" in back.reason


def test_a_trainer_that_starts_again_watches_on(
    lake: Lake, make_loop: MakeLoop, make_explored: MakeRows, grow: Grow
) -> None:
    """What was seen before a kill is read again from the commits after the model's snapshot."""
    loop, topic = make_loop(policy=GREEDY, models=BATCH_ONLY), MemoryModelTopic()
    cycle = cycle_of(loop, lake, topic)
    grow(lake, make_explored(4_000))
    cycle.run()
    for first in range(4_000, 4_900, 300):
        grow(lake, make_explored(300, first=first, gain=-0.3, live="warn"))
        assert cycle.run() == []
    grow(lake, make_explored(800, first=4_900, gain=-0.3, live="warn"))
    made = cycle_of(loop, lake, topic).run()
    assert made[0].version == "default-2"

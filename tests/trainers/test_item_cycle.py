"""The training cycle of a loop with items: an online learner, the watch, and a restart."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.trainers.cycles import cycle_of, live_version
from tests.trainers.shop import CLICKS, Shop, shop_loop

from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.schemas.models.manifest import DEFAULT
from tidemill.trainers.publisher import MemoryModelTopic
from tidemill.trainers.rows import LabeledRows

pytestmark = pytest.mark.slow

ONLINE = {"batch": None, "online": {"learning_rate": 0.05, "publish_every": 1_000}}
BY_PRICE = np.where(np.arange(CLICKS.shape[1]) % 2, 0.5, 0.05) * np.ones((CLICKS.shape[0], 1))
"""Clicks that follow the price alone, which a linear model can learn."""


@pytest.mark.parametrize("kind", ["choice", "ranking"])
def test_an_online_learner_is_judged_by_the_states_it_had_offered(lake: Lake, kind: str) -> None:
    """It has learned the rows that judge it, so earlier states score the items of each decision."""
    loop, topic = shop_loop(kind, models=ONLINE), MemoryModelTopic()
    lake.create(loop)
    shop, cycle = Shop(loop, clicks=BY_PRICE), cycle_of(loop, lake, topic)
    made = []
    for _ in range(6):
        shop.fill(lake, 1_200)
        made += cycle.run()
    assert "no later decision was explored" in made[0].reason
    assert any(model.promoted for model in made), [model.reason for model in made]
    assert "max_weight" in made[-1].params
    restarted = cycle_of(loop, lake, topic)
    assert restarted.online_run is not None
    assert restarted.online_run.learner.rows == made[-1].trained_on_rows
    later = cycle.run()
    assert later == []


def test_a_batch_model_has_to_beat_a_live_online_learner_on_the_same_decisions(lake: Lake) -> None:
    """The live one is scored by the states it had offered, the candidate by itself."""
    models = {"batch": {"min_labels": 4_000, "rounds": 20}, "online": ONLINE["online"]}
    loop, topic = shop_loop(models=models), MemoryModelTopic()
    lake.create(loop)
    shop, cycle = Shop(loop, clicks=BY_PRICE), cycle_of(loop, lake, topic)
    made = []
    for _ in range(6):
        shop.fill(lake, 1_200)
        made += cycle.run()
    batch = [model for model in made if model.learner == "lightgbm"]
    assert batch
    assert "live_reward" in batch[-1].metrics


@pytest.mark.parametrize("kind", ["choice", "ranking"])
def test_a_live_model_that_earns_less_than_the_default_is_taken_back(lake: Lake, kind: str) -> None:
    """The taste of the customers turns, and what the service sends first is better again."""
    policy = {"kind": "greedy", "epsilon": 0.5}
    loop, topic = shop_loop(kind, policy=policy), MemoryModelTopic()
    lake.create(loop)
    shop, cycle = Shop(loop), cycle_of(loop, lake, topic)
    shop.fill(lake, 12_000 if kind == "ranking" else 6_000)
    (model,) = cycle.run()
    assert model.promoted, model.reason
    shop.serve(model, cycle)
    shop.clicks = 0.55 - shop.clicks
    shop.fill(lake, 8_000)
    made = cycle.run()
    assert made[0].learner == DEFAULT, [each.reason for each in made]
    assert made[0].reason.startswith("taken back: lightgbm-1 earns 0.")
    assert live_version(topic) == "default-2"


def test_a_live_model_that_still_earns_more_stays(lake: Lake) -> None:
    """Negative control of the watch."""
    loop, topic = shop_loop(policy={"kind": "greedy", "epsilon": 0.5}), MemoryModelTopic()
    lake.create(loop)
    shop, cycle = Shop(loop), cycle_of(loop, lake, topic)
    shop.fill(lake, 6_000)
    (model,) = cycle.run()
    shop.serve(model, cycle)
    shop.fill(lake, 4_000)
    made = cycle.run()
    assert [each for each in made if each.learner == DEFAULT] == []


def test_a_feature_of_items_that_a_later_version_adds_is_null_before(lake: Lake) -> None:
    """Old rows are learned with the new signature; the join wrote them without it."""
    loop = shop_loop()
    lake.create(loop)
    Shop(loop).fill(lake, 2_000)
    items = {"features": {"kind": "category", "price": "float"}, "max": 20}
    items["features"] |= {"brand": {"type": "category", "nullable": True}}  # type: ignore[operator]
    newer = shop_loop(version=2, decision={"type": "choice", "items": items})
    (model,) = cycle_of(newer, lake, MemoryModelTopic()).run()
    assert model.trained_on_rows == 1_600 - 11  # those whose labels were not known yet
    names = [field.name for field in model.signature.fields]
    assert names == ["segment", "kind", "price", "brand"]


def any_change(kind: str, seed: int, folder: Path) -> bool:
    """Return whether a candidate of a null world is promoted, or would be taken back if live."""
    policy = {"kind": "greedy", "epsilon": 0.3}
    loop, lake = shop_loop(kind, policy=policy, salt=f"{seed}"), Lake(LakeConfig(root=str(folder)))
    lake.create(loop)
    shop = Shop(loop, seed=seed, clicks=np.full(CLICKS.shape, 0.2))
    shop.fill(lake, 5_000)
    cycle = cycle_of(loop, lake, MemoryModelTopic())
    (model,) = cycle.run()
    shop.serve(model, cycle)
    assert cycle._action_sets is not None
    watch = cycle._action_sets.watch(replace(model, promoted=True), newest=0)
    for _ in range(8):
        watch.take(LabeledRows.of_examples(shop.fill(lake, 1_000), loop, 0))
        if watch.problem():
            return True
    assert np.isfinite(watch.gain().low)
    return model.promoted


@pytest.mark.parametrize("kind", ["choice", "ranking"])
def test_where_no_item_is_better_none_is_promoted_or_taken_back(kind: str, tmp_path: Path) -> None:
    """Two null worlds: weights of rankings are skewed, and must not look like a difference."""
    assert not any(any_change(kind, seed, tmp_path / str(seed)) for seed in range(2))


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["choice", "ranking"])
def test_in_40_null_worlds_hardly_any_candidate_is_promoted_or_taken_back(
    kind: str, tmp_path: Path
) -> None:
    """At most 5 %, and what is by chance above it in 40 worlds."""
    assert sum(any_change(kind, seed, tmp_path / str(seed)) for seed in range(40)) <= 4

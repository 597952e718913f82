"""Policies over items are compared by all items that requests have brought."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl
import pytest
from tests.trainers.cycles import cycle_of
from tests.trainers.shop import Shop, shop_loop, signature_of

from tidemill.features.estimates.intervals import Floats
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import DECISIONS
from tidemill.features.sql.datasets import training_set
from tidemill.schemas.loop.definition import Loop
from tidemill.serving.policies.choice import LiveModel
from tidemill.trainers.evaluation.action_gate import ActionEvaluation
from tidemill.trainers.evaluation.item_sets import ItemSets
from tidemill.trainers.evaluation.offered_items import OfferedItems
from tidemill.trainers.publisher import MemoryModelTopic
from tidemill.trainers.rows import LabeledRows

SHOWN = {"items": {"features": {"kind": "category", "price": "float"}, "log": "shown"}}


def filled(lake: Lake, loop: Loop, decisions: int = 400) -> Shop:
    """Return a shop whose lake has some decisions of the default, explored."""
    lake.create(loop)
    shop = Shop(loop)
    shop.fill(lake, decisions)
    return shop


def by_kind(features: pl.DataFrame, _times: pl.Series) -> Floats:
    """Score items by their kind alone, the last one best."""
    return features["kind"].str.slice(1).cast(pl.Float64).to_numpy() / 10.0


def evaluated(lake: Lake, loop: Loop, **sizes: int) -> ActionEvaluation:
    """Return what the gate gets for a candidate that scores `by_kind`."""
    cycle = cycle_of(loop, lake, MemoryModelTopic())
    sets = ItemSets(loop, lake, cycle._evaluation_sets, cycle.registry, None, **sizes)
    rows = LabeledRows.of(training_set(lake, loop), loop)
    return sets._evaluated(rows, ("x-1", by_kind), None)


def raw(lake: Lake) -> list[dict[str, Any]]:
    """Return the decision events, oldest first."""
    return lake.table("shop", DECISIONS).read().sort("at").to_dicts()


def score(item: Mapping[str, Any]) -> float:
    """Return what `by_kind` says of one logged item."""
    return int(item["features"]["kind"][1:]) / 10.0


def best_first(row: Mapping[str, Any]) -> list[str]:
    """Return the ids of a logged decision as the candidate orders them."""
    return [item["id"] for item in sorted(row["items"], key=lambda item: -score(item))]


def as_brought(row: Mapping[str, Any]) -> list[str]:
    """Return the ids of a logged decision as the default orders them."""
    baseline = row["baseline"] or [item["id"] for item in row["items"]]
    return [baseline] if isinstance(baseline, str) else list(baseline)


def by_hand(
    lake: Lake, shown: pl.DataFrame, order: Callable[[Mapping[str, Any]], list[str]]
) -> tuple[float, float]:
    """Return SNIPS and DR of the policy that shows items in this *order*, in plain Python."""
    labels = {(r["decision_id"], r["position"]): r["label"] for r in shown.to_dicts()}
    weights, rewards, robust, decisions = [], [], 0.0, 0
    for row in raw(lake):
        by_position = {i["position"]: i for i in row["items"] if i["position"] is not None}
        if not 0.0 < by_position[0]["propensity"] < 1.0:
            continue
        decisions += 1
        scores = {item["id"]: score(item) for item in row["items"]}
        ratio = float(len(row["items"]))
        for position in range(min(len(by_position), len(as_brought(row)))):
            item = by_position[position]
            ratio /= (len(row["items"]) - position) * item["propensity"]
            wanted = order(row)[position]
            weight = ratio * (wanted == item["id"])
            reward = labels[row["id"], position]
            weights.append(weight)
            rewards.append(weight * reward)
            robust += scores[wanted] + weight * (reward - scores[item["id"]])
    positions = len(weights) / decisions
    return math.fsum(rewards) / math.fsum(weights) * positions, robust / decisions


@pytest.mark.parametrize("kind", ["choice", "ranking"])
def test_estimates_are_those_of_the_formula(lake: Lake, kind: str) -> None:
    """Candidate and default, by SNIPS and DR, from the events alone: to 1e-9."""
    loop = shop_loop(kind)
    lake.create(loop)
    shown = Shop(loop).fill(lake, 400)
    found = evaluated(lake, loop)
    assert found.decisions == 400
    for policy, order in ((found.candidate, best_first), (found.default, as_brought)):
        values = found.snips(policy).value, found.robust(policy).value
        assert values == pytest.approx(by_hand(lake, shown, order), abs=1e-9)


def test_blocks_of_any_size_give_the_same(lake: Lake) -> None:
    """A large lake is read in parts, of which none divides a decision."""
    loop = shop_loop("ranking")
    filled(lake, loop)
    whole = evaluated(lake, loop)
    parts = evaluated(lake, loop, block_rows=37)
    assert parts.candidate.weight.tolist() == whole.candidate.weight.tolist()
    assert parts.first_rows is not None
    assert whole.first_rows is not None
    assert parts.first_rows.tolist() == whole.first_rows.tolist()
    assert (parts.first_at, parts.last_at) == (whole.first_at, whole.last_at)
    newest = evaluated(lake, loop, block_rows=37, most_items=100)
    assert newest.last_at == whole.last_at
    assert 20 <= newest.decisions < 40
    weight = newest.candidate.weight
    assert weight.tolist() == whole.candidate.weight[-weight.size :].tolist()


@pytest.mark.parametrize("kind", ["choice", "ranking"])
def test_a_softmax_is_judged_by_its_draws(lake: Lake, kind: str) -> None:
    """Weights are 1 on average: the estimate is of a policy that shows something everywhere."""
    loop = shop_loop(kind, policy={"kind": "softmax", "temperature": 0.2, "epsilon": 0.3})
    filled(lake, loop, decisions=2_000)
    found = evaluated(lake, loop)
    weights = found.weights(found.candidate)
    assert weights.min() > 0.0 or kind == "ranking"
    assert weights.mean() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("kind", "baseline"), [("choice", "i3"), ("ranking", ["i3", "i1"])])
def test_a_baseline_is_the_default_of_its_request(
    lake: Lake, kind: str, baseline: str | list[str]
) -> None:
    """Judged up to the last position that it fills: behind it there is nothing to compare."""
    loop = shop_loop(kind)
    lake.create(loop)
    shop = Shop(loop, baseline=baseline)
    shown = [shop.fill(lake, 200)]
    shop.decider.model = LiveModel("x-0", lambda features: float(features[1] == "k2"))
    shown.append(shop.fill(lake, 200))  # orders all five
    found = evaluated(lake, loop)
    assert found.decisions == 400
    assert found.reward.size == (400 if kind == "choice" else 800)
    for policy, order in ((found.candidate, best_first), (found.default, as_brought)):
        values = found.snips(policy).value, found.robust(policy).value
        assert values == pytest.approx(by_hand(lake, pl.concat(shown), order), abs=1e-9)


def test_answers_that_no_chance_decided_judge_nothing(lake: Lake) -> None:
    """Without exploration, and where a fallback answered, whatever propensity that claims."""
    loop = shop_loop(policy={"kind": "greedy"})
    filled(lake, loop, decisions=50)
    assert evaluated(lake, loop).decisions == 0
    rows = LabeledRows.of(training_set(lake, loop), loop)
    events = lake.table("shop", DECISIONS).read()
    chance = pl.col("items").list.eval(
        pl.struct(
            pl.element().struct.field("id"),
            pl.lit(0.5).alias("propensity"),
            pl.element().struct.field("position"),
            pl.element().struct.field("features"),
        )
    )
    claimed = events.with_columns(chance)
    assert len(OfferedItems.of(claimed, rows, loop).rows) == 50
    fallback = claimed.with_columns(pl.lit("fallback").alias("source"))
    assert len(OfferedItems.of(fallback, rows, loop).rows) == 0


def test_a_model_reads_the_features_of_the_loop_and_then_those_of_an_item() -> None:
    """One row for each shown item, flat; there is no action."""
    assert signature_of(shop_loop()) == ["segment", "kind", "price"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["choice", "ranking"])
def test_a_model_that_knows_the_kinds_is_promoted(lake: Lake, kind: str) -> None:
    """From events and examples to a live model, by the cycle of the trainer."""
    batch = {"min_labels": 1_000, "rounds": 30, "holdout": 0.5}
    policy = {"kind": "greedy", "epsilon": 0.5}
    loop = shop_loop(kind, policy=policy, models={"batch": batch})
    filled(lake, loop, decisions=12_000 if kind == "ranking" else 6_000)
    cycle = cycle_of(loop, lake, MemoryModelTopic())
    (model,) = cycle.run()
    assert model.promoted, model.reason
    assert [field.name for field in model.signature.fields] == ["segment", "kind", "price"]
    assert model.metrics["reward"] > model.metrics["default_reward"]


@pytest.mark.slow
def test_where_only_shown_items_are_logged_none_is_promoted(lake: Lake) -> None:
    """The sentence says what is missing, and what to write."""
    loop = shop_loop(decision={"type": "choice", **SHOWN})
    filled(lake, loop, decisions=3_000)
    (model,) = cycle_of(loop, lake, MemoryModelTopic()).run()
    assert not model.promoted
    assert "has only the items that were shown" in model.reason
    assert "log: all" in model.reason

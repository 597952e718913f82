"""A decision among the items of its request is made again bit for bit, from the log alone."""

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.deploy.explain.decided import START, DecidedLake
from tests.schemas.loops import ITEMS, with_items

from tidemill.cli.app import main
from tidemill.deploy.explain.explanation import Explainer, Explanation
from tidemill.errors import RequestError
from tidemill.schemas.loop.definition import Batch, Loop
from tidemill.serving.decision.results import DecisionResult
from tidemill.serving.policies.choice import LiveModel
from tidemill.trainers.learners.batch import Trained, train
from tidemill.trainers.rows import LabeledRows


def page(kind: str = "choice", **changes: object) -> Loop:
    """Return a loop with items; no machine is too busy for its budget."""
    return with_items(kind, budget_ms=60_000.0, **changes)


LOOPS: Mapping[str, Loop] = {
    "greedy": page(policy={"kind": "greedy", "epsilon": 0.4, "decay": 500}),
    "softmax": page(policy={"kind": "softmax", "epsilon": 0.2}),
    "greedy ranking": page("ranking", policy={"kind": "greedy", "epsilon": 0.5}),
    "Plackett-Luce": page("ranking", policy={"kind": "softmax", "epsilon": 0.4}),
    "apprentice": page(learning="apprentice", policy={"kind": "greedy", "epsilon": 0.4}),
}
TOPICS = ("news", "sports", "unheard-of")


def brought(draw: random.Random, count: int) -> list[dict[str, object]]:
    """Return the items of one request."""
    return [
        {
            "id": f"i{number}",
            "features": {
                "price": draw.gauss(5, 3),
                "topic": draw.choice(TOPICS),
                "age": draw.choice([None, draw.randrange(90)]),
            },
        }
        for number in range(count)
    ]


def decide(decided: DecidedLake, seed: int, count: int = 20) -> list[DecisionResult]:
    """Make decisions among items at random, some with a baseline, and write them to the lake."""
    draw, made = random.Random(seed), []
    is_ranking = decided.loop.decision.type == "ranking"
    for number in range(count):
        features = {"country": draw.choice(["at", "de"]), "visits": draw.randrange(40)}
        baseline = draw.choice([None, ["i1", "i0"] if is_ranking else "i1"])
        items = brought(draw, draw.randrange(2, 9))
        check = decided.decider.decisions.check
        request = check(features, None, f"d{seed}-{number}", START, baseline, items)
        made.append(decided.decider.decide(request))
    decided.write()
    return made


def trained(loop: Loop) -> Trained:
    """Return a model of *loop*: the label depends on the country, the price and the topic."""
    draw, count = random.Random(3), 1_500
    rows = [
        {"country": draw.choice(["at", "de"]), "visits": draw.randrange(40), **item["features"]}  # type: ignore[dict-item]  # a mapping
        for item in brought(draw, count)
    ]
    frame = pl.DataFrame(rows, schema_overrides={"age": pl.Int64()}, infer_schema_length=None)
    raw = frame["price"].to_numpy() / 5 - 1 + (frame["topic"] == "news").to_numpy()
    raw = raw + (frame["country"] == "at").to_numpy() * (frame["topic"] == "sports").to_numpy()
    known = LabeledRows(
        features=frame.select(*loop.model_features),
        label=(raw > np.median(raw)).astype(float),
        at=pl.Series([START] * count, dtype=pl.Datetime("us", "UTC")),
        ids=pl.Series([f"e{number}" for number in range(count)]),
        snapshot=0,
    )
    return train(known, loop, Batch(rounds=20, params={"min_data_in_leaf": 20}))


def explained(decided: DecidedLake, id_: str, item: str | None = None) -> Explanation:
    """Return the explanation of a decision that the lake has."""
    found = Explainer(decided.lake, decided.loop.loop).explain(id_, item)
    assert found is not None
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOPS)
def test_order_scores_and_propensities_come_out_again_bit_for_bit(
    name: str, tmp_path: Path
) -> None:
    """For every policy, with a model and without one."""
    decided = DecidedLake.of(LOOPS[name], tmp_path)
    before = decide(decided, 1)
    record = decided.live(trained(LOOPS[name]))
    after = decide(decided, 2)
    explainer = Explainer(decided.lake, decided.loop.loop)
    for one in [*before, *after]:
        found = explainer.explain(one.id)
        assert found is not None
        assert found.differences == ()
        assert found.remade is not None
        assert (found.remade.action, found.remade.score) == (one.action, one.score)
        assert found.remade.positions == [item.position for item in found.logged.items]
        assert found.remade.propensities == [item.propensity for item in found.logged.items]
        assert found.model == (record if one in after else None)
        assert len(found.item_scores) == (len(found.logged.items) if one in after else 0)
    if decided.loop.learning == "on":
        assert {one.source for one in before} == {"default", "explore"}


@pytest.mark.soak
def test_the_parts_are_of_the_item_taken_and_of_another_one(tmp_path: Path) -> None:
    """The runner-up, or the item that somebody asks about."""
    loop = LOOPS["greedy"]
    decided = DecidedLake.of(loop, tmp_path)
    decided.live(trained(loop))
    for one in decide(decided, 2):
        found = explained(decided, one.id)
        taken, other = found.scored
        assert (taken.action, taken.score) == (one.action, one.score)
        rest = {name: score for name, score in found.item_scores.items() if name != one.action}
        assert other.score == max(rest.values())
        for parts in found.scored:
            assert list(parts.contributions) == list(loop.model_features)
            assert 1 / (1 + math.exp(-parts.raw)) == pytest.approx(parts.score, abs=1e-9)
        last = found.logged.items[-1]
        named = explained(decided, one.id, last.id).scored
        assert [parts.action for parts in named] == list(dict.fromkeys([one.action, last.id]))
        assert named[-1].features["price"] == last.features["price"]
        with pytest.raises(RequestError, match="no item 'nothing'") as caught:
            explained(decided, one.id, "nothing")
        assert caught.value.hint.startswith(f"name one of its {len(found.logged.items)} items: i0")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "name"),
    [
        (pl.element().struct.with_fields(propensity=0.5), "propensities"),
        (pl.element().struct.with_fields(position=pl.lit(None, pl.Int32)), "positions"),
    ],
)
def test_what_was_changed_in_the_log_of_an_item_is_named(
    changed: pl.Expr, name: str, tmp_path: Path
) -> None:
    """The control: a comparison that sees nothing would agree with any log."""
    loop = LOOPS["softmax"]
    decided = DecidedLake.of(loop, tmp_path)
    decided.live(trained(loop))
    items = brought(random.Random(1), 5)
    check = decided.decider.decisions.check
    request = check({"country": "at", "visits": 1}, None, "changed", START, None, items)
    decided.decider.decide(request)
    decided.write(items=pl.col("items").list.eval(changed))
    assert explained(decided, "changed").differences == (name,)


@pytest.mark.slow
def test_a_log_of_shown_items_says_that_it_cannot_choose_again(tmp_path: Path) -> None:
    """Their scores are there, and what they were chosen among is not."""
    decision = {"type": "choice", "items": {**ITEMS, "log": "shown"}}
    loop = page(decision=decision, policy={"kind": "greedy", "epsilon": 0.4})
    decided = DecidedLake.of(loop, tmp_path)
    decided.live(trained(loop))
    (one,) = decide(decided, 2, count=1)
    found = explained(decided, one.id)
    assert (found.remade, found.differences) == (None, ())
    assert "decision.items.log" in found.nothing_more
    assert found.item_scores == {one.action: one.score}
    assert [parts.action for parts in found.scored] == [one.action]


def test_a_fallback_and_a_default_are_named_as_of_the_request(tmp_path: Path) -> None:
    """A loop with items has no default of its own."""
    for kind, words in (("choice", "the first item"), ("ranking", "the order")):
        decided = DecidedLake.of(page(kind), tmp_path / kind)

        def fails(_: object) -> float:
            raise ArithmeticError("no")

        items = brought(random.Random(1), 3)
        check = decided.decider.decisions.check
        request = check({"country": "at", "visits": 1}, None, "d", START, None, items)
        decided.decider.decide(request)
        decided.write()
        assert f"{words} of the request" in explained(decided, "d").nothing_more
        decided.decider.model = LiveModel("broken-1", fails)
        again = check({"country": "at", "visits": 1}, None, "f", START, None, items)
        assert decided.decider.decide(again).source == "fallback"
        decided.write()
        found = explained(decided, "f")
        assert f"so {words} of the request answered" in found.nothing_more
        assert found.differences == ()


@pytest.mark.slow
def test_the_command_shows_each_item_with_its_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those shown first, in their order."""
    decided = DecidedLake.of(LOOPS["Plackett-Luce"], tmp_path)
    decided.live(trained(decided.loop))
    one = decide(decided, 2)[0]
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path))
    assert main(["explain", one.id, "--item", "i1"]) == 0
    out = capsys.readouterr().out
    assert isinstance(one.action, list)
    rows = [line.split()[0] for line in out.splitlines() if line.startswith("i")]
    assert [name for name in rows if name in one.action] == one.action
    assert "adds to i1" in out
    assert main(["explain", one.id, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {item["id"] for item in document["items"]} == set(one.action)
    assert all(isinstance(item["score"], float) for item in document["items"])
    assert document["differences"] == []

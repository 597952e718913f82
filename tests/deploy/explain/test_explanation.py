"""A decision of the log is made again bit for bit, and its parts add up."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from tests.deploy.explain.decided import LEARNERS, LOOPS, DecidedLake, number, trained

from tidemill.deploy.explain.explanation import Explainer, Explanation
from tidemill.deploy.rules.rule_history import RuleHistory
from tidemill.errors import LakeError
from tidemill.features.lake.layouts import DECISIONS
from tidemill.schemas.loop.rollout import Rollout
from tidemill.schemas.loop.validation import BELIEFS
from tidemill.schemas.rules.rule_file import record_of
from tidemill.schemas.rules.rule_set import RuleSet
from tidemill.serving.decision.decider import Decider
from tidemill.serving.decision.results import DecisionResult
from tidemill.serving.policies.applied_rules import Rules
from tidemill.serving.policies.choice import LiveModel
from tidemill.trainers.registry import ModelVersion

DRAWS = 40
FEATURES = {"country": "c01", "visits": 3, "amount": 1.5, "member": True}


def explained(decided: DecidedLake, id_: str) -> Explanation:
    """Return the explanation of a decision that the lake has."""
    found = Explainer(decided.lake, decided.loop.loop).explain(id_)
    assert found is not None
    return found


@dataclass(frozen=True)
class Made:
    """Decisions of a loop in its lake, before and after its model went live."""

    decided: DecidedLake
    before: list[DecisionResult]
    record: ModelVersion
    after: list[DecisionResult]


@pytest.fixture(
    scope="module",
    params=[
        (name, learner)
        for name, loop in LOOPS.items()
        for learner in (["posterior"] if loop.policy.kind in BELIEFS else LEARNERS)
    ],
    ids=lambda pair: " by ".join(pair),
)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Random decisions of each policy, without a model and by each learner."""
    name, learner = request.param
    decided = DecidedLake.of(LOOPS[name], tmp_path_factory.mktemp("lake"))
    before = decided.decide(DRAWS, seed=1)
    record = decided.live(trained(LOOPS[name], learner))
    return Made(decided, before, record, decided.decide(DRAWS, seed=2))


@pytest.mark.slow
def test_score_action_and_propensity_come_out_again_bit_for_bit(made: Made) -> None:
    """What cannot be computed again from the log, nobody can be asked to believe."""
    loop = made.decided.loop
    explainer = Explainer(made.decided.lake, loop.loop)
    for one in [*made.before, *made.after]:
        found = explainer.explain(one.id)
        assert found is not None
        assert found.differences == ()
        assert found.remade is not None
        assert (found.remade.action, found.remade.propensity) == (one.action, one.propensity)
        assert found.remade.score == one.score
        is_later = one in made.after
        assert bool(found.scored) == is_later
        assert found.model == (made.record if is_later else None)
    if loop.learning == "on" and loop.policy.epsilon > 0.0:
        assert {one.source for one in made.before} == {"default", "explore"}


@pytest.mark.slow
def test_the_parts_of_a_score_add_up_to_it(made: Made) -> None:
    """A part that is missing or counted twice would tell a story that is not true."""
    loop = made.decided.loop
    explainer = Explainer(made.decided.lake, loop.loop)
    wanted = [*loop.features, *(["action"] if loop.scores_actions else [])]
    for one in made.after[:10]:
        found = explainer.explain(one.id)
        assert found is not None
        for parts in found.scored:
            assert list(parts.contributions) == wanted
            is_odds = loop.label.type == "bool" and made.record.learner != "posterior"
            link = 1 / (1 + math.exp(-parts.raw)) if is_odds else parts.raw
            assert link == pytest.approx(parts.score, abs=1e-9)
        assert len(found.scored) == (2 if loop.scores_actions else 1)


@pytest.mark.slow
def test_the_runner_up_is_the_best_of_the_actions_not_taken(tmp_path: Path) -> None:
    """Why this headline is answered by comparing it with the next best."""
    loop = LOOPS["greedy"]
    decided = DecidedLake.of(loop, tmp_path)
    decided.live(trained(loop, "lightgbm"))
    for made in decided.decide(10):
        taken, other = explained(decided, made.id).scored
        assert taken.action == made.action
        assert taken.score == made.score
        if made.propensity is not None and made.propensity > 0.5:
            assert taken.score >= other.score


@pytest.mark.slow
def test_what_was_changed_in_the_log_is_named(tmp_path: Path) -> None:
    """The control: a comparison that sees nothing would agree with any log."""
    loop = LOOPS["greedy"]
    decided = DecidedLake.of(loop, tmp_path)
    decided.live(trained(loop, "lightgbm"))
    decider = decided.decider
    made = decider.decide(decider.decisions.check({**FEATURES}, None, "changed"))
    score = pl.col("score") * (1 + 2**-50)
    decided.write(score=score)
    assert explained(decided, made.id).differences == ("score",)
    other = Decider(
        loop.model_copy(update={"salt": "another"}), store=decided.store, log=decided.log
    )
    made_by = [other.decide(other.decisions.check({**FEATURES}, None, f"s{n}")) for n in range(30)]
    decided.write()
    found = [explained(decided, each.id).differences for each in made_by]
    assert any("source" in each for each in found), "another salt explores others"


def test_a_decision_without_a_model_says_why_there_is_nothing_more(tmp_path: Path) -> None:
    """No model, a failed model, a history: three reasons, and none is a mistake of the lake."""
    loop = number(grid=4, epsilon=0.5)
    decided = DecidedLake.of(loop, tmp_path)
    by_default = {made.source: explained(decided, made.id) for made in decided.decide(20)}
    assert "no model was live" in by_default["default"].nothing_more
    assert "chance took another action" in by_default["explore"].nothing_more
    assert "chance took the action" in by_default["explore"].exploration

    def fails(_: object) -> float:
        raise ArithmeticError("no")

    decided.decider.model = LiveModel("broken-1", fails)
    (fallen,) = decided.decide(1, seed=5, baseline=0.5)
    found = explained(decided, fallen.id)
    assert fallen.source == "fallback"
    assert "the baseline of the request answered" in found.nothing_more
    assert found.differences == ()
    assert found.remade is not None
    assert found.remade.action == 0.5

    decided.decider.decide(decided.decider.decisions.check({**FEATURES}, None, "old"))
    decided.write(source=pl.lit("history"))
    old = explained(decided, "old")
    assert "it came with the source 'history'" in old.nothing_more
    assert old.remade is None
    assert Explainer(decided.lake, loop.loop).explain("nobody") is None


def test_a_decision_whose_model_or_loop_is_gone_names_the_way_back(tmp_path: Path) -> None:
    """A lake that was replayed has the decisions and not yet the models."""
    loop = LOOPS["value"]
    decided = DecidedLake.of(loop, tmp_path)
    decided.decider.model = LiveModel("lightgbm-9", lambda _: 0.5)
    decided.decide(1)
    with pytest.raises(LakeError, match="has no model lightgbm-9") as caught:
        explained(decided, "d1-0")
    assert "tidemill model restore" in caught.value.hint
    decided.decider.decide(decided.decider.decisions.check({**FEATURES}, None, "newer"))
    decided.write(loop_version=pl.lit(7, pl.Int32))
    with pytest.raises(LakeError, match="no version 7"):
        explained(decided, "newer")


def test_a_decision_of_the_control_is_made_again_without_exploration(tmp_path: Path) -> None:
    """Its source is that of a decision without a model, which would have been explored."""
    loop = LOOPS["greedy"].model_copy(update={"rollout": Rollout(control=0.5)})
    decided = DecidedLake.of(loop, tmp_path)
    made = decided.decide(DRAWS, seed=1)
    rows = decided.lake.table(loop.loop, DECISIONS).read(columns=["id", "stage"])
    stages = dict(rows.iter_rows())
    assert set(stages.values()) == {"control", "live"}
    for one in made:
        found = explained(decided, one.id)
        assert found.differences == ()
        is_control = stages[one.id] == "control"
        assert (found.exploration == "none: the decision is in the control") == is_control
        assert ("in the control" in found.nothing_more) == is_control
        assert found.to_json()["stage"] == stages[one.id]


@pytest.mark.parametrize("name", ["greedy", "softmax"])
def test_a_decision_under_rules_is_made_again_with_them(name: str, tmp_path: Path) -> None:
    """They may have changed since; the lake has every version."""
    decided = DecidedLake.of(LOOPS[name], tmp_path)
    actions = LOOPS[name].decision.actions
    rules = [
        {"name": "members", "when": "member", "forbid": [actions[0]]},
        {"name": "often", "when": "visits > 20", "boost": {"action": actions[1], "share": 0.5}},
    ]
    written = RuleSet.model_validate({"loop": decided.loop.loop, "rules": rules})
    at = datetime(2026, 1, 1, tzinfo=UTC)
    record = record_of(written, decided.loop, version=1, at=at, who="ann", why="a test")
    RuleHistory(decided.lake, decided.loop.loop).add(record, None)
    decided.decider.rules = Rules(record, decided.loop)
    made = decided.decide(DRAWS, seed=1)
    decided.live(trained(LOOPS[name], LEARNERS[0]))
    made += decided.decide(DRAWS, seed=2)
    assert any(one.policy_action is not None for one in made)
    for one in made:
        found = explained(decided, one.id)
        assert found.differences == ()
        assert found.to_json()["rule_version"] == 1


def test_a_decision_whose_rules_are_gone_says_so(tmp_path: Path) -> None:
    """It cannot be made again without them."""
    decided = DecidedLake.of(LOOPS["greedy"], tmp_path)
    written = RuleSet.model_validate({"loop": decided.loop.loop, "rules": []})
    at = datetime(2026, 1, 1, tzinfo=UTC)
    record = record_of(written, decided.loop, version=7, at=at, who="ann", why="a test")
    decided.decider.rules = Rules(record, decided.loop)
    (one,) = decided.decide(1)
    with pytest.raises(LakeError, match="no version 7 of the rules"):
        explained(decided, one.id)

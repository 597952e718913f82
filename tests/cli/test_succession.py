"""Who publishes a version reads before what it does to the model and to the rows."""

from dataclasses import replace

import pytest
from tests.schemas.loops import ITEMS, with_items
from tests.serving.models import SIGNATURE, banner

from tidemill.cli.notes import warnings
from tidemill.cli.succession import LoopState, succession
from tidemill.schemas.loop.definition import FieldType, Loop
from tidemill.schemas.models.feature_signature import FeatureSignature, SignatureField

LEARNED = FeatureSignature(
    (*SIGNATURE.fields, SignatureField("action", FieldType.CATEGORY, ("hide", "show")))
)
GREEDY = {"policy": {"kind": "greedy"}}
THREE = {"type": "choice", "actions": ["show", "hide", "wait"], "default": "hide"}


def state(loop: Loop, **left_out: int) -> LoopState:
    """Return what a lake knows: lightgbm-7 decides."""
    acts = loop.scores_actions
    return LoopState(
        model="lightgbm-7",
        learner="lightgbm",
        signature=LEARNED if acts else SIGNATURE,
        label_type="bool",
        label_digest=loop.label_digest,
        left_out={name.replace("_", " "): count for name, count in left_out.items()},
    )


def test_nothing_is_said_of_a_version_that_is_published_already() -> None:
    """A deployment publishes on every run."""
    assert succession(banner(), banner(), None) == []


def test_one_more_feature_keeps_the_model() -> None:
    """And that is said, because it was not so."""
    features = {**banner().model_dump()["features"], "fresh": {"type": "int", "nullable": True}}
    new = banner(version=2, features=features)
    assert succession(banner(), new, state(banner())) == ["lightgbm-7 goes on deciding"]
    assert succession(banner(), new, None) == ["the live model, if there is one, goes on deciding"]
    [said] = succession(banner(), new, LoopState(left_out={}))
    assert said.startswith("no model decides yet: the default goes on")


def test_a_feature_that_goes_away_is_named_with_what_it_stops() -> None:
    """The model reads it, so the default decides."""
    features = banner().model_dump()["features"]
    del features["age"]
    new = banner(version=2, features=features)
    changed, model = succession(banner(), new, state(banner()))
    assert changed == "the feature age goes away"
    assert model == (
        "lightgbm-7 reads other features than banner version 2: age (float): the default decides "
        "until a model of version 2 is promoted"
    )


def test_a_label_of_another_meaning_is_named_with_the_rows_it_costs() -> None:
    """40,002 rows of 0 and 1 were learned as euros."""
    new = banner(version=3, label={"sql": "sum(seconds)", "type": "float"})
    label, _, rows = succession(banner(), new, state(banner(), version_2=40_002))
    assert label == "the label changes its meaning"
    assert rows == (
        "40,002 rows of version 2 are not learned; tidemill publish --backfill makes their labels "
        "anew"
    )
    *_, model, unknown = succession(banner(version=2), new, None)
    assert model.startswith("the live model, if there is one, predicts a bool label")
    assert unknown.startswith("rows of version 2 are not learned")


def test_a_policy_of_another_kind_is_named() -> None:
    """A model that reads no action cannot choose, and the label is one of the action now."""
    changed, label, model = succession(banner(), banner(version=2, **GREEDY), state(banner()))
    assert changed == "the policy changes from threshold to greedy"
    assert label == "the label changes its meaning"
    assert model.endswith("no action: the default decides until a model of version 2 is promoted")


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"epsilon": 0.1}, "is new and explored until a model has learned it"),
        ({}, "is new and would never be tried: write epsilon: 0.1 below policy"),
    ],
)
def test_an_action_that_comes_is_named_with_how_it_is_tried(
    policy: dict[str, object], said: str
) -> None:
    """Without epsilon it never is."""
    new = banner(version=2, decision=THREE, policy={"kind": "greedy", **policy})
    model, action = succession(banner(**GREEDY), new, state(banner(**GREEDY)))
    assert model == "lightgbm-7 goes on deciding"
    assert action.startswith(f"the action wait {said}")
    [*_, unknown] = succession(banner(**GREEDY), new, None)
    assert unknown == action


def test_an_action_that_goes_is_named() -> None:
    """It is never chosen again, whatever the model thinks of it."""
    old = banner(decision=THREE, **GREEDY)
    gone, model = succession(old, banner(version=2, **GREEDY), state(old))
    assert gone == "the action wait goes away and is never chosen again"
    assert model == "lightgbm-7 goes on deciding"


def test_new_actions_alone_leave_the_model_nothing_to_choose() -> None:
    """Then the default decides, and explores, as without a model."""
    actions = {"type": "choice", "actions": ["a", "b"], "default": "a"}
    known = replace(state(banner(**GREEDY)), label_digest=None)
    said = succession(banner(**GREEDY), banner(version=2, decision=actions, **GREEDY), known)
    assert "has learned none of the actions of banner version 2: the default decides" in said[-1]


def test_check_says_that_a_later_version_could_try_no_new_action() -> None:
    """It has no version to compare with, but the line to write is the same."""
    loop = banner(version=2, decision=THREE, **GREEDY)
    _, warning = warnings(loop)
    assert "an action that this version adds would never be tried" in warning.what
    assert "epsilon: 0.1" in warning.hint
    quiet = banner(version=2, decision=THREE, policy={"kind": "greedy", "epsilon": 0.1})
    assert warnings(quiet) == []


def test_what_changes_about_items_is_said() -> None:
    """A model that reads a feature of items stops deciding if requests no longer bring it."""
    old = with_items(version=1)
    features = {"topic": "category", "colour": {"type": "category", "nullable": True}}
    items = {"features": features, "max": 50, "log": "shown"}
    new = with_items(version=2, decision={"type": "choice", "items": items})
    told = succession(old, new, None)
    assert told[:3] == [
        "the feature of items price goes away",
        "the feature of items age goes away",
        "items that were not shown are no longer logged: from then on no policy can be judged that "
        "did not run",
    ]
    assert "reads other features than banner version 2: age (int), price (float)" in told[3]
    more = with_items(version=2, decision={"type": "choice", "items": {**ITEMS, "max": 60}})
    assert succession(old, more, None) == ["the live model, if there is one, goes on deciding"]

"""A model outlives the version it was trained for as long as all it reads is there."""

import pytest
from tests.schemas.models.test_feature_signature import make_loop

from tidemill.errors import ModelError
from tidemill.schemas.loop.definition import FieldType, Loop
from tidemill.schemas.models.feature_signature import ACTION, FeatureSignature, SignatureField
from tidemill.schemas.models.fit import check_fit, learned_actions, misfit, taken_names

HOUR, CITY = SignatureField("hour", FieldType.INT), SignatureField("city", FieldType.CATEGORY)


def acting(*learned: str) -> FeatureSignature:
    """Return the signature of a model that has *learned* some actions."""
    action = SignatureField(ACTION, FieldType.CATEGORY, tuple(sorted(learned)))
    return FeatureSignature((HOUR, CITY, action))


def why(loop: Loop, signature: FeatureSignature, **label: object) -> str:
    """Return why a model of the label of *loop*, or of another *label*, cannot serve it."""
    known: dict[str, object] = {"learner": "lightgbm", "label_type": loop.label.type}
    known |= {"label_digest": loop.label_digest} | label
    return misfit(loop, signature, **known)  # type: ignore[arg-type]  # as the keywords say


def test_features_map_by_name() -> None:
    """A version with one more feature, or another order, keeps its model."""
    loop = make_loop()
    more = make_loop(features={"city": "category", "wind": "float", "hour": "int"})
    assert why(loop, acting("a", "b")) == ""
    assert why(more, acting("a", "b")) == ""
    assert taken_names(acting("a"), more) == ["city", "wind", "hour", ACTION]


@pytest.mark.parametrize(
    ("features", "named"),
    [
        ({"city": "category"}, "hour (int)"),
        ({"hour": "float", "city": "category"}, "hour (int)"),
    ],
)
def test_a_feature_that_went_away_or_changed_its_type_is_named(
    features: dict[str, object], named: str
) -> None:
    """The operator should read which feature it is about."""
    loop = make_loop(features=features)
    assert (
        why(loop, acting("a", "b")) == f"reads other features than {loop.loop} version 1: {named}"
    )
    with pytest.raises(ModelError, match="m-1 reads other features"):
        check_fit(
            loop, "m-1", acting("a"), learner="lightgbm", label_type="bool", label_digest=None
        )


def test_a_model_that_reads_no_action_serves_thresholds_alone() -> None:
    """One of an earlier release predicts the label, which a threshold can use."""
    label = {"sql": "count(*) > 0", "depends_on": "action"}
    acts = make_loop(
        decision={"type": "bool", "default": False}, policy={"kind": "threshold"}, label=label
    )
    plain = FeatureSignature((HOUR, CITY))
    assert why(acts, plain) == ""
    assert why(make_loop(), plain).endswith("no action")
    world = make_loop(policy={"kind": "threshold"})
    assert why(world, acting("a", "b")).endswith("action (category)")


def test_a_model_of_another_label_is_refused() -> None:
    """0.3 is a chance under one label and thirty cents under the other."""
    loop = make_loop()
    assert why(loop, acting("a"), label_digest="other").startswith("has learned another label")
    assert why(loop, acting("a"), label_type="float").startswith("predicts a float label")
    assert why(loop, acting("a"), label_digest=None) == "", "of an earlier release"


def test_the_vocabulary_of_the_action_says_what_was_learned() -> None:
    """A removed action is none of the loop's, and a new one is not learned."""
    loop = make_loop()
    first, second = loop.decision.actions
    assert learned_actions(acting(first, second, "gone"), loop) is None
    assert learned_actions(acting(second, "gone"), loop) == [second]
    assert learned_actions(acting(), loop) is None, "an online model of an earlier release"
    assert why(loop, acting("gone")).startswith("has learned none of the actions")


def test_a_threshold_needs_both_sides() -> None:
    """What acting adds is the difference of two scores."""
    label = {"sql": "count(*) > 0", "depends_on": "action"}
    loop = make_loop(
        decision={"type": "bool", "default": False}, policy={"kind": "threshold"}, label=label
    )
    assert why(loop, acting("false")).startswith("has not learned the action true")
    assert why(loop, acting("false", "true")) == ""


def test_a_policy_that_explores_by_doubt_needs_a_posterior() -> None:
    """And no other policy can use one: its score functions differ."""
    doubtful = make_loop(policy={"kind": "thompson"})
    said = "was trained by lightgbm: no model for the thompson policy of offer version 1"
    assert why(doubtful, acting("a")) == said
    assert why(doubtful, acting("a"), learner="posterior") == ""
    assert learned_actions(acting("a"), doubtful) is None, "of the others it knows its doubt"
    assert "was trained by posterior" in why(make_loop(), acting("a"), learner="posterior")

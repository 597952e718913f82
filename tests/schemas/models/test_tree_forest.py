"""Published trees: what a broken or hostile payload may not do, and how a row walks."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import ModelError
from tidemill.schemas.loop.definition import FieldType
from tidemill.schemas.models.feature_signature import FeatureSignature, SignatureField
from tidemill.schemas.models.hashed_rows import word_bucket
from tidemill.schemas.models.tree_forest import (
    AT_MOST,
    LEAF,
    ONE_OF,
    ForestNode,
    Tree,
    TreeForest,
    TreePredictor,
)

SIGNATURE = FeatureSignature(
    (SignatureField("hour", FieldType.INT), SignatureField("line", FieldType.CATEGORY))
)
RED = word_bucket("red", 64)
NODES = (
    ForestNode(test=AT_MOST, feature="hour", threshold=12.0, children=(1, 2), usual=1),
    ForestNode(test=LEAF, no=0.75, yes=0.25),
    ForestNode(test=ONE_OF, feature="line", buckets=(RED,), children=(3,)),
    ForestNode(test=LEAF, no=0.0, yes=1.0),
)


def forest(*nodes: ForestNode) -> TreeForest:
    """A forest of one tree."""
    return TreeForest(
        learner="hoeffding_tree", label_type="bool", hash_buckets=64, trees=(Tree(1.0, nodes),)
    )


def test_a_forest_comes_back_and_scores() -> None:
    """A missing feature, and a word of no child, take the usual way."""
    predictor = TreePredictor(TreeForest.from_bytes(forest(*NODES).to_bytes()), SIGNATURE)
    assert predictor.score({"hour": 12}) == 0.25
    assert predictor.score({"hour": 13, "line": "red"}) == 1.0
    assert predictor.score({"line": "blue"}) == 1.0
    assert predictor.contributions({"hour": 3}) == ({"hour": -0.75, "line": 0.0}, 1.0)


@pytest.mark.parametrize(
    "broken",
    [
        replace(NODES[0], children=(0, 2)),  # a walk without an end
        replace(NODES[0], children=(1, 9)),
        replace(NODES[0], usual=2),
        replace(NODES[0], test="popen"),
        replace(NODES[0], threshold=float("nan")),
        replace(NODES[0], alternate=0),
    ],
)
def test_a_tree_that_leads_out_of_itself_is_refused(broken: ForestNode) -> None:
    """A worker walks it for each decision, and must come to a leaf."""
    with pytest.raises(ValueError, match="not sound"):
        forest(broken, *NODES[1:])


@given(data=st.data())
def test_a_cut_forest_is_refused(data: st.DataObject) -> None:
    """Half a payload is no model."""
    whole = forest(*NODES).to_bytes()
    with pytest.raises(ModelError, match="cannot be read"):
        TreeForest.from_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])

"""What a model of items needs: the features of the request and those of the item alike."""

import pytest
from tests.trainers.cycles import cycle_of
from tests.trainers.shop import Shop, shop_loop

from tidemill.features.lake.lake import Lake
from tidemill.trainers.evaluation.importance import importance_of
from tidemill.trainers.publisher import MemoryModelTopic


@pytest.mark.slow
def test_the_features_of_items_have_their_importance(lake: Lake) -> None:
    """The segment and the kind make the click; the price is 0 or 1 by the kind, so it tells too."""
    loop = shop_loop(policy={"kind": "greedy", "epsilon": 1.0})
    lake.create(loop)
    Shop(loop).fill(lake, 4_000)
    (model,) = cycle_of(loop, lake, MemoryModelTopic()).run()
    found = importance_of(lake, loop, model, repeats=2)
    grown = {each.name: each.mean for each in found.features}
    assert set(grown) == {"segment", "kind", "price"}
    assert min(grown.values()) > 0.01
    assert found.rows == 800

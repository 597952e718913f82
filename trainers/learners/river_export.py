"""From River's learners to what is published of them: the predictor, without statistics.

A deactivated or growing leaf, a drift detector or a background tree predicts nothing, so none of
them is exported.
"""

from river import facto, forest, preprocessing
from river.tree.nodes.branch import DTBranch, NominalBinaryBranch, NumericBinaryBranch

from tidemill.schemas.models.factor_machine import FactorMachine, FactorWeight
from tidemill.schemas.models.tree_forest import (
    AT_MOST,
    EQUALS,
    LEAF,
    ONE_OF,
    ForestNode,
    Tree,
    TreeForest,
)
from tidemill.trainers.learners.river_trees import RiverObject
from tidemill.trainers.learners.scaled_linear import scales_of


def export_trees(
    model: RiverObject, *, learner: str, label_type: str, hash_buckets: int
) -> TreeForest:
    """Return the trees of *model*.

    Raises:
        ValueError: it has learned nothing, or a number is not finite.
    """
    if isinstance(model, forest.ARFClassifier):
        votes = [one.get() for one in model._metrics]
        trees = [
            _tree(one, vote if vote > 0.0 else 1.0)  # as River: a tree without a hit counts too
            for one, vote in zip(model, votes, strict=True)
        ]
    elif isinstance(model, forest.ARFRegressor):
        trees = [_tree(one, 1.0) for one in model]
    else:
        trees = [_tree(model, 1.0)]
    return TreeForest(
        learner=learner, label_type=label_type, hash_buckets=hash_buckets, trees=tuple(trees)
    )


def _tree(tree: RiverObject, weight: float) -> Tree:
    """Return the nodes of *tree* level by level, so that each comes before its children."""
    if tree._root is None:  # new in a forest: predicts 0, as River
        return Tree(weight, (ForestNode(test=LEAF),))
    met = [tree._root]
    nodes: list[ForestNode] = []
    while len(nodes) < len(met):
        one = met[len(nodes)]
        if isinstance(one, DTBranch):
            nodes.append(_split(one, met))
        else:
            nodes.append(_leaf(one, tree))
    return Tree(weight, tuple(nodes))


def _split(branch: RiverObject, met: list[RiverObject]) -> ForestNode:
    children = tuple(range(len(met), len(met) + len(branch.children)))
    met += branch.children
    alternate = getattr(branch, "_alternate_tree", None)
    if alternate is not None:
        met.append(alternate)
    test, threshold = ONE_OF, 0.0
    buckets: tuple[int, ...] = ()
    if isinstance(branch, NumericBinaryBranch):
        test, threshold = AT_MOST, float(branch.threshold)
    elif isinstance(branch, NominalBinaryBranch):
        test, buckets = EQUALS, (branch.value,)
    else:
        buckets = tuple(branch._r_mapping[place] for place in range(len(children)))
    return ForestNode(
        test=test,
        feature=branch.feature,
        threshold=threshold,
        buckets=buckets,
        children=children,
        usual=branch.most_common_path()[0],
        alternate=-1 if alternate is None else len(met) - 1,
    )


def _leaf(leaf: RiverObject, tree: RiverObject) -> ForestNode:
    found = leaf.prediction({}, tree=tree)
    if isinstance(found, float):
        return ForestNode(test=LEAF, yes=found)
    shares = found or {}
    return ForestNode(test=LEAF, no=float(shares.get(False, 0.0)), yes=float(shares.get(True, 0.0)))


def export_machine(
    model: "facto.FMClassifier | facto.FMRegressor",
    scaler: "preprocessing.StandardScaler",
    *,
    label_type: str,
    hash_buckets: int,
) -> FactorMachine:
    """Return the factorization machine *model*, with the scales of its numbers.

    Raises:
        ValueError: a number is not finite.
    """
    return FactorMachine(
        label_type=label_type,
        hash_buckets=hash_buckets,
        n_factors=model.n_factors,
        intercept=float(model.intercept),
        scales=scales_of(scaler),
        weights=tuple(
            FactorWeight(name, float(model.weights.get(name, 0.0)), tuple(map(float, factors)))
            for name, factors in model.latents.items()
        ),
    )

"""Online trees as they are published: what a prediction needs, scored in plain Python.

The trainer exports the trees of a River learner (`trainers/learners/river_export.py`). Their leaves
are constants: the shares of the labels, or their mean. A score has the bits of River's own
prediction, because it adds and divides in the same order. The trees of LightGBM (`trees.c`) cannot
carry that: they take numbers next to zero for zero and add the leaves of all trees up.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Self

from tidemill.errors import ModelError
from tidemill.schemas.models.avro_record import UNREADABLE, decode_record, encode_record
from tidemill.schemas.models.feature_signature import FeatureRow, FeatureSignature
from tidemill.schemas.models.hashed_rows import HashedRows

MAX_FOREST_BYTES = 16 * 2**20
MAX_NODES = 500_000
TREE_LEARNERS = ("hoeffding_tree", "hoeffding_adaptive_tree", "adaptive_random_forest")
LEAF, AT_MOST, EQUALS, ONE_OF = "leaf", "at_most", "equals", "one_of"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForestNode:
    """A leaf, or a split; ``tree_forest.avsc`` explains the fields."""

    test: str
    feature: str = ""
    threshold: float = 0.0
    buckets: tuple[int, ...] = ()
    children: tuple[int, ...] = ()
    usual: int = 0
    alternate: int = -1
    no: float = 0.0
    yes: float = 0.0


@dataclass(frozen=True, slots=True)
class Tree:
    """The nodes of a tree, each before its children; the first is the root."""

    weight: float
    nodes: tuple[ForestNode, ...]

    def __post_init__(self) -> None:
        if not (self.nodes and math.isfinite(self.weight)):
            raise ValueError("a tree has no nodes, or its weight is not finite")
        for number, node in enumerate(self.nodes):
            self._check(number, node)

    def _check(self, number: int, node: ForestNode) -> None:
        """Refuse a node from which a walk would go backwards, or leave the tree."""
        wanted = {LEAF: 0, AT_MOST: 2, EQUALS: 2, ONE_OF: len(node.children)}.get(node.test, -1)
        buckets = {EQUALS: 1, ONE_OF: wanted}.get(node.test, 0)
        below = [*node.children, *([] if node.alternate == -1 else [node.alternate])]
        is_sound = (
            len(node.children) == wanted
            and len(node.buckets) == buckets
            and all(number < child < len(self.nodes) for child in below)
            and (node.test == LEAF) == (not node.children)
            and (node.test != LEAF or node.alternate == -1)
            and 0 <= node.usual < max(wanted, 1)
            and all(map(math.isfinite, (node.threshold, node.no, node.yes)))
        )
        if not is_sound:
            raise ValueError(f"node {number} is not sound: {node}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeForest:
    """The published form of an online learner of trees."""

    learner: str
    label_type: str
    hash_buckets: int
    trees: tuple[Tree, ...]

    def __post_init__(self) -> None:
        if self.learner not in TREE_LEARNERS or self.label_type not in ("bool", "float"):
            raise ValueError(f"{self.learner!r} of {self.label_type!r}")
        nodes = [node for tree in self.trees for node in tree.nodes]
        if not 0 < len(nodes) <= MAX_NODES or self.hash_buckets < 1:
            raise ValueError(f"{len(nodes)} nodes and {self.hash_buckets} buckets")
        if self.learner != "adaptive_random_forest" and len(self.trees) != 1:
            raise ValueError(f"{self.learner} with {len(self.trees)} trees")

    def to_bytes(self) -> bytes:
        """Return the trees in Avro (``tree_forest.avsc``)."""
        return encode_record("tree_forest", asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            ModelError: it is no such forest, or larger than `MAX_FOREST_BYTES`.
        """
        try:
            value = decode_record("tree_forest", data, most_bytes=MAX_FOREST_BYTES)
            trees = tuple(
                Tree(tree["weight"], tuple(_node(node) for node in tree["nodes"]))
                for tree in value.pop("trees")
            )
            return cls(trees=trees, **value)
        except UNREADABLE as error:
            raise ModelError(
                f"the trees of an online model cannot be read: {error!r}",
                hint="train it again: tidemill train LOOP --once",
            ) from error


def _node(value: dict[str, Any]) -> ForestNode:
    return ForestNode(**value | {name: tuple(value[name]) for name in ("buckets", "children")})


class TreePredictor:
    """Scores rows with a `TreeForest`, to the same bits as the River model it was taken from.

    Args:
        forest: the model.
        signature: the features it reads.
    """

    def __init__(self, forest: TreeForest, signature: FeatureSignature) -> None:
        self._rows = HashedRows(signature.fields, forest.hash_buckets)
        self._names = [item.name for item in signature.fields]
        self._trees = forest.trees
        self._combine = _COMBINE[forest.learner, forest.label_type]

    def score(self, row: FeatureRow) -> float:
        """Return the probability of true, or the value, that is predicted for *row*."""
        x: dict[str, float] = {**self._rows.numbers(row), **self._rows.buckets(row)}
        return self._combine([(tree.weight, reached(tree.nodes, x)) for tree in self._trees])

    def contributions(self, row: FeatureRow) -> tuple[dict[str, float], float]:
        """Return what each feature changes of the score as it joins those before it.

        The second value is the score of a row without features.
        """
        return joined_contributions(self.score, self._names, row)


def joined_contributions(
    score: Callable[[FeatureRow], float], names: Sequence[str], row: FeatureRow
) -> tuple[dict[str, float], float]:
    """Return by how much *score* changes as each feature of *row* joins those before it."""
    known: dict[str, object] = {}
    base = before = score(known)
    added = {}
    for name in names:
        known[name] = row.get(name)
        after = score(known)
        added[name], before = after - before, after
    return added, base


def reached(nodes: Sequence[ForestNode], x: dict[str, float], start: int = 0) -> list[ForestNode]:
    """Return the leaves that *x* reaches, first those of alternate trees.

    A row that lacks the feature of a split takes the usual child. River then visits the child
    twice, so an alternate tree of it counts twice.
    """
    found: list[ForestNode] = []
    number, visits = start, 1
    while (node := nodes[number]).test != LEAF:
        if node.alternate != -1:
            found += reached(nodes, x, node.alternate) * visits
        place = _taken(node, x.get(node.feature))
        visits = 2 if place is None else 1
        number = node.children[node.usual if place is None else place]
    found.append(node)
    return found


def _taken(node: ForestNode, value: float | None) -> int | None:
    """Return which child the value takes; None if it is missing, or of no child."""
    if value is None:
        return None
    if node.test == AT_MOST:
        return 0 if value <= node.threshold else 1
    if node.test == EQUALS:
        return 0 if value == node.buckets[0] else 1
    return node.buckets.index(int(value)) if value in node.buckets else None


_Votes = list[tuple[float, list[ForestNode]]]


def _share(votes: _Votes) -> float:
    return votes[0][1][-1].yes


def _share_of_alternates(votes: _Votes) -> float:
    no = yes = 0.0
    for leaf in votes[0][1]:
        no += leaf.no
        yes += leaf.yes
    total = no + yes
    return yes * (1 / total) if total else yes


def _vote(votes: _Votes) -> float:
    no = yes = 0.0
    for weight, leaves in votes:
        no += leaves[-1].no * weight
        yes += leaves[-1].yes * weight
    total = no + yes
    return yes / total if total > 0 else yes


def _mean(votes: _Votes) -> float:
    leaves = votes[0][1]
    total = 0.0
    for leaf in leaves:
        total += leaf.yes
    return total / len(leaves)


def _median(votes: _Votes) -> float:
    return median(leaves[-1].yes for _, leaves in votes)


_COMBINE: dict[tuple[str, str], Callable[[_Votes], float]] = {
    ("hoeffding_tree", "bool"): _share,
    ("hoeffding_adaptive_tree", "bool"): _share_of_alternates,
    ("adaptive_random_forest", "bool"): _vote,
    ("hoeffding_tree", "float"): _share,
    ("hoeffding_adaptive_tree", "float"): _mean,
    ("adaptive_random_forest", "float"): _median,
}
"""How the leaves of the trees become one score, as River does it."""

"""River's trees with what a state that is written and read again needs: one order of everything.

`ClassSplitter` lets a tree split by categories in an order that does not depend on the process: a
set of River's own has another order after it was read, and of two equally good splits the first
one wins. `AdaptiveTreeClassifier` predicts also while an alternate tree has split.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from river import tree
from river.tree.nodes.branch import DTBranch
from river.tree.splitter import GaussianSplitter
from river.tree.splitter.nominal_splitter_classif import NominalSplitterClassif
from river.tree.utils import BranchFactory, add_dict_values
from river.utils.norm import normalize_values_in_dict

RiverObject = Any
"""A model or a node of River: they have no common type."""


class CategorySplitter(NominalSplitterClassif):  # type: ignore[misc]  # River is untyped here
    """River's splitter by categories, which proposes them in ascending order."""

    _att_values: Iterable[int]

    def best_evaluated_split_suggestion(self, *arguments: object) -> BranchFactory:
        """Return the best split; of equally good ones that by the lowest category."""
        seen = self._att_values
        self._att_values = sorted(seen)
        try:
            return super().best_evaluated_split_suggestion(*arguments)
        finally:
            self._att_values = seen


class ClassSplitter(GaussianSplitter):  # type: ignore[misc]  # River is untyped here
    """River's Gaussian splitter, which takes ints as categories.

    A tree of River makes one splitter for each feature of a leaf, and knows the type of a feature
    from its first value only.
    """

    def __init__(self, n_splits: int = 10) -> None:
        super().__init__(n_splits)
        self.categories: CategorySplitter | None = None

    def update(self, att_val: float, target_val: bool, w: float) -> None:
        """Observe a value of the feature with its label."""
        if type(att_val) is not int:
            super().update(att_val, target_val, w)
            return
        if self.categories is None:
            self.categories = CategorySplitter()
        self.categories.update(att_val, target_val, w)

    def best_evaluated_split_suggestion(self, *arguments: object) -> BranchFactory:
        """Return the best split by the feature."""
        if self.categories is not None:
            return self.categories.best_evaluated_split_suggestion(*arguments)
        return super().best_evaluated_split_suggestion(*arguments)


class AdaptiveTreeClassifier(tree.HoeffdingAdaptiveTreeClassifier):  # type: ignore[misc]
    """River's adaptive tree; the leaves of an alternate tree that has split count one by one.

    River 0.26 puts them into its list of leaves as a list, and fails.
    """

    def predict_proba_one(self, x: Mapping[str, float]) -> dict[bool, float]:
        """Return the chance of each label that was seen."""
        chances: dict[bool, float] = dict.fromkeys(self.classes, 0.0)
        if self._root is None:
            return chances
        for leaf in reached(self._root, x):
            chances = add_dict_values(chances, leaf.prediction(x, tree=self) or {}, inplace=True)
        normal: dict[bool, float] = normalize_values_in_dict(chances)
        return normal


def reached(root: RiverObject, x: Mapping[str, float]) -> list[RiverObject]:
    """Return the leaves of an adaptive tree that *x* reaches, with those of alternate trees."""
    found = [root]
    if isinstance(root, DTBranch):
        found = root.traverse(x, until_leaf=True)
    return [leaf for one in found for leaf in _flat(one)]


def _flat(found: RiverObject) -> list[RiverObject]:
    if isinstance(found, list):
        return [leaf for one in found for leaf in _flat(one)]
    return [found]

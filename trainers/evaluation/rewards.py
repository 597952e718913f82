"""Rewards: what decisions of a loop are worth, by its `gate.reward` or by its policy.

The default is the label; under a threshold less the threshold where the action is *above*, so that
acting pays if it adds more to the label than the threshold.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from tidemill.features.estimates.intervals import Floats
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.labels import compile_reward
from tidemill.schemas.models.feature_signature import action_text, scored_actions
from tidemill.trainers.rows import Integers


class Rewards:
    """The reward of a loop whose models score actions, by the numbers of those actions."""

    def __init__(self, loop: Loop) -> None:
        self._query = compile_reward(loop)
        self._is_bool = loop.label.type == "bool"
        self._actions = scored_actions(loop)
        self._values: Sequence[object] = loop.decision.actions or [False, True]
        self._charge = np.zeros(len(self._actions))
        if loop.policy.kind == "threshold":
            self._charge[self._actions.index(action_text(loop.policy.above))] = (
                loop.policy.threshold
            )

    def of(self, label: Floats, action: Integers) -> Floats:
        """Return the reward of each row; nan where the loop's SQL gives none.

        Args:
            label: shape (n,).
            action: the number of its action, shape (n,).
        """
        if self._query is None:
            return np.asarray(label - self._charge[action])
        values = pl.Series([self._values[number] for number in action.tolist()])
        return self._query.of(label, values)

    def of_items(self, label: Floats, items: pl.Series) -> Floats:
        """Return the reward of each row where *items*, the ids of items, are what was shown."""
        return label if self._query is None else self._query.of(label, items)

    def expected_of_items(self, scores: Floats, items: pl.Series) -> Floats:
        """Return the reward that follows from the predicted label of each item; see `expected`."""
        if not self._is_bool:
            return self.of_items(scores, items)
        without, with_ = (self.of_items(np.full(scores.size, label), items) for label in (0.0, 1.0))
        return np.asarray(without + scores * (with_ - without))

    def expected(self, scores: Floats) -> Floats:
        """Return the reward of each action that follows from its predicted label.

        Of a bool label that is the mean over both labels; of a number it is the reward of the
        predicted one, which is exact where the reward is linear in the label.

        Args:
            scores: shape (n, actions).
        """
        columns = []
        for number in range(len(self._actions)):
            chance = scores[:, number]
            action = np.full(chance.size, number)
            if self._is_bool:
                few = np.full(2, number)
                without, with_ = self.of(np.array([0.0, 1.0]), few)
                columns.append(without + chance * (with_ - without))
            else:
                columns.append(self.of(chance, action))
        return np.column_stack(columns)

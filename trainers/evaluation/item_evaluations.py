"""What models do as policies over the items of requests, without epsilon, in the rows of a log."""

from collections.abc import Iterator

import numpy as np

from tidemill.features.estimates.intervals import Floats
from tidemill.schemas.loop.definition import Loop
from tidemill.trainers.evaluation.action_gate import ActionEvaluation, JudgedPolicy
from tidemill.trainers.evaluation.model_policies import chances
from tidemill.trainers.evaluation.offered_items import OfferedItems
from tidemill.trainers.evaluation.rewards import Rewards
from tidemill.trainers.rows import Integers

DRAWS = 16
"""Orders by which a softmax ranking is judged: the chance of an item at a position has no closed
form, and the mean over draws of the policy is as unbiased as one draw."""
_SEED = 7  # the same rows give the same orders


def item_evaluation(
    loop: Loop,
    rewards: Rewards,
    offered: OfferedItems,
    candidate: tuple[str, Floats],
    live: tuple[str, Floats] | None = None,
) -> ActionEvaluation:
    """Return the evaluation of a candidate on explored decisions.

    *candidate* and *live* are a version and its scores, one for each item.
    """
    version, scores = candidate
    expected = offered.matrix(rewards.expected_of_items(scores, offered.ids))
    decision, rows = offered.row_decision, offered.rows
    shown = offered.ids.gather(_item_numbers(offered))
    first_rows = np.flatnonzero(np.diff(decision, prepend=-1))
    return ActionEvaluation(
        reward=rewards.of_items(rows.label, shown),
        predicted=expected[decision, offered.row_place],
        candidate=_judged(loop, offered, version, scores, expected),
        default=_default(offered, expected),
        first_rows=None if loop.decision.type == "choice" else first_rows,
        live=None if live is None else _judged(loop, offered, *live, expected),
        first_at=rows.at[0] if len(rows) else None,
        last_at=rows.last_at,
    )


def _item_numbers(offered: OfferedItems) -> Integers:
    """Return the number of the item of each row."""
    numbers = offered.matrix(np.arange(offered.place.size, dtype=np.float64))
    return numbers[offered.row_decision, offered.row_place].astype(np.int64)


def _judged(
    loop: Loop, offered: OfferedItems, version: str, scores: Floats, expected: Floats
) -> JudgedPolicy:
    """Return the policy that a model with these *scores* is."""
    decision, place = offered.row_decision, offered.row_place
    by_place = offered.matrix(scores)
    if loop.decision.type == "choice":
        taken = chances(by_place, loop)
        value = np.where(taken > 0.0, taken * expected, 0.0).sum(axis=1)[decision]
        return JudgedPolicy(version, taken[decision, place] * offered.row_weight, value)
    chance, value = np.zeros(decision.size), np.zeros(decision.size)
    for order in _orders(by_place, loop):
        there = order[decision, offered.row_position]
        chance += there == place
        value += expected[decision, there]
    softly = _draws(loop)
    return JudgedPolicy(version, chance / softly * offered.row_weight, value / softly)


def _draws(loop: Loop) -> int:
    return DRAWS if loop.policy.kind == "softmax" else 1


def _orders(scores: Floats, loop: Loop) -> Iterator[Integers]:
    """Yield orders of the places of each request, as the policy of *loop* would draw them.

    The order by score / temperature plus Gumbel noise is one of Plackett-Luce.
    Source: J. I. Yellott, "The relationship between Luce's choice axiom, Thurstone's theory of
    comparative judgment, and the double exponential distribution", J. Math. Psych. 15(2), 1977.
    """
    if loop.policy.kind != "softmax":
        yield np.argsort(-scores, axis=1, kind="stable")
        return
    random = np.random.default_rng(_SEED)
    for _ in range(DRAWS):
        noise = random.gumbel(size=scores.shape)
        yield np.argsort(-(scores / loop.policy.temperature + noise), axis=1)


def _default(offered: OfferedItems, expected: Floats) -> JudgedPolicy:
    """Return the default: the baseline, else the first item or the order of the request."""
    decision, position = offered.row_decision, offered.row_position
    shown = offered.default >= 0
    order = np.full(expected.shape, 0)
    order[offered.decision[shown], offered.default[shown]] = offered.place[shown]
    there = order[decision, position]
    weight = np.where(there == offered.row_place, offered.row_weight, 0.0)
    return JudgedPolicy("the default", weight, expected[decision, there])

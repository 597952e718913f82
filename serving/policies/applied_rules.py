"""Rules after the policy: they change what it has chosen, and keep its propensity true.

Of a policy whose outcomes can be listed, each outcome goes through the rules. So the propensity of
the action that is taken is the sum of the probabilities of all outcomes that become it. A ranking,
or a number of an open range, has no propensity where a rule holds.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from tidemill.schemas.loop.rollout import CONTROL
from tidemill.schemas.loop.scalar.compiled import Function, compile_term
from tidemill.schemas.rules.rule_record import RuleRecord, conditions
from tidemill.schemas.rules.rule_set import Rule, possible, readable
from tidemill.serving.policies.chance import Chance
from tidemill.serving.policies.choice import (
    Action,
    Choice,
    Features,
    ListsOutcomes,
    LiveModel,
    Outcome,
)
from tidemill.serving.policies.policies import policy_of

if TYPE_CHECKING:
    from tidemill.schemas.loop.definition import Loop

Single = bool | float | str


class _Ruled:
    """One rule: whether it holds, and what becomes of an action then."""

    def __init__(self, rule: Rule, holds: Function, actions: Sequence[bool | str]) -> None:
        self.name = rule.name
        self.holds = holds
        self.rule = rule
        self.share = rule.boost.share if rule.boost is not None else 1.0
        self._left = [one for one in actions if one not in (rule.forbid or ())]

    def target(self, action: Single, default: Action) -> Single:
        """Return what *action* becomes, where the effect applies."""
        rule = self.rule
        if rule.replace is not None:
            return cast(Single, rule.replace)
        if rule.forbid is not None:
            if action not in rule.forbid:
                return action
            return default if default in self._left else self._left[0]
        if rule.boost is not None:
            return rule.boost.action
        return self._capped(cast(float, action))

    def _capped(self, number: float) -> float:
        cap = self.rule.cap
        if cap is None:
            return number
        number = number if cap.low is None else max(number, cap.low)
        return number if cap.high is None else min(number, cap.high)

    def order(self, order: list[str], default: list[str]) -> list[str]:
        """Return what *order* becomes, where the effect applies."""
        rule = self.rule
        if rule.replace is not None:
            return list(cast(list[str], rule.replace))
        if rule.boost is not None:
            first = cast(str, rule.boost.action)
            return [first, *(each for each in order if each != first)]
        allowed = set(self._left)
        for candidate in (order, default, cast(list[str], self._left)):
            if left := [each for each in candidate if each in allowed]:
                return left
        return order


class Rules:
    """The rules in force for one version of a loop.

    Args:
        record: the rules.
        loop: the version; `hits` count how often each rule held.

    Raises:
        LoopError: a rule does not fit this version.
    """

    def __init__(self, record: RuleRecord, loop: "Loop") -> None:
        places = {name: place for place, name in enumerate(readable(loop))}
        terms = conditions(record, loop)
        actions = [] if loop.decision.type == "float" else possible(loop)
        self.version = record.version
        self._rules = [
            _Ruled(each.rule, compile_term(term, places), actions)
            for each, term in zip(record.rules, terms, strict=True)
        ]
        self.hits: dict[str, int] = {each.rule.name: 0 for each in record.rules}
        self._is_ranking = loop.decision.type == "ranking"
        self._is_apprentice = loop.learning == "apprentice"
        policy = policy_of(loop)
        self._list = policy.outcomes if isinstance(policy, ListsOutcomes) else None
        self._chance = Chance(loop.loop, record.version, f"{loop.salt}/rules")

    def decided(
        self,
        choice: Choice,
        source: str,
        stage: str | None,
        model: LiveModel | None,
        features: Features,
        default: Action,
        key: bytes,
    ) -> tuple[Choice, Action | None]:
        """Return what is done instead of *choice*, and the action of *choice* if that is another.

        No policy has chosen in a fallback, in the control, and for an apprentice.

        Args:
            choice: what was chosen.
            source: what has chosen, as the decision logs it without rules.
            stage: the stage of the decision; None without a rollout.
            model: the model of that stage; it counts if it has made the choice.
            features: of the decision.
            default: what a forbidden action becomes.
            key: the id of the decision.
        """
        is_certain = source == "fallback" or stage == CONTROL or self._is_apprentice
        asked = model if source == "model" else None
        done = self.apply(choice, asked, features, default, key, is_certain=is_certain)
        return done, None if done[0] == choice[0] else choice[0]

    def apply(
        self,
        choice: Choice,
        model: LiveModel | None,
        features: Features,
        default: Action,
        key: bytes,
        *,
        is_certain: bool = False,
    ) -> Choice:
        """Return what is done instead of *choice*; the same value if no rule could hold.

        Args:
            choice: what was chosen.
            model: the model that the policy has asked; None if it had none.
            features: of the decision.
            default: what a forbidden action becomes.
            key: the id of the decision, from which chance comes.
            is_certain: whether no policy has chosen, as in a fallback.
        """
        if not self._rules:
            return choice
        if self._is_ranking:
            return self._apply_to_order(choice, features, cast(list[str], default), key)
        outcomes = self._outcomes(choice, model, features, default, is_certain=is_certain)
        if outcomes is None:
            return self._apply_to_one(choice, features, default, key)
        return self._apply_to_all(choice, outcomes, features, default, key)

    def _outcomes(
        self,
        choice: Choice,
        model: LiveModel | None,
        features: Features,
        default: Action,
        *,
        is_certain: bool,
    ) -> list[Outcome] | None:
        """Return all that might have been chosen; None where that cannot be listed."""
        if is_certain:
            action, score, propensity, _ = choice
            return None if propensity is None else [(action, 1.0, score)]
        return None if self._list is None else self._list(model, features, default)

    def _apply_to_order(
        self, choice: Choice, features: Features, default: list[str], key: bytes
    ) -> Choice:
        order, held = list(cast(list[str], choice[0])), False
        for number, ruled in zip(self._numbers(key), self._rules, strict=True):
            if ruled.holds(features) is True:
                held = True
                self.hits[ruled.name] += 1
                if number < ruled.share:
                    order = ruled.order(order, default)
        return (order, choice[1], None, None) if held else choice

    def _apply_to_one(
        self, choice: Choice, features: Features, default: Action, key: bytes
    ) -> Choice:
        first, score = choice[:2]
        action = cast(Single, first)
        for number, ruled in zip(self._numbers(key), self._rules, strict=True):
            if ruled.holds((*features, action, score)) is True:
                self.hits[ruled.name] += 1
                if number < ruled.share:
                    action = ruled.target(action, default)
        return choice if action == first else (action, score, None, None)

    def _apply_to_all(
        self,
        choice: Choice,
        outcomes: list[Outcome],
        features: Features,
        default: Action,
        key: bytes,
    ) -> Choice:
        scores = {cast(Single, action): score for action, _, score in outcomes}
        chances: Mapping[Single, float] = {
            cast(Single, action): chance for action, chance, _ in outcomes if chance > 0.0
        }
        action, could_hold = cast(Single, choice[0]), False
        for number, ruled in zip(self._numbers(key), self._rules, strict=True):
            held = {
                each
                for each in {*chances, action}
                if ruled.holds((*features, each, scores.get(each))) is True
            }
            if not held:
                continue
            could_hold = True
            chances = _moved(chances, held, ruled, default)
            if action in held:
                self.hits[ruled.name] += 1
                if number < ruled.share:
                    action = ruled.target(action, default)
        if not could_hold:
            return choice
        return (action, scores.get(action, choice[1]), chances.get(action, 0.0), None)

    def _numbers(self, key: bytes) -> list[float]:
        return self._chance.numbers(key, len(self._rules))


def _moved(
    chances: Mapping[Single, float], held: set[Single], ruled: _Ruled, default: Action
) -> dict[Single, float]:
    """Return the probability of each action after a rule that holds for the actions *held*."""
    found: dict[Single, float] = {}
    for action, chance in chances.items():
        share = ruled.share if action in held else 0.0
        if share < 1.0:
            found[action] = found.get(action, 0.0) + (1.0 - share) * chance
        if share:
            target = ruled.target(action, default)
            found[target] = found.get(target, 0.0) + share * chance
    return found

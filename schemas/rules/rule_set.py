"""Rules: what is done where a condition holds, whatever the policy has chosen.

They apply in order; each sees the action that those before it have left. A rule has one effect:

replace: another action.
forbid: actions that are not taken; the default is, or the first one that no rule forbids.
cap: bounds of a number.
boost: an action that is taken in a share of the decisions; in a ranking it comes first.
"""

from collections.abc import Mapping, Sequence
from typing import Self

from pydantic import Field, model_validator

from tidemill.errors import LoopError
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.fields import NAME, FieldType, Value, wrong

MAX_RULES = 100
ACTION, SCORE = "action", "score"
"""What a condition may read beside the features."""

EFFECTS = ("replace", "forbid", "cap", "boost")


class Cap(Value):
    """Bounds of a number; at least one of them."""

    low: float | None = Field(default=None, allow_inf_nan=False)
    high: float | None = Field(default=None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low is None and self.high is None:
            raise wrong("a cap has no bound", hint="write low, high, or both")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise wrong(f"low {self.low:g} is above high {self.high:g}", hint="swap them")
        return self


class Boost(Value):
    """An action, and in which share of the decisions it is taken."""

    action: bool | str
    share: float = Field(default=1.0, gt=0.0, le=1.0, allow_inf_nan=False)


class Rule(Value):
    """One rule: *when* is a condition, as SQL over the features, ``action`` and ``score``."""

    name: str = Field(pattern=NAME, max_length=80)
    when: str = Field(min_length=1, max_length=4_000)
    replace: bool | float | str | list[str] | None = None
    forbid: list[bool | str] | None = Field(default=None, min_length=1)
    cap: Cap | None = None
    boost: Boost | None = None

    @model_validator(mode="after")
    def _one_effect(self) -> Self:
        found = [name for name in EFFECTS if getattr(self, name) is not None]
        if len(found) != 1:
            what = " and ".join(found) or "no effect"
            raise wrong(f"a rule has {what}", hint=f"give it one of {', '.join(EFFECTS)}")
        return self

    @property
    def effect(self) -> str:
        """The name of its effect."""
        return next(name for name in EFFECTS if getattr(self, name) is not None)


class RuleSet(Value):
    """The rules of one loop, as a person has written them."""

    loop: str = Field(pattern=NAME, max_length=80)
    rules: list[Rule] = Field(max_length=MAX_RULES)

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        names = [rule.name for rule in self.rules]
        for name in names:
            if names.count(name) > 1:
                raise wrong(f"two rules are called {name}", hint="name each rule once")
        return self


def readable(loop: Loop) -> Mapping[str, FieldType]:
    """Return the columns that a condition of *loop* may read, with their types.

    Of a ranking there is no one action, and a condition reads the features alone.
    """
    features = {name: feature.type for name, feature in loop.features.items()}
    if loop.decision.type == "ranking":
        return features
    kinds = {"bool": FieldType.BOOL, "float": FieldType.FLOAT}
    action = kinds.get(loop.decision.type, FieldType.CATEGORY)
    return {**features, ACTION: action, SCORE: FieldType.FLOAT}


def check_effects(rules: Sequence[Rule], loop: Loop) -> None:
    """Check that the effects of *rules* are those of decisions of *loop*.

    Raises:
        LoopError: a rule has an effect or an action that the loop has not.
    """
    if loop.decision.items is not None:
        raise LoopError(
            f"{loop.loop} chooses among the items of a request, which no rule can name",
            hint="leave the items out of the request that must not be shown",
        )
    for rule in rules:
        _check_effect(rule, loop)


def _check_effect(rule: Rule, loop: Loop) -> None:
    kind = loop.decision.type
    legal = {"float": ("replace", "cap"), "ranking": ("replace", "forbid", "boost")}
    allowed = legal.get(kind, ("replace", "forbid", "boost"))
    if rule.effect not in allowed:
        raise LoopError(
            f"rule {rule.name}: a {kind} decision has no {rule.effect}",
            hint=f"give the rule one of {', '.join(allowed)}",
        )
    for action in _named(rule):
        if not _is_action(action, loop):
            raise LoopError(
                f"rule {rule.name}: {action!r:.100} is no action of {loop.loop}",
                hint=f"its actions are {_actions(loop)}",
            )
    order = rule.replace
    if isinstance(order, list) and not 0 < len(order) == len(set(order)):
        raise LoopError(
            f"rule {rule.name}: an order is empty or names an action twice",
            hint="list some of the actions, each once",
        )
    if rule.forbid is not None and set(possible(loop)) <= set(rule.forbid):
        raise LoopError(
            f"rule {rule.name} forbids every action",
            hint="leave at least one action that can be taken",
        )


def possible(loop: Loop) -> list[bool | str]:
    """Return the actions of a bool, a choice or a ranking; none of a number."""
    return [True, False] if loop.decision.type == "bool" else [*loop.decision.actions]


def _named(rule: Rule) -> list[object]:
    found: list[object] = [*(rule.forbid or [])]
    if rule.boost is not None:
        found.append(rule.boost.action)
    if rule.replace is not None:
        found += rule.replace if isinstance(rule.replace, list) else [rule.replace]
    return found


def _is_action(action: object, loop: Loop) -> bool:
    if loop.decision.type == "float":
        return isinstance(action, float)
    return any(action == one and isinstance(action, type(one)) for one in possible(loop))


def _actions(loop: Loop) -> str:
    if loop.decision.type == "float":
        return "numbers"
    return ", ".join(
        str(action).lower() if isinstance(action, bool) else action for action in possible(loop)
    )

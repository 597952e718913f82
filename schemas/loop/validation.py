"""Checks across the parts of one loop, and the defaults of a part that depend on other parts.

Each check takes a whole loop and raises an error for the first contradiction, with a hint and its
path in the definition.

Longer than 300 lines because a new check belongs beside those that it must not contradict.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from tidemill.schemas.logs import RESERVED_STREAMS, feedback_log, number_of
from tidemill.schemas.loop.fields import FieldType, wrong

if TYPE_CHECKING:
    from tidemill.schemas.loop.definition import Gate, Loop, Models, Online, Policy

RESERVED_LOOPS = frozenset({"tidemill", "main", "temp", "system"})
"""Loop names that would collide with topics of tidemill or schemas of DuckDB."""
RESERVED_FEATURES = frozenset({"action", "label", "at", "decision_id"})
"""Columns that a training set has beside the features."""

RESERVED_WITH_ITEMS = frozenset({"item", "position"})
"""Columns that examples have besides, where decisions choose among items."""

ACTIVATED_AT = "activated_at"
"""The column with the time of the first activation, in labels of loops that have one."""

_POLICIES = {
    "bool": ("threshold",),
    "choice": ("threshold", "greedy", "softmax", "thompson", "ucb", "linucb"),
    "ranking": ("greedy", "softmax"),
    "float": ("value",),
}
_SETTINGS = {
    ("threshold",): ("threshold", "above", "below"),
    ("softmax",): ("temperature",),
    ("value",): ("low", "high", "spread", "grid"),
    ("ucb", "linucb"): ("width",),
}
"""The settings that only some kinds of policy have."""
BELIEFS = ("thompson", "ucb", "linucb")
"""The policies whose models are posteriors."""
_METRICS = {"bool": ("log_loss",), "float": ("mse",)}
_ONLINE = {"bool": "logistic_regression", "float": "linear_regression"}
_TREE_SETTINGS = ("grace_period", "delta", "tau", "max_depth", "hash_buckets")
ONLINE_SETTINGS = {
    "logistic_regression": ("learning_rate", "l2"),
    "linear_regression": ("learning_rate", "l2"),
    "hoeffding_tree": _TREE_SETTINGS,
    "hoeffding_adaptive_tree": (*_TREE_SETTINGS, "seed"),
    "adaptive_random_forest": (*_TREE_SETTINGS, "n_models", "seed"),
    "factorization_machine": ("learning_rate", "l2", "n_factors", "hash_buckets", "seed"),
}
"""The settings of each online learner; with another value it learns from the start."""
_TREES = tuple(name for name in ONLINE_SETTINGS if "tree" in name or "forest" in name)


def completed_policy(loop: "Loop") -> "Policy":
    """Return the policy with defaults for *above* and *below*, where the decision implies them."""
    policy, decision = loop.policy, loop.decision
    if policy.kind != "threshold" or (policy.above is not None and policy.below is not None):
        return policy
    sides = [True, False] if decision.type == "bool" else list(decision.actions)
    if len(sides) != 2 or not {policy.above, policy.below} - {None} <= set(sides):
        return policy
    if policy.above is not None:
        below = next(side for side in sides if side != policy.above)
    elif policy.below is not None:
        below = policy.below
    else:
        below = False if decision.type == "bool" else str(decision.default)
    above = next(side for side in sides if side != below)
    return policy.model_copy(update={"above": above, "below": below})


def completed_gate(loop: "Loop") -> "Gate":
    """Return the gate with the metric for the type of the label, unless one is given."""
    if "metric" in loop.gate.model_fields_set:
        return loop.gate
    return loop.gate.model_copy(update={"metric": _METRICS[loop.label.type][0]})


def completed_models(loop: "Loop") -> "Models":
    """Return the models with the online learner for the type of the label, unless one is given."""
    batch, online = loop.models.batch, loop.models.online
    if loop.policy.kind in BELIEFS and batch and "learner" not in batch.model_fields_set:
        posterior = batch.model_copy(update={"learner": "posterior"})
        return loop.models.model_copy(update={"batch": posterior})
    if online is None or "learner" in online.model_fields_set:
        return loop.models
    fitting = online.model_copy(update={"learner": _ONLINE[loop.label.type]})
    return loop.models.model_copy(update={"online": fitting})


def default_dependence(loop: "Loop") -> Literal["action", "world"]:
    """Return what a label depends on if the loop does not say.

    A greedy policy compares actions by their labels. Of a threshold it cannot be known, unless an
    activation says that the feedback is about what was shown; such labels were always judged as
    those of the world.
    """
    if loop.policy.kind == "value":
        return "world"
    if loop.policy.kind == "threshold":
        return "world" if loop.activation is None else "action"
    return "action"


def is_dependence_known(loop: "Loop") -> bool:
    """Return whether the loop says what its label depends on, or no other answer is possible."""
    is_open = loop.policy.kind == "threshold" and loop.activation is None
    return loop.label.depends_on is not None or not is_open


def check_dependence(loop: "Loop") -> None:
    """Refuse a label that depends on what the policy cannot use."""
    at, kind = ("label", "depends_on"), loop.policy.kind
    if kind == "value" and loop.label.depends_on == "action":
        raise wrong(
            "a value policy answers the label that it predicts, so the label cannot depend on "
            "the answer",
            hint="leave depends_on out, or make the decision a choice among some numbers",
            at=at,
        )
    if kind not in ("value", "threshold") and loop.label.depends_on == "world":
        raise wrong(
            f"a {kind} policy takes the action with the best label, so the label has to depend on "
            "the action",
            hint="leave depends_on out, or make the policy kind: threshold",
            at=at,
        )


def check_names(loop: "Loop") -> None:
    """Refuse names that tidemill uses."""
    if loop.loop in RESERVED_LOOPS:
        raise wrong(
            f"{loop.loop!r} is a name of tidemill itself",
            hint="name the loop after what it decides, say flight-delay",
            at=("loop",),
        )
    for name in loop.features:
        if name in RESERVED_FEATURES:
            raise wrong(
                f"a feature cannot be called {name!r}: training sets have a column of that name",
                hint=f"call it something else, say {name}_before",
                at=("features", name),
            )


def check_items(loop: "Loop") -> None:
    """Refuse names that the features of items share with others, or with columns of tidemill."""
    items = loop.decision.items
    if items is None:
        return
    where = ("decision", "items", "features")
    for name in items.features:
        if name in loop.features:
            raise wrong(
                f"feature {name!r} is one of the loop and one of its items; a model reads both",
                hint=f"call that of the items something else, say item_{name}",
                at=(*where, name),
            )
    paths: list[tuple[str, ...]] = [(*where, name) for name in items.features]
    paths += [("features", name) for name in loop.features]
    for kind, feedback in loop.feedback.items():
        paths += [("feedback", kind, "values", name) for name in feedback.values]
    for at in paths:
        name = at[-1]
        is_ours = name in RESERVED_WITH_ITEMS
        if is_ours or (name in RESERVED_FEATURES and at[:3] == where):
            raise wrong(
                f"{name!r} is the name of a column of tidemill in loops with items",
                hint=f"call it something else, say {name}_before",
                at=at,
            )


def check_values(loop: "Loop") -> None:
    """Refuse two kinds of feedback that have a value of the same name with different types."""
    types: dict[str, tuple[str, FieldType]] = {}
    for kind, feedback in loop.feedback.items():
        for name, value in feedback.values.items():
            other, known = types.setdefault(name, (kind, value.type))
            if known != value.type:
                raise wrong(
                    f"value {name!r} is {value.type} in {kind} and {known} in {other}",
                    hint=f"kinds share one namespace of values: call this one {kind}_{name}",
                    at=("feedback", kind, "values", name),
                )


def check_streams(loop: "Loop") -> None:
    """Refuse streams with a reserved name, or with the same number as another stream."""
    numbers: dict[int, str] = {}
    for kind, feedback in loop.feedback.items():
        stream, at = feedback.stream, ("feedback", kind, "stream")
        if stream is None:
            continue
        if stream in RESERVED_STREAMS:
            hint = f"name it after who produces it, say {kind.replace('_', '-')}s"
            raise wrong(f"{stream!r} is a topic of tidemill itself", hint=hint, at=at)
        other = numbers.setdefault(number_of(feedback_log(stream)), stream)
        if other != stream:
            raise wrong(
                f"streams {other!r} and {stream!r} have the same number, by which the lake "
                "distinguishes their records",
                hint=f"give one of them another name, say {stream}-events",
                at=at,
            )


def check_activation(loop: "Loop") -> None:
    """Refuse an activation that is no kind of feedback, or the only kind."""
    name = loop.activation
    if name is None:
        return
    others = ", ".join(kind for kind in loop.feedback if kind != name)
    if name not in loop.feedback:
        raise wrong(
            f"activation {name!r} is no kind of feedback",
            hint=f"declare it below feedback, say {name}: {{within: 1h}}, or take one of {others}",
            at=("activation",),
        )
    if not others:
        raise wrong(
            f"{name!r} is the only kind of feedback, so no feedback is left for the label",
            hint="declare the feedback that the label is made of as another kind",
            at=("activation",),
        )
    for kind, feedback in loop.feedback.items():
        if ACTIVATED_AT in feedback.values:
            raise wrong(
                f"{ACTIVATED_AT!r} is the name of a column of tidemill in loops with an activation",
                hint=f"call the value something else, say {kind}_{ACTIVATED_AT}",
                at=("feedback", kind, "values", ACTIVATED_AT),
            )


def check_policy_settings(policy: "Policy") -> None:
    """Refuse settings that have no effect on their policy, or contradict each other."""
    fields = type(policy).model_fields
    for kinds, names in _SETTINGS.items():
        is_used = any(getattr(policy, name) != fields[name].default for name in names)
        if is_used and policy.kind not in kinds:
            kind = " or ".join(kinds)
            raise wrong(
                f"{_listed(names)} no effect on a {policy.kind} policy",
                hint=f"leave {'them' if names[1:] else 'it'} out, or make the policy kind: {kind}",
            )
    low, high = policy.low, policy.high
    if low is not None and high is not None and low >= high:
        raise wrong(f"low {low} is not below high {high}", hint="swap them", at=("low",))
    if policy.grid is not None and (low is None or high is None):
        hint = "write both: the points lie from low to high"
        raise wrong("a grid has no points without low and high", hint=hint, at=("grid",))
    if policy.grid is not None and policy.spread is not None:
        hint = "spread explores around the score, grid with epsilon all over the range"
        raise wrong("spread and grid exclude each other", hint=hint, at=("grid",))
    if policy.kind == "value" and policy.grid is None and policy.epsilon:
        hint = "write grid: 11 with low and high; or explore around the score by spread"
        raise wrong("epsilon has no effect without grid: which number?", hint=hint, at=("epsilon",))
    if policy.decay is not None and not policy.epsilon:
        hint = "write epsilon: 0.1, the share that decays"
        raise wrong("decay has no effect without epsilon", hint=hint, at=("decay",))


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last} have" if others else f"{last} has"


def check_policy(loop: "Loop") -> None:
    """Refuse a policy that cannot produce the answers of the decision."""
    policy, decision = loop.policy, loop.decision
    fitting = _POLICIES["ranking" if decision.items else decision.type]
    if policy.kind not in fitting:
        raise wrong(
            f"a {policy.kind} policy cannot answer a {decision.type} decision",
            hint=f"make it kind: {' or '.join(fitting)}",
            at=("policy", "kind"),
        )
    if policy.kind == "threshold":
        check_threshold(loop)
    if policy.kind == "value" and isinstance(decision.default, float):
        low = float("-inf") if policy.low is None else policy.low
        high = float("inf") if policy.high is None else policy.high
        if not low <= decision.default <= high:
            raise wrong(
                f"default {decision.default} is outside of what the policy may answer",
                hint=f"take a default from {low} to {high}",
                at=("decision", "default"),
            )


def check_threshold(loop: "Loop") -> None:
    """Refuse a threshold whose two sides are not the two actions of the decision."""
    policy, decision = loop.policy, loop.decision
    if decision.type == "choice" and len(decision.actions) != 2:
        raise wrong(
            f"a threshold has two sides, the choice has {len(decision.actions)} actions",
            hint="make the policy kind: greedy",
            at=("policy", "kind"),
        )
    sides = [True, False] if decision.type == "bool" else decision.actions
    for at, side in (("above", policy.above), ("below", policy.below)):
        if side not in sides or (decision.type == "bool") != isinstance(side, bool):
            names = "true or false" if decision.type == "bool" else " or ".join(decision.actions)
            raise wrong(
                f"{at} {side!r} is no answer of the decision",
                hint=f"write {names}",
                at=("policy", at),
            )
    if policy.above == policy.below:
        raise wrong(
            f"above and below are both {policy.above!r}, so the score would decide nothing",
            hint="give them different answers, or leave below out",
            at=("policy", "below"),
        )
    if loop.label.type == "bool" and not 0.0 <= policy.threshold <= 1.0:
        raise wrong(
            f"threshold {policy.threshold} is no probability, and the label is bool",
            hint="choose it from 0 to 1",
            at=("policy", "threshold"),
        )


def check_models(loop: "Loop") -> None:
    """Refuse a metric or a learner for another type of label."""
    label = loop.label.type
    if loop.gate.metric not in _METRICS[label]:
        raise wrong(
            f"metric {loop.gate.metric} does not judge a {label} label",
            hint=f"write metric: {_METRICS[label][0]}, or leave it out",
            at=("gate", "metric"),
        )
    _check_learners(loop)
    online = loop.models.online
    if online is None:
        return
    if online.learner in _ONLINE.values() and online.learner != _ONLINE[label]:
        raise wrong(
            f"{online.learner} does not learn a {label} label",
            hint=f"write learner: {_ONLINE[label]}, or leave it out",
            at=("models", "online", "learner"),
        )
    _check_online(loop, online)


def _check_online(loop: "Loop", online: "Online") -> None:
    """Refuse a setting of another online learner, and examples that the learner cannot learn."""
    own = ("learner", "publish_every", *ONLINE_SETTINGS[online.learner])
    other = next((name for name in online.model_fields_set if name not in own), None)
    if other is not None and getattr(online, other) != type(online).model_fields[other].default:
        raise wrong(
            f"{online.learner} has no {other}",
            hint=f"remove it; its settings are {', '.join(own[1:])}",
            at=("models", "online", other),
        )
    lists = [name for name, one in loop.model_features.items() if one.type == "categories"]
    if online.learner in _TREES and lists:
        raise wrong(
            f"{online.learner} does not read {lists[0]}, a list of categories",
            hint="write learner: factorization_machine, or make it a category",
            at=("models", "online", "learner"),
        )
    if online.learner == "adaptive_random_forest" and loop.depends_on == "action":
        raise wrong(
            "adaptive_random_forest ignores the weights of examples, and a label that depends on "
            "the action needs them",
            hint="write learner: hoeffding_adaptive_tree",
            at=("models", "online", "learner"),
        )


def _check_learners(loop: "Loop") -> None:
    """Refuse a learner whose models the policy cannot use."""
    kind, batch, online = loop.policy.kind, loop.models.batch, loop.models.online
    if kind in BELIEFS and online is not None:
        raise wrong(
            f"a {kind} policy decides by posteriors, and the online learner has none",
            hint="write online: null, or leave it out",
            at=("models", "online"),
        )
    if batch is not None and (batch.learner == "posterior") != (kind in BELIEFS):
        fitting = "posterior" if kind in BELIEFS else "lightgbm"
        raise wrong(
            f"a {kind} policy cannot use what {batch.learner} learns",
            hint=f"write learner: {fitting}, or leave it out",
            at=("models", "batch", "learner"),
        )
    if batch is not None and batch.learner == "posterior" and batch.params:
        raise wrong(
            "params have no effect on posteriors: they are parameters of LightGBM",
            hint="leave them out",
            at=("models", "batch", "params"),
        )


def check_times(loop: "Loop") -> None:
    """Refuse durations of zero where zero would mean never or always."""
    waits: dict[tuple[str, ...], timedelta] = {
        ("idle_after",): loop.idle_after,
        ("max_skew",): loop.max_skew,
        ("max_age",): loop.max_age,
    }
    if loop.models.batch is not None and loop.models.batch.retrain.every is not None:
        waits["models", "batch", "retrain", "every"] = loop.models.batch.retrain.every
    for at, wait in waits.items():
        if not wait:
            hint = "give it a duration, say 30s, or leave it out"
            raise wrong(f"{at[-1]} is zero", hint=hint, at=at)


def check_rollout(loop: "Loop") -> None:
    """Refuse stages in which a candidate cannot be judged."""
    rollout = loop.rollout
    if rollout is not None and rollout.stages == ["shadow"] and loop.depends_on == "action":
        raise wrong(
            "a candidate that is only a shadow never acts, and the label depends on the action",
            hint="add the stage canary, or live",
            at=("rollout", "stages"),
        )


CHECKS = (
    *(check_names, check_items, check_values, check_streams, check_activation),
    *(check_policy, check_dependence, check_models, check_rollout, check_times),
)

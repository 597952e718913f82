"""The loop definition: one decision point, from its features to its label, as immutable values.

Data engineers write it as YAML (`loop_file.py`) or as these classes in Python; the values are the
same. An existing value is a legal value: the constructor refuses parts that contradict each other,
with a hint. Only the SQL of the label is checked elsewhere (`labels.py`).

Longer than 300 lines because it is the vocabulary of loop files, which is read from top to bottom.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from tidemill.schemas.logs import DECISIONS, Log, feedback_log
from tidemill.schemas.loop import validation
from tidemill.schemas.loop.durations import Age, Duration, format_duration, parse_duration
from tidemill.schemas.loop.fields import FIELD, NAME, Feature, FieldName, FieldType, Value, wrong
from tidemill.schemas.loop.rollout import Rollout
from tidemill.schemas.loop.sizes import Size
from tidemill.schemas.loop.sql.counted_kinds import counted_kinds

__all__ = [
    "FIELD",
    "NAME",
    "Batch",
    "Decision",
    "Duration",
    "Feature",
    "Feedback",
    "FieldType",
    "Gate",
    "Items",
    "Label",
    "Loop",
    "MaxBad",
    "Models",
    "Online",
    "Policy",
    "Retrain",
    "Rollout",
    "format_duration",
    "parse_duration",
]

ADDED_SETTINGS = (
    *("activation", "corrections", "max_age", "max_bad", "memory", "learning", "salt", "rollout"),
    "retired",
)
"""Settings added after the first release. At their defaults they are not in `Loop.canonical`, so
that loops published before stay equal to themselves, and older releases can read loops that do not
use them. The same holds for the `stream` of a kind, for `ADDED_TO_POLICY`,
`ADDED_TO_ONLINE` and `ADDED_IN_PARTS`."""
ADDED_TO_POLICY = ("decay", "temperature", "spread", "grid", "width")
ADDED_TO_ONLINE = (
    *("grace_period", "delta", "tau", "max_depth", "n_models", "n_factors", "hash_buckets", "seed"),
)
ADDED_IN_PARTS: Mapping[str, str] = {"label": "depends_on", "gate": "reward", "decision": "items"}
"""The same of parts of a loop: a setting that is null by default."""

_DEFAULT_OF_ITEMS: Mapping[str, str | list[str]] = {"choice": "", "ranking": []}
"""What a loop with items has for a default: an item of the request cannot be named before."""

RESERVED_VALUES = frozenset({"kind", "at", "offset", "decision_at", "decision_id", "id"})
"""Columns that the SQL of a label has beside the values of a feedback."""


class Feedback(Value):
    """One kind of feedback: how long it counts after a decision, and its values.

    A feedback counts from *early* before its decision (clocks differ) to *within* after it, both
    bounds included. Kinds with a *stream* are produced to the topic ``<loop>.feedback.<stream>``,
    kinds without one to ``<loop>.feedback``.
    """

    within: Duration
    early: Duration = timedelta(0)
    stream: str | None = Field(default=None, pattern=NAME, max_length=80)
    values: dict[FieldName, Feature] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_a_window(self) -> Self:
        if not self.within:
            raise wrong(
                "within is zero, so no feedback could ever count",
                hint="set it to the time users have to react, say 30m",
                at=("within",),
            )
        for name in self.values.keys() & RESERVED_VALUES:
            raise wrong(
                f"{name!r} is the name of a column of tidemill",
                hint=f"call the value something else, say {name}_value",
                at=("values", name),
            )
        return self

    @property
    def log(self) -> Log:
        """The log of the events of this kind."""
        return feedback_log(self.stream)


class Label(Value):
    """How the feedback of one decision becomes its label; *sql* aggregates its feedback rows.

    *missing* says what a decision without a label becomes when its window closes: ``negative``
    (label 0), ``censored`` (the label is unknown) or ``dropped`` (not an example).

    *depends_on* says what the outcome is a matter of: the ``action`` (nobody clicks a banner that
    is not shown), or the ``world`` (a flight is late whatever is said). Null stands for the default
    of the kind of decision; see `Loop.depends_on`.
    """

    sql: str = Field(min_length=1, max_length=4_000)
    type: Literal["bool", "float"] = "bool"
    missing: Literal["negative", "censored", "dropped"] = "negative"
    depends_on: Literal["action", "world"] | None = None


class Items(Value):
    """The things to choose among, where each request brings its own: their features, how many.

    *max* is how many a request may bring. *log* says which of them the event of a decision has:
    ``all``, or only those that were ``shown``; then no policy can be judged that did not run.
    """

    features: dict[FieldName, Feature] = Field(min_length=1)
    max: int = Field(default=200, ge=2, le=1_000)  # more are not decoded in columns
    log: Literal["all", "shown"] = "all"


def _without_default(schema: dict[str, Any]) -> None:
    schema["required"].remove("default")
    schema["anyOf"] = [{"required": ["default"]}, {"required": ["items"]}]


class Decision(Value):
    """The type of the answer, and the answer while there is no model.

    With *items* there are no actions, and the default is left out: it is the first item of the
    request, or their order.
    """

    model_config = ConfigDict(json_schema_extra=_without_default)

    type: Literal["bool", "choice", "float", "ranking"]
    actions: list[str] = Field(default_factory=list)
    default: bool | float | str | list[str]
    items: Items | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_of_items(cls, value: object) -> object:
        if isinstance(value, Mapping) and value.get("items") is not None:
            return {"default": _DEFAULT_OF_ITEMS.get(str(value.get("type")), ""), **value}
        return value

    @model_validator(mode="after")
    def _actions_fit(self) -> Self:
        if self.items is not None:
            return self._items_fit()
        names = ", ".join(self.actions)
        if self.type in ("bool", "float"):
            if self.actions:
                raise wrong(
                    f"a {self.type} decision has no actions to choose from",
                    hint="leave actions out, or make it a choice",
                    at=("actions",),
                )
        elif len(self.actions) < 2:
            raise wrong(
                f"a {self.type} needs at least two actions, here are {len(self.actions)}",
                hint="list them, say actions: [show, hide]",
                at=("actions",),
            )
        elif len(set(self.actions)) < len(self.actions) or not all(self.actions):
            raise wrong(
                f"actions are repeated or empty: {names}",
                hint="name each action once",
                at=("actions",),
            )
        return self._default_fits()

    def _items_fit(self) -> Self:
        if self.type not in _DEFAULT_OF_ITEMS:
            raise wrong(
                f"a {self.type} decision has no items to choose among",
                hint="leave items out, or make it a choice or a ranking",
                at=("items",),
            )
        if self.actions:
            raise wrong(
                "items come with each request, and actions are the same for all of them",
                hint="leave out one of the two",
                at=("actions",),
            )
        if self.default != _DEFAULT_OF_ITEMS[self.type]:
            raise wrong(
                f"default {self.default!r} may not be among the items of a request",
                hint="leave default out: it is the first item of the request, or their order",
                at=("default",),
            )
        return self

    def _default_fits(self) -> Self:
        default = self.default
        legal, hint = False, ""
        match self.type:
            case "bool":
                legal, hint = isinstance(default, bool), "write true or false"
            case "float":
                number = isinstance(default, float) and math.isfinite(default)
                legal, hint = number, "write a number, say 0.5"
            case "choice":
                legal, hint = default in self.actions, f"take one of {', '.join(self.actions)}"
            case "ranking":
                listed = default if isinstance(default, list) else []
                legal = bool(listed) and set(listed) <= set(self.actions)
                legal = legal and len(set(listed)) == len(listed)
                hint = f"list some of them in order, each once: [{', '.join(self.actions)}]"
        if not legal:
            what = f"default {default!r} is no answer of this {self.type} decision"
            raise wrong(what, hint=hint, at=("default",))
        return self


class Policy(Value):
    """How a score becomes an action.

    threshold: for bool, or a choice of two. The model predicts the label; the action is *above* if
    the score is at least *threshold*, else *below*. The default of *below* is the decision's.
    greedy: for choice or ranking. The model scores each action, which it reads as the feature
    ``action``; the best one is taken.
    softmax: for choice or ranking. The probability of an action is proportional to
    exp(score / *temperature*); a ranking draws one position after the other (Plackett-Luce).
    thompson, ucb, linucb: for choice. The model is a posterior: for each action a linear model of
    the label, and how sure it is. thompson takes each action as often as it is likely the best;
    linucb the one with the best mean plus *width* deviations, and ucb too, without the features.
    value: for float. The score, clipped to [*low*, *high*], is the action; with *spread* a draw
    from the normal around it, with *grid* the nearest of so many points.

    With probability *epsilon* the action is one at random, and so it is before there is a model,
    where otherwise the default answers. With *decay* the share is halved once the live model has
    learned from so many examples, a third after twice as many, and so on.
    """

    version: int = Field(default=1, ge=1, lt=2**31)
    kind: Literal["threshold", "greedy", "softmax", "value", "thompson", "ucb", "linucb"]
    threshold: float = Field(default=0.5, allow_inf_nan=False)
    above: bool | str | None = None
    below: bool | str | None = None
    epsilon: float = Field(default=0.0, ge=0.0, le=1.0)
    low: float | None = Field(default=None, allow_inf_nan=False)
    high: float | None = Field(default=None, allow_inf_nan=False)
    decay: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.1, gt=0.0, allow_inf_nan=False)
    spread: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    grid: int | None = Field(default=None, ge=2, le=1_000)
    width: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _only_its_own_settings(self) -> Self:
        validation.check_policy_settings(self)
        return self


class Retrain(Value):
    """When the batch learner trains again: after *new_labels* labels, or *every* so long."""

    new_labels: int = Field(default=10_000, ge=1)
    every: Duration | None = None


class Batch(Value):
    """The batch learner, on a snapshot of the lake: LightGBM, or posteriors by linear regression.

    Posteriors are for the policies thompson, ucb and linucb, and are their default.
    """

    learner: Literal["lightgbm", "posterior"] = "lightgbm"
    min_labels: int = Field(default=1_000, ge=1)
    retrain: Retrain = Retrain()
    holdout: float = Field(default=0.2, gt=0.0, lt=1.0)
    seed: int = Field(default=7, ge=0, lt=2**31)
    params: dict[str, bool | int | float | str] = Field(default_factory=dict)
    rounds: int = Field(default=100, ge=1, le=100_000)


class Online(Value):
    """The online learner: River, one example at a time, in the order of commits.

    Trees and factorization machines classify a bool label and predict a float one. A setting
    belongs to some learners only (`validation.py` says to which); null stands for River's default.
    """

    learner: Literal[
        "logistic_regression",
        "linear_regression",
        "hoeffding_tree",
        "hoeffding_adaptive_tree",
        "adaptive_random_forest",
        "factorization_machine",
    ] = "logistic_regression"
    learning_rate: float = Field(default=0.01, gt=0.0, allow_inf_nan=False)
    l2: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    grace_period: int | None = Field(default=None, ge=1)
    delta: float | None = Field(default=None, gt=0.0, lt=1.0)
    tau: float = Field(default=0.05, ge=0.0, le=1.0)
    max_depth: int | None = Field(default=None, ge=1, le=100)
    n_models: int = Field(default=10, ge=1, le=100)
    n_factors: int = Field(default=10, ge=2, le=100)
    hash_buckets: int = Field(default=1_024, ge=2, le=65_536)
    seed: int = Field(default=7, ge=0, lt=2**31)
    publish_every: int = Field(default=10_000, ge=1)


class Models(Value):
    """The learners that compete for the live slot; null switches one off."""

    batch: Batch | None = Batch()
    online: Online | None = None


class Gate(Value):
    """What a candidate must prove on rows later than those it was trained on.

    *reward* is what a decision is worth, as SQL over its ``label`` and its ``action``. Null stands
    for the default of the policy: the label, for a threshold less the threshold where the action is
    *above*; where the label depends on the world, less the cost of a wrong action.
    """

    metric: Literal["log_loss", "mse"] = "log_loss"
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    min_rows: int = Field(default=500, ge=1)
    reward: str | None = Field(default=None, min_length=1, max_length=4_000)


class MaxBad(Value):
    """When a worker stops: if more than *share* of the last *of* records are unreadable.

    A share of 1 switches it off: every unreadable record becomes a dead letter.
    """

    share: float = Field(default=0.5, ge=0.0, le=1.0, allow_inf_nan=False)
    of: int = Field(default=1_000, ge=1, le=1_000_000)


class Loop(Value):
    """One decision point. A version never changes once it is published.

    *activation* names the kind of feedback that says that the decision took effect (the banner was
    shown, the mail was opened). A decision without it is not an example. *corrections* is how long
    after the close of an example late feedback may revise it; 0 for never. *memory*, in bytes, is
    the budget of the open windows of this loop in one worker. A loop whose *learning* is
    ``apprentice`` answers the baseline of the request, or the default, and logs what its policy
    would have done. Which decisions are explored is a hash of their ids and of *salt*. With a
    *rollout* a candidate goes live in stages. *retired* says who has retired the loop and why; the
    loop ends by such a version, until a newer one follows.
    """

    loop: str = Field(pattern=NAME, max_length=80)
    version: int = Field(default=1, ge=1, lt=2**31)
    description: str = ""
    decision: Decision
    features: dict[FieldName, Feature] = Field(min_length=1)
    feedback: dict[FieldName, Feedback] = Field(min_length=1)
    label: Label
    activation: FieldName | None = None
    grace: Duration = timedelta(minutes=1)
    idle_after: Duration = timedelta(seconds=30)
    max_skew: Duration = timedelta(minutes=5)
    max_age: Age = timedelta(days=3_650)  # ten years: longer than archives that are replayed
    remember: Duration = timedelta(hours=1)
    corrections: Duration = timedelta(0)
    max_bad: MaxBad = MaxBad()
    memory: Size = 512_000_000
    policy: Policy
    learning: Literal["on", "apprentice"] = "on"
    salt: str = Field(default="", max_length=200)
    models: Models = Models()
    gate: Gate = Gate()
    rollout: Rollout | None = None
    partitions: int = Field(default=4, ge=1, le=10_000)
    rekey: bool = False
    retired: str = Field(default="", max_length=1_000)
    budget_ms: float = Field(default=50.0, gt=0.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        # A frozen value is completed once, before anybody can use it.
        for name, part in (
            ("policy", validation.completed_policy(self)),
            ("gate", validation.completed_gate(self)),
            ("models", validation.completed_models(self)),
        ):
            object.__setattr__(self, name, part)
        for check in validation.CHECKS:
            check(self)
        return self

    @property
    def depends_on(self) -> Literal["action", "world"]:
        """What the label depends on, as the loop says or by the default for its decision."""
        return self.label.depends_on or validation.default_dependence(self)

    @property
    def scores_actions(self) -> bool:
        """Whether a model reads the action: it predicts the label for each action there is."""
        return self.depends_on == "action" and self.decision.items is None

    @property
    def model_features(self) -> Mapping[str, Feature]:
        """The features that a model reads: those of the loop, then those of one item."""
        items = self.decision.items
        return self.features if items is None else {**self.features, **items.features}

    @property
    def wait(self) -> timedelta:
        """The largest `within`: how long after a decision any feedback can count."""
        return max(kind.within for kind in self.feedback.values())

    @property
    def early(self) -> timedelta:
        """The largest `early`: how long before a decision any feedback can count."""
        return max(kind.early for kind in self.feedback.values())

    @property
    def logs(self) -> tuple[Log, ...]:
        """The logs that the join reads: decisions, then feedback in the order of the kinds."""
        return tuple(dict.fromkeys((DECISIONS, *(kind.log for kind in self.feedback.values()))))

    @property
    def canonical(self) -> str:
        """The definition as one line of JSON; features keep their order, because models need it."""
        value = self.model_dump(mode="json", exclude=self._left_at_default())
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)

    @property
    def digest(self) -> str:
        """SHA-256 of `canonical`; equal definitions have equal digests."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()

    @property
    def label_digest(self) -> str:
        """SHA-256 of all that a label depends on; labels of equal digests can be compared.

        Those are its SQL, its type, what a decision without feedback becomes, what the outcome is a
        matter of, the activation, and the windows of the kinds that it counts.
        """
        windows = {
            name: (
                format_duration(self.feedback[name].early),
                format_duration(self.feedback[name].within),
            )
            for name in sorted(counted_kinds(self.label.sql, self.feedback, self.activation))
        }
        label = self.label
        parts = (label.sql.strip(), label.type, label.missing, self.depends_on, self.activation)
        return hashlib.sha256(json.dumps([*parts, windows], sort_keys=True).encode()).hexdigest()

    def _left_at_default(self) -> dict[str, Any]:
        fields = type(self).model_fields
        plain = {kind: {"stream"} for kind, it in self.feedback.items() if it.stream is None}
        left = [name for name in ADDED_SETTINGS if getattr(self, name) == fields[name].default]
        of_policy = type(self.policy).model_fields
        unset = {n for n in ADDED_TO_POLICY if getattr(self.policy, n) == of_policy[n].default}
        parts: dict[str, Any] = {"feedback": plain, "policy": unset}
        if (online := self.models.online) is not None:
            of_online = type(online).model_fields
            same = {n for n in ADDED_TO_ONLINE if getattr(online, n) == of_online[n].default}
            parts["models"] = {"online": same} if same else {}
        for part, name in ADDED_IN_PARTS.items():
            if getattr(getattr(self, part), name) is None:
                parts[part] = {name}
        return {**dict.fromkeys(left, True), **{name: part for name, part in parts.items() if part}}

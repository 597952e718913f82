"""What a legal loop file leaves open, and what keeps its loop from learning, with what to write."""

from collections.abc import Iterator
from dataclasses import dataclass

from tidemill.http_server.http_limits import HttpLimits
from tidemill.schemas.loop.definition import FieldType, Loop
from tidemill.schemas.loop.validation import is_dependence_known
from tidemill.serving.decision.decider import MAX_EVENT_BYTES

_ITEM_BYTES = (50, 70)
"""What an item takes in an event and in JSON without its features, with an id of a usual length."""
_BYTES = {
    FieldType.FLOAT: (9, 22),
    FieldType.INT: (4, 10),
    FieldType.BOOL: (1, 10),
    FieldType.TIMESTAMP: (9, 32),
    FieldType.CATEGORY: (12, 20),
    FieldType.CATEGORIES: (40, 60),
}
"""What a value takes in an event, and in JSON besides its name; texts of usual lengths."""


@dataclass(frozen=True, slots=True)
class LoopWarning:
    """A reason for which a legal loop will not do what its author wants, and the line to write."""

    what: str
    hint: str


def notes(loop: Loop) -> list[str]:
    """Return what a loop file leaves open that only its author knows, with the line to write."""
    if is_dependence_known(loop):
        return []
    return [
        "nothing says what the label depends on, so it counts as one of the world: the same "
        "whatever is decided. Write label: {depends_on: world} if that is so; write "
        "label: {depends_on: action} if the feedback can come only after some actions"
    ]


def warnings(loop: Loop) -> list[LoopWarning]:
    """Return why *loop* cannot learn, or has settings without effect; empty if all is well."""
    return [
        *_no_exploration(loop),
        *_no_new_action(loop),
        *_no_effect(loop),
        *_only_shown(loop),
        *_too_large(loop),
    ]


def _no_exploration(loop: Loop) -> Iterator[LoopWarning]:
    """Yield the warning of a label that depends on the action, while only one is ever taken."""
    default = loop.decision.default
    if loop.depends_on != "action" or loop.policy.epsilon or loop.learning == "apprentice":
        return
    hint = "write epsilon: 0.1 below policy: a tenth of the decisions then takes one at random"
    if loop.activation is not None and default is False:
        yield LoopWarning(
            f"the default is false and nothing is explored: {loop.activation!r} feedback never "
            "comes, no decision is ever an example, and no model is ever trained",
            hint,
        )
        return
    first = repr(default)
    if loop.decision.items is not None:
        first = "what the request brings first"
    yield LoopWarning(
        f"nothing is explored: until there is a model every decision is {first}, so no model "
        "can learn what other answers would bring, and none is promoted",
        hint,
    )


def _no_new_action(loop: Loop) -> Iterator[LoopWarning]:
    """Yield the warning of a later version under which no action that it adds is ever tried."""
    is_learned_only = loop.policy.kind in ("greedy", "softmax") and loop.decision.type == "choice"
    has_items = loop.decision.items is not None  # a model scores new ones by their features
    if loop.version > 1 and is_learned_only and not (loop.policy.epsilon or has_items):
        yield LoopWarning(
            "nothing is explored: an action that this version adds would never be tried, because a "
            "model chooses among those it has learned",
            "write epsilon: 0.1 below policy: a tenth of the decisions then takes one at random",
        )


def _no_effect(loop: Loop) -> Iterator[LoopWarning]:
    """Yield a warning for an epsilon that explores nothing, or leaves nothing to the model."""
    epsilon = loop.policy.epsilon
    if not epsilon:
        return
    if loop.learning == "apprentice":
        yield LoopWarning(
            f"epsilon {epsilon:g} has no effect: an apprentice answers the baseline or the default",
            "leave epsilon as it is for later, and write learning: on once the loop may decide",
        )
    if loop.models.batch is None and loop.models.online is None:
        yield LoopWarning(
            f"epsilon {epsilon:g} explores for nobody: no learner is on, so no model will decide",
            "write models: {batch: {}}, or leave epsilon out",
        )
    if epsilon == 1.0 and loop.policy.decay is None:
        yield LoopWarning(
            "with epsilon 1 every action is taken at random, and no model ever decides",
            "write epsilon: 0.1, or let it become smaller: decay: 10000",
        )


def _only_shown(loop: Loop) -> Iterator[LoopWarning]:
    """Yield the warning of a log that lacks what could have been chosen."""
    items = loop.decision.items
    if items is not None and items.log == "shown":
        yield LoopWarning(
            "log: shown leaves the items out of the log that were not shown: no policy can be "
            "judged by it that did not run",
            "write log: all below items, unless the events would take too much room",
        )


def _too_large(loop: Loop) -> Iterator[LoopWarning]:
    """Yield the warning of requests with the largest number of items that would be refused."""
    items = loop.decision.items
    if items is None:
        return
    event, body = _ITEM_BYTES
    for name, field in items.features.items():
        in_event, in_json = _BYTES[field.type]
        event, body = event + in_event, body + in_json + len(name)
    is_all_logged = items.log == "all" or loop.decision.type == "ranking"
    if is_all_logged and items.max * event > MAX_EVENT_BYTES:
        yield LoopWarning(
            f"the event of {items.max} items takes about {items.max * event:,} bytes, over the "
            f"{MAX_EVENT_BYTES:,} of a record, from which on a request is refused",
            f"write max: {MAX_EVENT_BYTES // event}, or send fewer features",
        )
        return
    limit = HttpLimits().body_bytes
    if items.max * body > limit:
        yield LoopWarning(
            f"a request with {items.max} items takes about {items.max * body:,} bytes of JSON, and "
            f"a worker takes {limit:,}",
            f"write max: {limit // body}, or start workers with "
            f"TIDEMILL_HTTP_BODY_BYTES={2 * items.max * body}",
        )

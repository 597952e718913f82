"""What a legal loop file leaves open, and what keeps its loop from learning, with what to write."""

from collections.abc import Iterator
from dataclasses import dataclass

from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.validation import is_dependence_known


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
    return [*_no_exploration(loop), *_no_items(loop), *_no_new_action(loop), *_no_effect(loop)]


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
    yield LoopWarning(
        f"nothing is explored: until there is a model every decision is {default!r}, so no model "
        "can learn what other answers would bring, and none is promoted",
        hint,
    )


def _no_items(loop: Loop) -> Iterator[LoopWarning]:
    """Yield the warning of a log from which no other policy can be judged."""
    items = loop.decision.items
    if items is not None and items.log == "shown":
        yield LoopWarning(
            "items that were not shown are not logged: what another policy would have done cannot "
            "be estimated, so the gate promotes no model",
            "write log: all below decision.items, or leave it out",
        )


def _no_new_action(loop: Loop) -> Iterator[LoopWarning]:
    """Yield the warning of a later version under which no action that it adds is ever tried."""
    is_learned_only = loop.policy.kind in ("greedy", "softmax") and loop.decision.type == "choice"
    if loop.version > 1 and is_learned_only and not loop.policy.epsilon:
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

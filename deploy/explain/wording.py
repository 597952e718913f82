"""Policy and exploration of a decision in words."""

from tidemill.deploy.explain.logged import LoggedDecision
from tidemill.deploy.explain.remade import REMADE
from tidemill.schemas.loop.definition import Policy
from tidemill.schemas.loop.rollout import CONTROL
from tidemill.serving.policies.chance import Chance
from tidemill.serving.policies.choice import LiveModel
from tidemill.serving.policies.exploration import Exploration

_NOT_ALL = (
    "the log has only the items that were shown (decision.items.log), so it cannot be chosen again "
    "among all"
)


def policy_sentence(policy: Policy, *, reads_action: bool) -> str:
    """Return how *policy* turns a score into an action.

    Args:
        policy: that of the loop.
        reads_action: whether the model scores actions.
    """
    match policy.kind:
        case "threshold":
            what = f"what {policy.above} adds to the label" if reads_action else "the score"
            return f"{policy.above} if {what} is at least {policy.threshold:g}, else {policy.below}"
        case "greedy":
            return "the best score wins"
        case "softmax":
            return f"each action in proportion to exp(score / {policy.temperature:g})"
        case "thompson":
            return "each action with the probability that it is the best one"
        case "ucb" | "linucb":
            return f"the best score plus {policy.width:g} deviations wins"
        case "value":
            return _number_sentence(policy)


def _number_sentence(policy: Policy) -> str:
    bounds = [
        f"{word} {bound:g}"
        for word, bound in (("at least", policy.low), ("at most", policy.high))
        if bound is not None
    ]
    within = f", {' and '.join(bounds)}" if bounds else ""
    if policy.spread is not None:
        return f"a draw from the normal around the score with spread {policy.spread:g}{within}"
    if policy.grid is not None:
        return f"the nearest of {policy.grid} points{within}"
    return f"the score itself{within}"


def exploration_sentence(logged: LoggedDecision, model: LiveModel | None) -> str:
    """Return how much was explored when *logged* was made, and whether it was."""
    policy, is_fallback = logged.loop.policy, logged.answer.source == "fallback"
    if logged.stage == CONTROL:
        return "none: the decision is in the control"
    if is_fallback or (logged.loop.learning == "apprentice" and model is None):
        return "none: the default answered"
    if policy.kind in ("softmax", "thompson") and model is not None:
        return f"by the draw itself, and a share {policy.epsilon:g} of it is even"
    if policy.spread is not None:
        return "by the draw itself"
    chance = Chance(logged.loop.loop, policy.version, logged.loop.salt)
    share = policy.epsilon
    if model is not None:
        share = Exploration(share, policy.decay, chance).share(model.learned_from)
    if not share:
        return "none: the propensity of the action is 1 where it has one"
    (number,) = chance.numbers(logged.id.encode(), 1)
    taken = "chance took the action" if number < share else "chance left it to the policy"
    return f"a share {share:.4g} of the decisions; {taken} (its number is {number:.4f})"


def nothing_more(logged: LoggedDecision) -> str:
    """Return what cannot be told, and why; empty if all can.

    There are no contributions if no model scored, and no answer made again if the log does not have
    all items that the policy chose among.
    """
    loop, source = logged.loop, logged.answer.source
    its = _default_words(logged)
    match source:
        case "fallback":
            return (
                f"the model failed or was over the budget of {loop.budget_ms:g} ms, so {its} "
                "answered; why is in the log and the counters of the worker"
            )
        case "default" if logged.stage == CONTROL:
            return f"it is in the control, so {its} answered"
        case "default" | "explore" if logged.answer.model_version is None:
            by = "chance took another action than" if source == "explore" else "the answer was"
            return f"no model was live, and {by} {its}"
    if source in REMADE:
        return "" if logged.has_all else _NOT_ALL
    return (
        f"no worker made it: it came with the source {source!r}, so only what it brought is known"
    )


def _default_words(logged: LoggedDecision) -> str:
    """Return what answers without a model, in words."""
    if logged.baseline is not None:
        return "the baseline of the request"
    if logged.loop.decision.items is None:
        return "the loop's default"
    is_ranking = logged.loop.decision.type == "ranking"
    return "the order of the request" if is_ranking else "the first item of the request"

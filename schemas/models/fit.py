"""Whether a model can serve a version of a loop, and how it reads the decisions of that version.

A model outlives the version it was trained for, as long as all it reads is there and its label
means the same. Workers, trainers and `tidemill loop diff` ask here, so that they agree.
"""

from tidemill.errors import ModelError
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.validation import BELIEFS
from tidemill.schemas.models.feature_signature import (
    ACTION,
    FeatureSignature,
    action_text,
    scored_actions,
)
from tidemill.schemas.models.posterior import POSTERIOR


def taken_names(signature: FeatureSignature, loop: Loop) -> list[str]:
    """Return what a decision of *loop* passes to the model, in order; the model may read less."""
    return [*loop.model_features, *([ACTION] if signature.reads_action else [])]


def lacking(signature: FeatureSignature, loop: Loop) -> list[str]:
    """Return what the model reads and *loop* does not have with its type.

    Features map by name: their order does not matter, and a loop may have more of them. A model
    of actions has to read the action; under a threshold it need not, as in earlier releases.
    """
    have = {(item.name, item.type) for item in FeatureSignature.of_loop(loop).fields}
    read = [(item.name, item.type) for item in signature.fields]
    odd = [f"{name} ({kind})" for name, kind in read if (name, kind) not in have]
    if loop.scores_actions and not signature.reads_action and loop.policy.kind != "threshold":
        odd.append(f"no {ACTION}")
    return sorted(odd)


def learned_actions(signature: FeatureSignature, loop: Loop) -> list[str] | None:
    """Return the actions of *loop* that the model has learned, in the loop's order; None for all.

    The vocabulary of its action says so. Online models of earlier releases have none and count as
    models of all actions, and so do posteriors, which are unsure of what they have not learned.
    """
    if loop.policy.kind in BELIEFS:
        return None
    known = signature.fields[-1].vocabulary if signature.reads_action else ()
    learned = [action for action in scored_actions(loop) if action in known]
    return None if not known or learned == scored_actions(loop) else learned


def misfit(
    loop: Loop,
    signature: FeatureSignature,
    *,
    learner: str,
    label_type: str,
    label_digest: str | None,
) -> str:
    """Return why a model cannot serve *loop*; empty if it can.

    Args:
        loop: the version of the loop.
        signature: what the model reads.
        learner: what trained it.
        label_type: the type of the label that it predicts.
        label_digest: `Loop.label_digest` of that label; None in models of earlier releases, which
            are judged by the type alone.
    """
    version = f"{loop.loop} version {loop.version}"
    if odd := lacking(signature, loop):
        return f"reads other features than {version}: {', '.join(odd)}"
    if (learner == POSTERIOR) != (loop.policy.kind in BELIEFS):
        return f"was trained by {learner}: no model for the {loop.policy.kind} policy of {version}"
    if label_type != loop.label.type:
        return f"predicts a {label_type} label, {version} has a {loop.label.type} one"
    if label_digest is not None and label_digest != loop.label_digest:
        return f"has learned another label than that of {version}"
    return _misfit_of_actions(loop, signature, version)


def _misfit_of_actions(loop: Loop, signature: FeatureSignature, version: str) -> str:
    """Return which action a model has to have learned and has not; empty if there is none."""
    learned = learned_actions(signature, loop)
    if learned == []:
        return f"has learned none of the actions of {version}"
    if learned is not None and loop.policy.kind == "threshold":
        sides = [action_text(side) for side in (loop.policy.above, loop.policy.below)]
        unknown = [side for side in sides if side not in learned]
        if unknown:
            return f"has not learned the action {unknown[0]} of {version}"
    return ""


def check_fit(
    loop: Loop,
    version: str,
    signature: FeatureSignature,
    *,
    learner: str,
    label_type: str,
    label_digest: str | None,
) -> None:
    """Refuse the model *version* if it is a `misfit`.

    Raises:
        ModelError: with the reason.
    """
    if why := misfit(
        loop, signature, learner=learner, label_type=label_type, label_digest=label_digest
    ):
        raise ModelError(
            f"{version} {why}",
            hint=f"train a model for this version: tidemill train {loop.loop} --once",
        )

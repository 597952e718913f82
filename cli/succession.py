"""What a new version of a loop does to its models and to its rows, said before it happens.

What changed follows from the two definitions. Which model decides, and how many rows have another
label, is read from the lake; where there is none, or it does not answer, it is said without names.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tidemill.errors import LakeError
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.fields import Feature
from tidemill.schemas.loop.validation import BELIEFS
from tidemill.schemas.models.feature_signature import FeatureSignature
from tidemill.schemas.models.fit import learned_actions, misfit
from tidemill.schemas.models.posterior import POSTERIOR


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """What the lake knows of a loop before a new version of it.

    Attributes:
        model: the version of the model that decides; None if there is none.
        learner: what trained it.
        signature: what that model reads.
        label_type: the type of its label.
        label_digest: the digest of its label.
        left_out: how many labels of each version the new version does not learn.
    """

    model: str | None = None
    learner: str = ""
    signature: FeatureSignature | None = None
    label_type: str = ""
    label_digest: str | None = None
    left_out: Mapping[str, int]


def read_state(new: Loop) -> LoopState | None:
    """Return what the lake of TIDEMILL_LAKE knows of the loop; None if it cannot be asked."""
    if not os.environ.get("TIDEMILL_LAKE"):
        return None
    from tidemill.cli.lakes import open_lake
    from tidemill.features.lake.layouts import EXAMPLES
    from tidemill.features.sql.judgements import comparable_rows
    from tidemill.trainers.commit_log import count_labels
    from tidemill.trainers.registry import MODELS, Registry

    lake = open_lake()
    try:
        if not lake.has_table(new.loop, EXAMPLES):
            return LoopState(left_out={})
        examples, rows = lake.table(new.loop, EXAMPLES), comparable_rows(lake, new)
        left_out = count_labels(examples, new, rows).left_out if rows.others else {}
        known = lake.has_table(new.loop, MODELS)
        model = Registry(lake, new.loop).model() if known else None
    except LakeError:
        return None
    if model is None:
        return LoopState(left_out=left_out)
    return LoopState(
        model=model.version,
        learner=model.learner,
        signature=model.signature,
        label_type=model.label_type,
        label_digest=model.label_digest,
        left_out=left_out,
    )


def succession(old: Loop, new: Loop, state: LoopState | None) -> list[str]:
    """Return what changes from *old* to *new*, and what becomes of models and rows, as sentences.

    Args:
        old: the version before.
        new: the version that follows; the same one as *old* changes nothing.
        state: what the lake knows; None if it was not asked.
    """
    if old.digest == new.digest:
        return []
    return [*_changes(old, new), *_models(old, new, state), *_rows(old, new, state)]


def _changes(old: Loop, new: Loop) -> Iterator[str]:
    yield from _features("the feature", old.features, new.features)
    was, items = old.decision.items, new.decision.items
    if was is not None and items is not None:
        yield from _features("the feature of items", was.features, items.features)
        if (was.log, items.log) == ("all", "shown"):
            yield (
                "items that were not shown are no longer logged: from then on no policy can be "
                "judged that did not run"
            )
    if old.policy.kind != new.policy.kind:
        yield f"the policy changes from {old.policy.kind} to {new.policy.kind}"
    if old.label_digest != new.label_digest:
        yield "the label changes its meaning"
    for action in old.decision.actions:
        if action not in new.decision.actions:
            yield f"the action {action} goes away and is never chosen again"


def _features(what: str, old: Mapping[str, Feature], new: Mapping[str, Feature]) -> Iterator[str]:
    for name, feature in old.items():
        if name not in new:
            yield f"{what} {name} goes away"
        elif new[name].type != feature.type:
            yield f"{what} {name} changes its type from {feature.type} to {new[name].type}"


def _models(old: Loop, new: Loop, state: LoopState | None) -> Iterator[str]:
    """Yield whether the model goes on deciding, and what becomes of new actions then."""
    promoted = f"until a model of version {new.version} is promoted"
    if state is not None and state.signature is None:
        yield f"no model decides yet: the default goes on deciding {promoted}"
        return
    name, signature = "the live model, if there is one,", FeatureSignature.of_loop(old)
    label_type: str = old.label.type
    learner = POSTERIOR if old.policy.kind in BELIEFS else ""
    label_digest = old.label_digest
    known = old.decision.actions
    if state is not None and state.model is not None and state.signature is not None:
        name, signature, learner = state.model, state.signature, state.learner
        label_type, label_digest = state.label_type, state.label_digest or new.label_digest
        learned = learned_actions(signature, new) or new.decision.actions
        known = [action for action in learned if action in old.decision.actions]
    why = misfit(new, signature, learner=learner, label_type=label_type, label_digest=label_digest)
    if why:
        yield f"{name} {why}: the default decides {promoted}"
        return
    yield f"{name} goes on deciding"
    for action in new.decision.actions:
        if action not in known:
            yield _of_new_action(action, new)


def _of_new_action(action: str, new: Loop) -> str:
    if new.decision.type == "ranking":
        return f"the action {action} is new and ranks by the mean of the others until it is learned"
    if new.policy.kind in BELIEFS:
        return f"the action {action} is new and tried as what the model is least sure of"
    if new.policy.epsilon:
        return f"the action {action} is new and explored until a model has learned it"
    return (
        f"the action {action} is new and would never be tried: write epsilon: 0.1 below policy, "
        "so that a tenth of the decisions take one at random"
    )


def _rows(old: Loop, new: Loop, state: LoopState | None) -> Iterator[str]:
    """Yield which rows the new version does not learn."""
    anew = "tidemill publish --backfill makes their labels anew"
    if state is None:
        if old.label_digest != new.label_digest:
            yield f"rows of version {old.version} are not learned; {anew}"
        return
    for name, count in state.left_out.items():
        yield f"{count:,} rows of {name} are not learned; {anew}"

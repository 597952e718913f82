"""Restores the models of a loop in a lake that has lost them, from the model topic.

The topic keeps the live model of a loop, its candidate in a stage, and the newest state of its
online learner. They become versions of the registry again, in their stages, so that the next model
has a later number and sequence than theirs.
What the topic does not have (parameters, cost, the gate's sentence) stays empty. The online learner
does not continue from its state, which counts commits of the lost lake: it learns the restored
examples from the first.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from tidemill.errors import ModelError
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.assembler import Delivery, ModelAssembler, Refusal
from tidemill.schemas.models.manifest import CANARY, DEFAULT, LIVE, SHADOW, ModelManifest
from tidemill.schemas.models.signing import TrustedKeys
from tidemill.trainers.commit_log import LabelCount, count_labels
from tidemill.trainers.publisher import ModelTopic
from tidemill.trainers.registry import ONLINE, ModelVersion, Registry
from tidemill.trainers.rollout.stages import ChangedTo, StageChange, Standing

logger = logging.getLogger(__name__)

STAGE_SLOTS: Mapping[str, ChangedTo] = {SHADOW: "shadow", CANARY: "canary"}


def restore_models(
    lake: Lake, loop: Loop, topic: ModelTopic, trusted: TrustedKeys
) -> list[ModelVersion]:
    """Add the models that *topic* has of *loop* to the registry in *lake*; return them.

    Returns:
        The models restored, oldest first; none if the topic has none.

    Raises:
        ModelError: the registry has models already.
        BrokerError: no broker answers.
        LakeError: the lake does not answer.
    """
    lake.create(loop)
    registry = Registry(lake, loop.loop)
    if known := registry.models():
        raise ModelError(
            f"the lake has {len(known)} models of {loop.loop} already, up to {known[-1].version}",
            hint="only a lake without models can be restored: see tidemill model list",
        )
    found = list(_delivered(topic, loop.loop, trusted))
    deliveries = {each.manifest.number: each for each in found if not _is_end(each.manifest)}
    count = count_labels(lake.table(loop.loop, EXAMPLES), loop)
    for _number, delivery in sorted(deliveries.items()):
        registry.add(_version(delivery, count), delivery.payload)
    _restore_stages(registry, [each.manifest for each in found], count)
    return registry.models()


def _is_end(manifest: ModelManifest) -> bool:
    """Return whether *manifest* says that a candidate has left its stage."""
    return manifest.slot in STAGE_SLOTS and manifest.learner == DEFAULT


def _restore_stages(
    registry: Registry, manifests: Sequence[ModelManifest], count: LabelCount
) -> None:
    """Record the stages that *manifests* say; later changes have later sequences than theirs."""
    staged = [each for each in manifests if each.slot in (*STAGE_SLOTS, LIVE)]

    def made(now: Standing, stage: ChangedTo, manifest: ModelManifest) -> StageChange:
        change = now.next(
            stage,
            at=manifest.created_at,
            model=manifest.number,
            version=manifest.version,
            why="restored from the model topic",
        )
        return replace(change, sequence=manifest.sequence, since=count.last_at)

    def moved(manifest: ModelManifest, now: Standing) -> StageChange:
        change = made(now, STAGE_SLOTS.get(manifest.slot, "live"), manifest)
        return replace(change, rollback=manifest.rollback, share=manifest.share)

    for manifest in sorted(staged, key=lambda each: each.sequence):
        if not _is_end(manifest):
            registry.stages.change(partial(moved, manifest))
    last = max(staged, key=lambda each: each.sequence, default=None)
    if last is not None and _is_end(last):
        registry.stages.change(lambda now: made(now, "held", last))


def _delivered(topic: ModelTopic, loop: str, trusted: TrustedKeys) -> Iterator[Delivery]:
    """Yield what the topic has in each slot, the live one last; log what must not serve."""
    assembler = ModelAssembler(
        trusted, lambda name: name == loop, slots=(ONLINE, *STAGE_SLOTS, LIVE)
    )
    found = [assembler.feed(key, value) for key, value in topic.read().items()]
    for each in (*found, *assembler.pending()):
        if isinstance(each, Refusal):
            logger.warning("not restored: %s of %s: %s", each.slot, loop, each.detail)
    deliveries = [each for each in found if isinstance(each, Delivery)]
    yield from sorted(deliveries, key=lambda each: each.manifest.slot == LIVE)


def _version(delivery: Delivery, count: LabelCount) -> ModelVersion:
    """Return the registry's row; the model may have learned any decision that *count* knows."""
    manifest = delivery.manifest
    is_live = manifest.slot == LIVE
    return ModelVersion(
        number=manifest.number,
        version=manifest.version,
        at=manifest.created_at,
        learner=manifest.learner,
        loop_version=manifest.loop_version,
        policy_version=manifest.policy_version,
        label_type=manifest.label_type,
        promoted=manifest.slot != ONLINE,
        sequence=manifest.sequence if is_live else 0,
        reason="restored from the model topic",
        metrics=manifest.metrics,
        snapshot=manifest.snapshot,
        labels=count.labels,
        until=count.last_at,
        later_from=count.last_at,
        trained_on_rows=manifest.trained_on_rows,
        base_rate=manifest.base_rate,
        seed=0,
        wall_s=0.0,
        cpu_s=0.0,
        digest=manifest.digest,
        features=manifest.features,
        label_digest=manifest.label_digest,
    )

"""What the model topic has to hold by the changes of stages, and how it comes there.

Delivery: at least once. A change is recorded before the topic is written, and whoever comes next
writes what the topic lacks: each manifest is a function of the records alone. A trainer and a
command that write at the same time read the records again afterwards, so the topic ends with what
the newest one says.
"""

from dataclasses import dataclass, replace

from tidemill.errors import ModelError
from tidemill.schemas.models.manifest import (
    CANARY,
    DEFAULT,
    DEFAULT_PAYLOAD,
    SHADOW,
    ModelManifest,
    payload_digest,
)
from tidemill.trainers.publisher import Publisher
from tidemill.trainers.registry import Registry
from tidemill.trainers.rollout.stages import HELD, StageChange, Standing


@dataclass(frozen=True, slots=True)
class SlotContent:
    """What a slot has to hold: the model of *change*, or the default since *ended* ended it."""

    change: StageChange
    ended: StageChange | None = None


def slots(standing: Standing) -> dict[str, SlotContent]:
    """Return what each slot that was ever used has to hold."""
    found: dict[str, SlotContent] = {}
    for change in standing.changes:
        if change.stage == HELD:
            continue
        for slot in (SHADOW, CANARY):  # one candidate at a time: any move ends its former stage
            if slot in found and found[slot].ended is None:
                found[slot] = SlotContent(found[slot].change, change)
        if change.slot is not None:
            found[change.slot] = SlotContent(change)
    return found


def manifest_of(registry: Registry, content: SlotContent, slot: str) -> tuple[ModelManifest, bytes]:
    """Return the manifest and the payload of *content*; the same values each time.

    Raises:
        LakeError: the lake cannot be read.
    """
    change, ended = content.change, content.ended
    model = registry.of(change)
    if ended is None:
        payload = registry.payload(model)
        made = registry.manifest(model, len(payload), slot)
        share = change.share
        return replace(
            made, sequence=change.sequence, rollback=change.rollback, share=share
        ), payload
    made = registry.manifest(model, len(DEFAULT_PAYLOAD), slot)
    return replace(
        made,
        version=DEFAULT,
        learner=DEFAULT,
        digest=payload_digest(DEFAULT_PAYLOAD),
        sequence=ended.sequence,
        rollback=change.rollback,
        metrics={},
        created_at=ended.at,
    ), DEFAULT_PAYLOAD


def adopt(registry: Registry) -> None:
    """Record what is live by the registry alone, as in a lake of an earlier release."""
    live = registry.promoted_last()

    def first(standing: Standing) -> StageChange | None:
        if standing.changes or live is None:
            return None
        change = standing.next(
            "live",
            at=live.at,
            model=live.number,
            version=live.version,
            why="it was live before changes of stages were recorded",
        )
        return replace(change, sequence=live.sequence, since=live.until)

    registry.stages.change(first)


class SlotPublisher:
    """Writes to the model topic what it lacks of the stages of one loop.

    Args:
        registry: has the models and their stages.
        publisher: writes to the topic.
    """

    def __init__(self, registry: Registry, publisher: Publisher) -> None:
        self._registry, self._publisher = registry, publisher
        self._written: dict[str, SlotContent] = {}

    def publish(self) -> None:
        """Write until the topic has what the newest record says.

        Raises:
            BrokerError: no broker answers; publish again.
            ModelError: the topic has something later than the records of this lake.
        """
        stages = self._registry.stages
        while True:
            standing = stages.read()
            try:
                self._write(standing)
            except ModelError:
                if stages.read().number == standing.number:
                    raise
                continue  # another one has recorded a change meanwhile, and published it
            if stages.read().number == standing.number:
                return

    def _write(self, standing: Standing) -> None:
        for slot, content in slots(standing).items():
            if self._written.get(slot) != content:
                manifest, payload = manifest_of(self._registry, content, slot)
                self._publisher.publish(manifest, payload)
                self._written[slot] = content

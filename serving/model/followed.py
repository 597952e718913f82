"""What a worker knows of each loop that it follows, slot by slot."""

from dataclasses import dataclass, field

from tidemill.schemas.models.assembler import Delivery
from tidemill.schemas.models.manifest import CANARY, LIVE, SHADOW
from tidemill.serving.decision.decider import Decider
from tidemill.serving.stages.served_models import ServedModel

SLOTS = (LIVE, CANARY, SHADOW)
"""The slots whose models a worker serves."""

GivenUp = set[tuple[str, str, int]]
"""Loop, slot and sequence of each manifest whose model failed too often in this worker."""


@dataclass(slots=True)
class FollowedSlot:
    """One slot of a loop in a worker.

    Attributes:
        serving: what serves in it; None for nothing.
        before: the live model before that, if it was good: what a live model that fails leaves
            the decisions to.
        arrived: the models that have arrived and are not tried yet.
    """

    serving: Delivery | None = None
    before: ServedModel | None = None
    arrived: list[Delivery] = field(default_factory=list)


def _slots() -> dict[str, FollowedSlot]:
    return {slot: FollowedSlot() for slot in SLOTS}


@dataclass(slots=True)
class Followed:
    """One loop in a worker: its decider, and the models that have arrived for it."""

    decider: Decider | None = None
    slots: dict[str, FollowedSlot] = field(default_factory=_slots)

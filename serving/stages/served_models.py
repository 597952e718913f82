"""The models that a worker serves for one loop: one for each slot, in one immutable value.

The follower assigns the whole value, and a decision reads it once. So what one decision logs is of
one model.
"""

from typing import NamedTuple, Self

from tidemill.schemas.models.manifest import CANARY, LIVE, SHADOW, ModelManifest
from tidemill.serving.policies.choice import LiveModel

FAILURES = 3
"""After so many failures in a row a model rests: one may be due to the machine."""
RESTS = 3
"""After so many rests in a row, without a success between, a model is given up."""
REST_S = 1.0
"""How long a model that rests is not called, in seconds."""


class FailureStreak:
    """The failures of one model in a row, and until when it rests for them.

    It is written without a lock: if two threads fail at the same time, one may not count.
    """

    def __init__(self, rest_s: float = REST_S) -> None:
        self.failures = 0
        self.rest_until_s = 0.0
        self._rest_s = rest_s

    def add(self, now_s: float) -> bool:
        """Count one failure; return whether the model is to be given up.

        Calls that began before a rest and end in it count for nothing: one stop of the machine
        fails all decisions that are under way.
        """
        if now_s < self.rest_until_s:
            return False
        self.failures += 1
        if self.failures % FAILURES == 0:
            self.rest_until_s = now_s + self._rest_s
        return self.failures >= FAILURES * RESTS


class ServedModel(NamedTuple):
    """A model in a slot, its failures in a row, and what was published of it."""

    model: LiveModel
    streak: FailureStreak
    manifest: ModelManifest | None = None

    @property
    def sequence(self) -> int:
        """The sequence of its manifest."""
        return 0 if self.manifest is None else self.manifest.sequence


class ServedModels(NamedTuple):
    """The models of one loop by slot, None for none, and the *share* of the canary."""

    live: ServedModel | None = None
    canary: ServedModel | None = None
    shadow: ServedModel | None = None
    share: float = 0.0

    def with_model(self, slot: str, served: ServedModel | None, share: float = 0.0) -> Self:
        """Return these models with another one in *slot*; *share* is that of a canary."""
        if slot == CANARY:
            return self._replace(canary=served, share=0.0 if served is None else share)
        return self._replace(live=served) if slot == LIVE else self._replace(shadow=served)

    def by_slot(self) -> dict[str, ServedModel]:
        """Return the slots that have a model."""
        slots = {LIVE: self.live, CANARY: self.canary, SHADOW: self.shadow}
        return {slot: served for slot, served in slots.items() if served is not None}

    def slot_of(self, served: ServedModel) -> str | None:
        """Return the slot that *served* is in, None if it is in none."""
        return next((slot for slot, one in self.by_slot().items() if one is served), None)

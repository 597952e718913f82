"""The heartbeat of a trainer: on the control topic, so that others see when it has stopped.

Delivery: at most once. A heartbeat that is lost is followed by another one.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from tidemill.kafka import KafkaConfig, Writer
from tidemill.schemas import topics
from tidemill.schemas.control import FleetBeat, TrainerBeat
from tidemill.schemas.models.manifest import DEFAULT
from tidemill.schemas.models.signing import SigningKey
from tidemill.schemas.record_signature import signed_headers
from tidemill.trainers.cycle import TrainingCycle

EVERY_S = 10.0


def beat_of(cycle: TrainingCycle, at: datetime) -> TrainerBeat:
    """Return what a trainer has to say after a *cycle* that ended *at*."""
    models = cycle.registry.models()
    last = models[-1] if models else None
    return TrainerBeat(
        loop=cycle.loop.loop,
        at=at,
        examples=cycle.learned_until,
        version="" if last is None else last.version,
        promoted=last is not None and last.promoted and last.learner != DEFAULT,
        reason="" if last is None else last.reason,
    )


class BeatWriter:
    """Writes heartbeats, signed by *signer*; never blocks. Safe to share among threads."""

    def __init__(self, kafka: KafkaConfig, signer: SigningKey) -> None:
        self._writer = Writer(kafka)
        self._signer = signer

    def write(self, beat: TrainerBeat | FleetBeat) -> None:
        """Write *beat*."""
        key, value = beat.record()
        headers = signed_headers(self._signer, topics.CONTROL, key, value)
        self._writer.write(topics.CONTROL, key=key, value=value, headers=headers)

    def close(self) -> None:
        """Disconnect."""
        self._writer.close(1.0)


class Heartbeat:
    """Writes the heartbeat of the trainer of one loop, signed by *signer*."""

    def __init__(
        self,
        kafka: KafkaConfig,
        signer: SigningKey,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = BeatWriter(kafka, signer)
        self._clock = clock
        self._next_s = 0.0

    def beat(self, cycle: TrainingCycle) -> None:
        """Write a heartbeat, unless the last one was just now; never blocks."""
        if self._clock() < self._next_s:
            return
        self._next_s = self._clock() + EVERY_S
        self._writer.write(beat_of(cycle, datetime.now(UTC)))

    def close(self) -> None:
        """Disconnect."""
        self._writer.close()

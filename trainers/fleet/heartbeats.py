"""The heartbeats of a process that trains many loops: one of the process, and one of each loop.

That of the process names its loops and comes every ten seconds. That of a loop says how far it has
learned; it comes after each step of the loop, so that an idle fleet writes little.
"""

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from tidemill.kafka import KafkaConfig
from tidemill.schemas.control import ControlMessage, FleetBeat, TrainerBeat
from tidemill.schemas.models.signing import SigningKey
from tidemill.trainers.cycle import TrainingCycle
from tidemill.trainers.fleet.schedule import SILENT_S
from tidemill.trainers.heartbeat import EVERY_S, BeatWriter, beat_of


class FleetHeartbeats:
    """Writes the heartbeats of one process, signed by *signer*."""

    def __init__(
        self,
        kafka: KafkaConfig,
        signer: SigningKey,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = BeatWriter(kafka, signer)
        self._clock = clock
        self._process = f"{socket.gethostname()}-{os.getpid()}"
        self._last: dict[str, TrainerBeat] = {}
        self._due_s = 0.0

    def take(self, cycle: TrainingCycle) -> None:
        """Write what the loop of *cycle* has come to."""
        beat = beat_of(cycle, datetime.now(UTC))
        self._last[beat.loop] = beat
        self._writer.write(beat)

    def repeat(self, loop: str) -> None:
        """Write the last heartbeat of *loop* again, as of now."""
        last = self._last.get(loop)
        if last is not None:
            self._writer.write(replace(last, at=datetime.now(UTC)))

    def forget(self, loop: str) -> None:
        """Write no more of *loop*."""
        self._last.pop(loop, None)

    def is_due(self) -> bool:
        """Return whether it is time for the heartbeat of the process, which has to follow."""
        if self._clock() < self._due_s:
            return False
        self._due_s = self._clock() + EVERY_S
        return True

    def beat(self, loops: Sequence[str]) -> None:
        """Write that the process is alive and trains *loops*."""
        at = datetime.now(UTC)
        self._writer.write(FleetBeat(process=self._process, at=at, loops=tuple(loops)))

    def heard(self, message: ControlMessage) -> Sequence[str]:
        """Return the loops that, by *message*, somebody else has trained just now.

        A heartbeat of a loop that this process has written itself counts, too: it writes none of a
        loop that it has left to another one.
        """
        match message:
            case TrainerBeat(loop=loop, at=at) if _is_fresh(at):
                return [loop]
            case FleetBeat(process=process, loops=loops, at=at) if _is_fresh(at):
                return loops if process != self._process else []
        return []

    def close(self) -> None:
        """Disconnect."""
        self._writer.close()


def _is_fresh(at: datetime) -> bool:
    return (datetime.now(UTC) - at).total_seconds() < SILENT_S

"""What a worker makes of the loop topic and the model topic: what it decides, and by which model.

Feed it the records; it installs loops, admits models and swaps them in by one assignment. A model
that is not fit is refused with a reason, and the one before it goes on. It knows no Kafka and no
thread: `subscriber.py` brings the records.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from tidemill.errors import BrokerError, LoopError, ModelError, TidemillError
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.assembler import Delivery, ModelAssembler, Refusal
from tidemill.schemas.models.manifest import LIVE, Ack, ModelManifest, utc_now
from tidemill.schemas.models.signing import TrustedKeys
from tidemill.schemas.published import parse_all
from tidemill.serving.decision.counters import DecisionCounters
from tidemill.serving.decision.decider import Decider, LiveModel
from tidemill.serving.decision.policy import ScoreFunction

log = logging.getLogger(__name__)

KeyValue = tuple[bytes | None, bytes | None]
Admit = Callable[[Delivery, Loop], ScoreFunction]
_KEPT = 3  # deliveries of a loop to fall back on while none of them serves


@dataclass(slots=True)
class Followed:
    """What a worker knows of one loop: its decider, and the models that came for it."""

    decider: Decider | None = None
    serving: Delivery | None = None
    arrived: list[Delivery] = field(default_factory=list)


class Follower:
    """Keeps the deciders of a worker up to date with the two topics.

    Args:
        name: how the worker calls itself in acknowledgements.
        make: makes the decider of a loop; the tally is that of the version before.
        admit: returns the scores of a delivered model, or raises `ModelError`.
        acknowledge: sends an acknowledgement.
        trusted: whose models may serve.
        wants: the loops to serve; all that are published if empty.
    """

    def __init__(
        self,
        name: str,
        *,
        make: Callable[[Loop, DecisionCounters], Decider],
        admit: Admit,
        acknowledge: Callable[[Ack], object],
        trusted: TrustedKeys,
        wants: Iterable[str] = (),
    ) -> None:
        self.deciders: dict[str, Decider] = {}
        self.refused = 0
        self.last_refusal: str | None = None
        self._name = name
        self._make = make
        self._admit = admit
        self._acknowledge = acknowledge
        self._wanted = frozenset(wants)
        self._inbox = ModelAssembler(trusted, self._wants)
        self._loops: dict[str, Followed] = {}
        self._unmade: dict[str, Loop] = {}
        self._reported: set[tuple[str, str]] = set()

    def _wants(self, loop: str) -> bool:
        return not self._wanted or loop in self._wanted

    def take_loops(self, records: Iterable[KeyValue]) -> None:
        """Install the newest version of each loop among *records* of the loop topic."""
        for key, value in records:
            if value is None or not self._wants(
                (key or b"").decode(errors="replace").split("/")[0]
            ):
                continue
            try:
                loops = parse_all({key or b"": value})
            except (LoopError, RecursionError) as error:
                log.error("a record of the loop topic is passed over: %s", error)
                continue
            for loop in loops.values():
                self.install(loop)

    def install(self, loop: Loop) -> None:
        """Decide *loop* from now on, unless this or a newer version of it is installed.

        The model of the version before goes with it where it fits.
        """
        followed = self._loops.setdefault(loop.loop, Followed())
        before = followed.decider
        if before is not None and before.loop.version >= loop.version:
            return
        self._unmade.pop(loop.loop, None)
        try:
            decider = self._make(loop, before.tally if before is not None else DecisionCounters())
        except TidemillError as error:
            log.error("loop %s version %d cannot be served: %s", loop.loop, loop.version, error)
            if isinstance(error, BrokerError):  # the schema registry is away
                self._unmade[loop.loop] = loop
            return
        followed.decider = decider
        if followed.serving is not None:
            self._try(followed, followed.serving)
        self.deciders[loop.loop] = decider

    def rewind(self) -> None:
        """Expect both topics from their beginnings, again if they have been read before."""
        self._inbox.rewind()

    def take_models(self, records: Iterable[KeyValue]) -> None:
        """Put *records* of the model topic together; `settle` admits what has arrived."""
        for key, value in records:
            match self._inbox.feed(key, value):
                case Delivery() as delivery if delivery.manifest.slot == LIVE:
                    followed = self._loops.setdefault(delivery.manifest.loop, Followed())
                    followed.arrived = [*followed.arrived[1 - _KEPT :], delivery]
                case Refusal() as refusal:
                    self._refuse(refusal, f"{refusal.reason}: {refusal.detail}")

    def settle(self) -> None:
        """Admit the newest model of each loop; call when the records up to now are all taken.

        Where nothing serves yet and the newest is refused, the ones before it are tried. A model of
        a newer loop version than is installed waits for that: the two topics are read apart.
        """
        for loop in list(self._unmade.values()):
            self.install(loop)
        for followed in self._loops.values():
            if followed.decider is None:
                continue
            version = followed.decider.loop.version
            early = [one for one in followed.arrived if one.manifest.loop_version > version]
            due = [one for one in followed.arrived if one not in early]
            while due:
                served = self._try(followed, due.pop())
                if served or followed.serving is not None:
                    due.clear()
            followed.arrived = early
        for refusal in self._inbox.pending():
            if (refusal.loop, refusal.digest) not in self._reported:
                self._reported.add((refusal.loop, refusal.digest))
                self._refuse(refusal, f"{refusal.reason}: {refusal.detail}")

    def _try(self, followed: Followed, delivery: Delivery) -> bool:
        decider, announcement = followed.decider, delivery.manifest
        if decider is None:
            return False
        try:
            score = self._admit(delivery, decider.loop)
        except ModelError as error:
            self._refuse(announcement, error.what)
            return False
        decider.model = LiveModel(announcement.version, score)  # the swap
        followed.serving = delivery
        log.info("%s serves %s", announcement.loop, announcement.version)
        self._answer(announcement, "serving")
        return True

    def _refuse(self, model: ModelManifest | Refusal, reason: str) -> None:
        self.refused += 1
        self.last_refusal = f"{model.loop} {model.version or '(unread)'}: {reason}"
        log.error("refused a model of %s", self.last_refusal)
        self._answer(model, "refused", reason)

    def _answer(
        self,
        model: ModelManifest | Refusal,
        status: Literal["serving", "refused"],
        reason: str = "",
    ) -> None:
        self._acknowledge(
            Ack(
                worker=self._name,
                loop=model.loop,
                slot=model.slot,
                version=model.version,
                digest=model.digest,
                status=status,
                reason=reason,
                at=utc_now(),
            )
        )

"""Installs loops and models in a worker, from the records of the loop topic and the model topic.

`Follower` installs the newest version of each loop, admits models, and swaps them in by one
assignment. A model that is not fit is refused with a reason, and the one before it goes on
deciding. `subscriber.py` reads the topics and passes the records.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from tidemill.errors import BrokerError, ModelError, TidemillError
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.assembler import Delivery, ModelAssembler, Refusal
from tidemill.schemas.models.feature_signature import FeatureSignature
from tidemill.schemas.models.fit import learned_actions
from tidemill.schemas.models.manifest import DEFAULT, LIVE, Ack, ModelManifest, utc_now
from tidemill.schemas.models.signing import TrustedKeys
from tidemill.serving.decision.counters import DecisionCounters
from tidemill.serving.decision.decider import Decider
from tidemill.serving.policies.choice import LiveModel, ScoreFunction

logger = logging.getLogger(__name__)

Admit = Callable[[Delivery, Loop], ScoreFunction]
_CANDIDATES = 3  # the newest models of a loop that are tried while none serves


@dataclass(slots=True)
class Followed:
    """One loop in a worker: its decider, and the models that have arrived for it."""

    decider: Decider | None = None
    serving: Delivery | None = None
    arrived: list[Delivery] = field(default_factory=list)


class Follower:
    """Keeps the deciders of a worker up to date with the two topics.

    Args:
        name: the name of the worker in acknowledgements.
        make: makes the decider of a loop; it gets the counters of the version before.
        admit: returns the score function of a delivered model, or raises `ModelError`.
        acknowledge: sends an acknowledgement.
        trusted: the keys whose models may serve.
        wants: the loops to serve; empty for all published ones.
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
        self._assembler = ModelAssembler(trusted, self.wants)
        self._loops: dict[str, Followed] = {}
        self._unmade: dict[str, Loop] = {}
        self._reported: set[tuple[str, str]] = set()

    def wants(self, loop: str) -> bool:
        """Return whether the worker is to serve the loop of this name."""
        return not self._wanted or loop in self._wanted

    def install(self, loop: Loop) -> None:
        """Decide *loop* from now on, unless this or a newer version of it is installed.

        The model of the version before is admitted again for the new one.
        """
        followed = self._loops.setdefault(loop.loop, Followed())
        before = followed.decider
        if before is not None and before.loop.version >= loop.version:
            return
        self._unmade.pop(loop.loop, None)
        try:
            decider = self._make(
                loop, before.counters if before is not None else DecisionCounters()
            )
        except TidemillError as error:
            logger.error("loop %s version %d cannot be served: %s", loop.loop, loop.version, error)
            if isinstance(
                error, BrokerError
            ):  # the schema registry does not answer: `settle` tries again
                self._unmade[loop.loop] = loop
            return
        followed.decider = decider
        if followed.serving is not None:
            self._try(followed, followed.serving)
        self.deciders[loop.loop] = decider

    def rewind(self) -> None:
        """Expect both topics from their beginnings, for the first time or once more."""
        self._assembler.rewind()

    def take_model(
        self, key: bytes | None, value: bytes | None, *, is_new: bool = True
    ) -> Refusal | None:
        """Give a record of the model topic to the assembler; return the refusal that it causes.

        `settle` admits the models. A record that is not *is_new* is read once more, after a lost
        connection: its refusal was counted and acknowledged before.
        """
        match self._assembler.feed(key, value):
            case Delivery() as delivery if delivery.manifest.slot == LIVE:
                followed = self._loops.setdefault(delivery.manifest.loop, Followed())
                followed.arrived = [*followed.arrived[1 - _CANDIDATES :], delivery]
            case Refusal() as refusal:
                if is_new:
                    self._refuse(refusal, f"{refusal.reason}: {refusal.detail}")
                return refusal
        return None

    def settle(self) -> None:
        """Admit the newest model of each loop; call it once all records so far are taken.

        If the newest is refused and no model serves, the ones before it are tried. A model of a
        newer loop version waits until that version is installed, because the two topics are read
        independently.
        """
        for loop in list(self._unmade.values()):
            self.install(loop)
        for followed in self._loops.values():
            if followed.decider is None:
                continue
            version = followed.decider.loop.version
            waiting = [one for one in followed.arrived if one.manifest.loop_version > version]
            due = [one for one in followed.arrived if one not in waiting]
            while due:
                served = self._try(followed, due.pop())
                if served or followed.serving is not None:
                    due.clear()
            followed.arrived = waiting
        for refusal in self._assembler.pending():
            if (refusal.loop, refusal.digest) not in self._reported:
                self._reported.add((refusal.loop, refusal.digest))
                self._refuse(refusal, f"{refusal.reason}: {refusal.detail}")

    def _try(self, followed: Followed, delivery: Delivery) -> bool:
        decider, manifest = followed.decider, delivery.manifest
        if decider is None:
            return False
        if manifest.learner == DEFAULT:
            decider.model = None
            return self._serve(followed, delivery)
        try:
            score = self._admit(delivery, decider.loop)
        except ModelError as error:
            self._refuse(manifest, error.what)
            return False
        learned = learned_actions(FeatureSignature.from_json(manifest.features), decider.loop)
        decider.model = LiveModel(
            manifest.version, score, manifest.trained_on_rows, learned
        )  # swaps
        return self._serve(followed, delivery)

    def _serve(self, followed: Followed, delivery: Delivery) -> bool:
        """Record and acknowledge that *delivery* serves now."""
        manifest, followed.serving = delivery.manifest, delivery
        logger.info("%s serves %s", manifest.loop, manifest.version)
        self._answer(manifest, "serving")
        return True

    def _refuse(self, model: ModelManifest | Refusal, reason: str) -> None:
        self.refused += 1
        self.last_refusal = f"{model.loop} {model.version or '(unread)'}: {reason}"
        logger.error("refused a model of %s", self.last_refusal)
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

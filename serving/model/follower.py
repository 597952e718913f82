"""Installs loops and models in a worker, from the records of the loop topic and the model topic.

`Follower` installs the newest version of each loop, admits the models of its slots, and swaps each
in by one assignment. A live model that is not fit is refused with a reason, and the one before it
goes on deciding; a canary or shadow that is not fit leaves its slot empty. A model that fails too
often is given up: it is refused, and does not come back before another manifest arrives.
`subscriber.py` reads the topics and passes the records.

Longer than 300 lines because whatever changes a decider does so here, under one lock.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from functools import partial
from time import perf_counter
from typing import Literal

from tidemill.errors import BrokerError, ModelError, TidemillError
from tidemill.kafka import Record
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.assembler import Delivery, ModelAssembler, Refusal
from tidemill.schemas.models.feature_signature import FeatureSignature
from tidemill.schemas.models.fit import learned_actions
from tidemill.schemas.models.manifest import CANARY, DEFAULT, LIVE, Ack, ModelManifest, utc_now
from tidemill.schemas.models.signing import TrustedKeys
from tidemill.schemas.rules.rule_record import loop_of_key
from tidemill.serving.decision.counters import DecisionCounters
from tidemill.serving.decision.decider import Decider
from tidemill.serving.model.followed import SLOTS, Followed, GivenUp
from tidemill.serving.model.followed_rules import FollowedRules
from tidemill.serving.policies.choice import LiveModel, ScoreFunction
from tidemill.serving.stages.served_models import FailureStreak, ServedModel

logger = logging.getLogger(__name__)

Admit = Callable[[Delivery, Loop], ScoreFunction]
_CANDIDATES = 3  # the newest models of a loop that are tried while none serves


class Follower:
    """Keeps the deciders of a worker up to date with the two topics.

    Args:
        name: the name of the worker in acknowledgements.
        make: makes the decider of a loop; it gets the counters of the version before.
        admit: returns the score function of a delivered model, or raises `ModelError`.
        acknowledge: sends an acknowledgement.
        trusted: the keys whose models may serve.
        wants: the loops to serve; empty for all published ones.
        given_up: manifests whose models failed before, under another follower of this worker.
        rules: keeps the rules; None for new ones.
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
        given_up: GivenUp | None = None,
        rules: FollowedRules | None = None,
    ) -> None:
        self.deciders: dict[str, Decider] = {}
        self.refused = 0
        self.given_up: GivenUp = set() if given_up is None else given_up
        self.rules = rules or FollowedRules(trusted)
        self.last_refusal: str | None = None
        self._name = name
        self._make = make
        self._admit = admit
        self._acknowledge = acknowledge
        self._wanted = frozenset(wants)
        self._assembler = ModelAssembler(trusted, self.wants, slots=SLOTS)
        self._loops: dict[str, Followed] = {}
        self._unmade: dict[str, Loop] = {}
        self._reported: set[tuple[str, str]] = set()
        self._lock = threading.Lock()  # of what a slot serves: deciding threads give models up

    def wants(self, loop: str) -> bool:
        """Return whether the worker is to serve the loop of this name."""
        return not self._wanted or loop in self._wanted

    def install(self, loop: Loop) -> None:
        """Decide *loop* from now on, unless this or a newer version of it is installed.

        The models of the version before are admitted again for the new one.
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
        with self._lock:
            followed.decider = decider
            decider.on_failing = partial(self._give_up, followed)
            for each in followed.slots.values():
                each.before = None  # it was admitted for the version before
        for each in followed.slots.values():
            if each.serving is not None:
                self._try(followed, each.serving)
        self.rules.apply(decider)
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
            case Delivery() as delivery:
                self._arrived(delivery)
            case Refusal() as refusal:
                if is_new:
                    self._refuse(refusal, f"{refusal.reason}: {refusal.detail}")
                return refusal
        return None

    def take_rules(self, record: Record) -> None:
        """Put the rules of a record of the model topic in force.

        Raises:
            ContractError: no trusted key has signed them.
            LoopError: the record has no rules.
        """
        loop = loop_of_key(record.key)
        if loop is not None and self.wants(loop):
            self._apply_rules(self.rules.take(record))

    def _apply_rules(self, loop: str | None) -> None:
        followed = self._loops.get(loop) if loop is not None else None
        if followed is not None and followed.decider is not None:
            self.rules.apply(followed.decider)

    def _arrived(self, delivery: Delivery) -> None:
        manifest = delivery.manifest
        each = self._loops.setdefault(manifest.loop, Followed()).slots[manifest.slot]
        older = each.arrived[1 - _CANDIDATES :] if manifest.slot == LIVE else []
        each.arrived = [*older, delivery]

    def settle(self) -> None:
        """Admit the newest model of each slot; call it once all records so far are taken.

        If the newest live one is refused and no model serves, the ones before it are tried. A model
        of a newer loop version waits until that version is installed, because the two topics are
        read independently.
        """
        for loop in list(self._unmade.values()):
            self.install(loop)
        for name in self.rules.drop_unconfirmed():
            self._apply_rules(name)
        for delivery in self._assembler.completed():
            self._arrived(delivery)
        for followed in self._loops.values():
            if followed.decider is None:
                continue
            version = followed.decider.loop.version
            for each in followed.slots.values():
                waiting = [one for one in each.arrived if one.manifest.loop_version > version]
                due = [one for one in each.arrived if one not in waiting]
                while due:
                    served = self._try(followed, due.pop())
                    if served or each.serving is not None:
                        due.clear()
                each.arrived = waiting
        for refusal in self._assembler.pending():
            if (refusal.loop, refusal.digest) not in self._reported:
                self._reported.add((refusal.loop, refusal.digest))
                self._refuse(refusal, f"{refusal.reason}: {refusal.detail}")

    def _try(self, followed: Followed, delivery: Delivery) -> bool:
        """Let the model of *delivery* serve if it is fit; return whether it does."""
        decider, manifest = followed.decider, delivery.manifest
        if decider is None:
            return False
        if manifest.learner == DEFAULT:
            self._serve(followed, decider, delivery, None)
            return True
        started_s = perf_counter()
        try:
            self._check_slot(manifest, decider.loop)
            score = self._admit(delivery, decider.loop)
        except ModelError as error:
            if manifest.slot != LIVE:  # whatever was there before, its stage has ended
                self._end(followed, decider, manifest.slot)
            self._refuse(manifest, error.what)
            return False
        load_ms = 1e3 * (perf_counter() - started_s)
        learned = learned_actions(FeatureSignature.from_json(manifest.features), decider.loop)
        model = LiveModel(manifest.version, score, manifest.trained_on_rows, learned)
        served = ServedModel(model, FailureStreak(), manifest)
        self._serve(followed, decider, delivery, served, load_ms)
        return True

    def _check_slot(self, manifest: ModelManifest, loop: Loop) -> None:
        """Refuse a model that failed in this worker, or whose slot the loop does not have.

        Raises:
            ModelError: the reason.
        """
        if (manifest.loop, manifest.slot, manifest.sequence) in self.given_up:
            raise ModelError(
                f"{manifest.version} failed too often in this worker", hint="publish another one"
            )
        if manifest.slot == LIVE:
            return
        if loop.rollout is None:
            raise ModelError(
                f"version {loop.version} of {loop.loop} has no rollout, so no {manifest.slot}",
                hint="write a section rollout into the loop file",
            )
        if manifest.slot == CANARY and manifest.share is None:
            raise ModelError(
                f"{manifest.version} is a canary without a share", hint="publish it with one"
            )

    def _serve(
        self,
        followed: Followed,
        decider: Decider,
        delivery: Delivery,
        served: ServedModel | None,
        load_ms: float | None = None,
    ) -> None:
        """Swap *served* in, and acknowledge it; without one the stage has ended.

        The live model before is remembered, unless a person or a trainer has turned away from it.
        """
        manifest = delivery.manifest
        each, slot = followed.slots[manifest.slot], manifest.slot
        with self._lock:
            if slot == LIVE:
                is_good = served is not None and not manifest.rollback
                each.before = decider.models.live if is_good else None
            each.serving = delivery
            decider.models = decider.models.with_model(slot, served, manifest.share or 0.0)  # swaps
        logger.info("%s serves %s as %s", manifest.loop, manifest.version, slot)
        self._answer(manifest, "serving", load_ms=load_ms)

    def _end(self, followed: Followed, decider: Decider, slot: str) -> None:
        """Leave *slot* without a model."""
        with self._lock:
            followed.slots[slot].serving = None
            decider.models = decider.models.with_model(slot, None)

    def _give_up(self, followed: Followed, failing: ServedModel, why: str) -> None:
        """Refuse the model that is *failing*, from any thread; the live one before it decides."""
        with self._lock:
            decider = followed.decider
            slot = None if decider is None else decider.models.slot_of(failing)
            if decider is None or slot is None:
                return  # it was swapped meanwhile
            each = followed.slots[slot]
            before, each.serving, each.before = each.before, None, None
            decider.models = decider.models.with_model(slot, before)
            self.given_up.add((decider.loop.loop, slot, failing.sequence))
        reason = f"it failed too often in a row, the last time because {why}"
        if slot == LIVE:
            reason += f"; {before.model.version if before else 'the default'} decides"
        if failing.manifest is not None:
            self._refuse(failing.manifest, reason)

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
        load_ms: float | None = None,
    ) -> None:
        """Acknowledge *model*; only of a loop with a rollout with what earlier releases lack."""
        followed = self._loops.get(model.loop)
        decider = None if followed is None else followed.decider
        is_staged = decider is not None and decider.loop.rollout is not None
        sequence = model.sequence if isinstance(model, ModelManifest) and is_staged else None
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
                load_ms=load_ms if is_staged else None,
                sequence=sequence,
            )
        )

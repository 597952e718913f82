"""The client of a service's unit tests: ``pytest_plugins = ["tidemill.testing.scripted"]``.

The fixture `tidemill_client` answers by a script, by a pinned model, or by the default. Requests,
answers and feedback are checked against the loop files by the code of serving; there is no network
and no Kafka. Ids are counted, so that the chance of a policy falls the same in each run.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest

from tidemill.errors import BrokerError, RequestError
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.labels import checked_loop
from tidemill.serving.client.async_client import AsyncClient
from tidemill.serving.client.client import Client
from tidemill.serving.decision.baselines import AnswerCheck
from tidemill.serving.decision.decider import as_apprentice, certain_choice
from tidemill.serving.decision.requests import DecisionReader, FeedbackReader, UnknownError
from tidemill.serving.decision.results import DecisionResult
from tidemill.serving.policies.choice import Action, Choice, Features, LiveModel
from tidemill.serving.policies.policies import policy_of

ScoreByNames = Callable[[Mapping[str, object]], float]
"""Scores the features by name; where the policy scores actions, ``action`` is among them."""


class ScriptError(AssertionError):
    """The script and the calls of the service do not agree.

    It is no TidemillError, so that a service does not handle it like an outage.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenFeedback:
    """One feedback that the service gave, as it was checked."""

    decision_id: str
    kind: str
    values: Mapping[str, object]
    id: str
    at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedDecision:
    """One decision that the service asked for: what it sent, checked, and what it got."""

    features: Mapping[str, object]
    entity: str | None
    baseline: Action | None
    result: DecisionResult


@dataclass(slots=True)
class _ScriptedLoop:
    """One loop, how it answers, and what the service has done."""

    loop: Loop
    script: deque[Action] | None = None
    model: LiveModel | None = None
    asked: list[AskedDecision] = field(default_factory=list)
    given: list[GivenFeedback] = field(default_factory=list)
    requests: DecisionReader = field(init=False)
    feedback: FeedbackReader = field(init=False)

    def __post_init__(self) -> None:
        self.requests, self.feedback = DecisionReader(self.loop), FeedbackReader(self.loop)


class ScriptedTransport:
    """Answers the calls of a client from scripts, models and defaults."""

    unanswered = 0

    def __init__(self) -> None:
        self.loops: dict[str, _ScriptedLoop] = {}
        self.is_out = False
        self._numbers = itertools.count(1)

    def of(self, name: str) -> _ScriptedLoop:
        """Return one loop.

        Raises:
            UnknownError: no loop of that name was added.
        """
        if name in self.loops:
            return self.loops[name]
        known = ", ".join(self.loops) or "none yet: call add(...) with the loop file"
        raise UnknownError(f"this client serves no loop {name!r:.100}", hint=f"its loops: {known}")

    def decide(
        self,
        loop: str,
        features: Mapping[str, object],
        entity: str | None,
        id: str | None,
        at: datetime | None,
        baseline: object,
    ) -> DecisionResult:
        """Return the next answer of the script, that of the model, or the default."""
        item = {"features": features, "entity": entity, "id": id, "at": at, "baseline": baseline}
        return self.decide_all(loop, [item])[0]

    def decide_all(self, loop: str, asked: Sequence[Mapping[str, object]]) -> list[DecisionResult]:
        """Return as many answers, in order; nothing is answered unless all requests fit."""
        served = self.of(loop)
        check = served.requests.check
        requests = [check(**item) for item in asked]  # type: ignore[arg-type]  # it checks them
        results = []
        for request in requests:
            id_ = request.id or f"{loop}-{next(self._numbers)}"
            default = served.loop.decision.default
            default = default if request.baseline is None else request.baseline
            result = self._result(served, id_, request.features, default)
            named = dict(zip(served.loop.features, request.features, strict=True))
            served.asked.append(
                AskedDecision(
                    features=named,
                    entity=request.entity,
                    baseline=request.baseline,
                    result=result,
                )
            )
            results.append(result)
        return results

    def give(
        self,
        loop: str,
        decision_id: str,
        kind: str,
        values: Mapping[str, object],
        id: str,
        at: datetime | None,
    ) -> None:
        """Take one feedback."""
        served = self.of(loop)
        checked = served.feedback.check(decision_id, kind, values, id, at)
        if self.is_out:
            raise BrokerError("no worker answered: the test says so", hint="send it again later")
        served.given.append(
            GivenFeedback(
                decision_id=decision_id, kind=kind, values=dict(checked.values), id=id, at=at
            )
        )

    def close(self) -> None:
        """Nothing was opened."""

    def _result(
        self, served: _ScriptedLoop, id_: str, features: Features, default: Action
    ) -> DecisionResult:
        loop = served.loop
        choice, source, chosen = self._choice(served, id_, features, default)
        action, score, propensity, propensities = choice
        version = served.model.version if score is not None and served.model else None
        return DecisionResult(
            *(id_, action, score, propensity, source, version),
            *(loop.policy.version, loop.version, propensities, chosen),
        )

    def _choice(
        self, served: _ScriptedLoop, id_: str, features: Features, default: Action
    ) -> tuple[Choice, str, Action | None]:
        if self.is_out:
            self.unanswered += 1
            return certain_choice(default), "fallback", None
        if served.script is not None:
            if not served.script:
                raise ScriptError(f"the script of {served.loop.loop} has no answer left for {id_}")
            return certain_choice(served.script.popleft()), "script", None
        if served.model is None:
            return certain_choice(default), "default", None
        choice = policy_of(served.loop).choose(served.model, features, id_.encode())
        if served.loop.learning == "apprentice":
            return as_apprentice(choice, "model", default)
        return choice, "model", None


class ScriptedClient(Client):
    """A `Client` whose answers a test decides; the fixture `tidemill_client` gives one.

    Without a script and a model every decision is the default, or the baseline of the request, and
    is never explored.
    """

    _transport: ScriptedTransport

    def add(self, *loops: Loop | Path | str) -> None:
        """Serve *loops*: definitions, or the files of some.

        Raises:
            LoopError: a file is no legal loop.
        """
        for one in loops:
            loop = one if isinstance(one, Loop) else checked_loop(Path(one))
            self._transport.loops[loop.loop] = _ScriptedLoop(loop)

    def script(self, loop: str, answers: Iterable[object]) -> None:
        """Answer the next decisions of *loop* by *answers*, one after the other.

        All of them have to be asked for before the test ends.

        Raises:
            RequestError: an answer is none of the loop.
        """
        served = self._transport.of(loop)
        check = AnswerCheck(served.loop)
        served.script = served.script or deque()
        for answer in answers:
            try:
                served.script.append(check.checked(answer))
            except RequestError as error:
                raise RequestError(
                    error.what.replace("baseline", "scripted"), hint=error.hint
                ) from None

    def pin(self, loop: str, score: ScoreByNames, *, version: str = "pinned") -> None:
        """Decide *loop* by its policy and this *score*, without epsilon.

        Policies that draw (softmax, `spread`) still do, the same in each run.
        """
        served = self._transport.of(loop)
        self._pin(served, LiveModel(version, _by_names(served.loop, score)))

    def pin_model(self, loop: str, *, lake: str | Path, version: str) -> None:
        """Decide *loop* by a model that was trained: *version* in the registry of *lake*.

        Raises:
            LakeError: the lake cannot be read, or does not have the model.
            ModelError: the model reads other features than the loop has.
        """
        from tidemill.deploy.explain.loaded import load_version
        from tidemill.features.lake.lake import Lake, LakeConfig

        served = self._transport.of(loop)
        found = load_version(Lake(LakeConfig(root=str(lake))), served.loop, version)
        self._pin(served, found.live)

    def decisions(self, loop: str) -> list[AskedDecision]:
        """Return what the service asked for, in order."""
        return list(self._transport.of(loop).asked)

    def feedback(self, loop: str) -> list[GivenFeedback]:
        """Return the feedback that the service gave, in order."""
        return list(self._transport.of(loop).given)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Answer as a client does whose workers are gone: fallbacks, and no feedback is taken."""
        self._transport.is_out = True
        try:
            yield
        finally:
            self._transport.is_out = False

    def awaited(self) -> AsyncClient:
        """Return the same client for a service that uses asyncio."""
        return AsyncClient.of(self)

    def check_scripts(self) -> None:
        """Say which scripted answers nobody has asked for; the fixture calls it in the end.

        Raises:
            ScriptError: there are some.
        """
        for name, served in self._transport.loops.items():
            if served.script:
                raise ScriptError(f"{name} was not asked for the answers {list(served.script)}")

    @staticmethod
    def _pin(served: _ScriptedLoop, model: LiveModel) -> None:
        policy = served.loop.policy.model_copy(update={"epsilon": 0.0, "decay": None})
        served.loop = served.loop.model_copy(update={"policy": policy})
        served.model, served.script = model, None


def _by_names(loop: Loop, score: ScoreByNames) -> Callable[[Features], float]:
    """Return *score* as policies call it: with all features in order, and the action last."""
    names = [*loop.features, "action"]
    return lambda features: score(dict(zip(names, features, strict=False)))


@pytest.fixture
def tidemill_client() -> Iterator[ScriptedClient]:
    """A client for the unit tests of a service; add the loops that the service asks."""
    client = ScriptedClient.through(ScriptedTransport())
    yield client
    client.check_scripts()

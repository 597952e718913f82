"""The client of a service's unit tests: ``pytest_plugins = ["tidemill.testing.scripted"]``.

The fixture `tidemill_client` answers by a script, by a pinned model, or by the default. Requests,
answers and feedback are checked against the loop files by the code of serving; there is no network
and no Kafka. Ids are counted, so that the chance of a policy falls the same in each run.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tidemill.errors import RequestError
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.labels import checked_loop
from tidemill.schemas.loop.validation import BELIEFS
from tidemill.serving.client.async_client import AsyncClient
from tidemill.serving.client.client import Client
from tidemill.serving.decision.baselines import AnswerCheck
from tidemill.serving.policies.choice import Features, LiveModel
from tidemill.testing.scripted_transport import (
    AskedDecision,
    GivenFeedback,
    ScriptedLoop,
    ScriptedTransport,
    ScriptError,
)

__all__ = ["ScriptError", "ScriptedClient", "ScriptedTransport", "tidemill_client"]

ScoreByNames = Callable[[Mapping[str, object]], float]
"""Scores the features by name; where the policy scores actions, ``action`` is among them, and where
it scores items, the features of one item."""


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
            self._transport.loops[loop.loop] = ScriptedLoop(loop)

    def script(self, loop: str, answers: Iterable[object]) -> None:
        """Answer the next decisions of *loop* by *answers*, one after the other.

        All of them have to be asked for before the test ends. In a loop with items an answer is the
        id of the item that wins, or an order of ids; each has to be among the items of its request.

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

        Policies that draw (softmax, `spread`) still do, the same in each run. Of `thompson`, `ucb`
        and `linucb` the action with the best score is taken.
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
    def _pin(served: ScriptedLoop, model: LiveModel) -> None:
        changes: dict[str, object] = {"epsilon": 0.0, "decay": None}
        if served.loop.policy.kind in BELIEFS and not hasattr(model.score, "beliefs"):
            changes["kind"] = "greedy"  # a function does not say how sure it is
        policy = served.loop.policy.model_copy(update=changes)
        served.loop = served.loop.model_copy(update={"policy": policy})
        served.model, served.script = model, None


def _by_names(loop: Loop, score: ScoreByNames) -> Callable[[Features], float]:
    """Return *score* as policies call it: with all features in order, and the action last."""
    items = loop.decision.items
    names = [*loop.features, *(["action"] if items is None else items.features)]
    return lambda features: score(dict(zip(names, features, strict=False)))


@pytest.fixture
def tidemill_client() -> Iterator[ScriptedClient]:
    """A client for the unit tests of a service; add the loops that the service asks."""
    client = ScriptedClient.through(ScriptedTransport())
    yield client
    client.check_scripts()

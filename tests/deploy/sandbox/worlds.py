"""Worlds in which a loop is played from its first decision on, by the engine of `tidemill try`.

The decider of the product decides, the sandbox joins, trains and judges, and the model that it
promotes decides from the next step on. What each policy would earn is known exactly, because the
world says how likely each click is.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
from tests.trainers.shop import shop_loop
from tests.trainers.simulation import World as Clicks
from tests.trainers.simulation import headline_loop

from tidemill.cli.commands.loop import TEMPLATE
from tidemill.deploy.sandbox.history import PastEvent
from tidemill.deploy.sandbox.sandbox import Sandbox
from tidemill.features.estimates.intervals import Floats
from tidemill.schemas.events.decoder import EventDecoder
from tidemill.schemas.logs import DECISIONS
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.loop_file import load_loop
from tidemill.schemas.models.fit import learned_actions
from tidemill.schemas.published import register
from tidemill.schemas.registry.memory import MemorySchemaStore
from tidemill.serving.decision.decider import Decider
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.decision.requests import DecisionRequest
from tidemill.serving.model.admission import policy_score, try_payload
from tidemill.serving.policies.choice import Action, LiveModel
from tidemill.trainers.registry import ModelVersion

START = datetime(2026, 3, 1, tzinfo=UTC)
CHECKPOINT, STEP = 5_000, 2_500
JUDGES = 1_000
"""Requests on which policies are compared by the truth."""

Row = Mapping[str, object]


class World(Protocol):
    """What comes to a loop, and what answers are worth."""

    loop: Loop

    def request(self, random: np.random.Generator) -> dict[str, object]:
        """Return the arguments of the next request."""

    def chances(self, request: Row, action: Action) -> Mapping[str | None, float]:
        """Return how likely each shown item is clicked; the key is None without items."""

    def best(self, request: Row) -> Action:
        """Return the answer that is worth most."""

    def worth(self, request: Row, action: Action) -> float:
        """Return what an answer is worth on average."""

    def by_chance(self, request: Row) -> float:
        """Return what an answer by chance is worth on average."""


class Banner:
    """The loop of `tidemill init`: a banner that some countries click, and others do not.

    An answer is worth its click less the threshold, which is what showing costs.
    """

    clicks: Mapping[str, float] = MappingProxyType({"DE": 0.5, "AT": 0.3, "PT": 0.02, "ES": 0.01})

    def __init__(self) -> None:
        self.loop = load_loop(Path(str(files("tidemill.cli").joinpath(TEMPLATE))))

    def request(self, random: np.random.Generator) -> dict[str, object]:
        """Return the country of a visitor, and what does not matter."""
        country = str(random.choice(list(self.clicks)))
        features = {"country": country, "visits": int(random.integers(9)), "age": None}
        return {"features": features}

    def chances(self, request: Row, action: Action) -> Mapping[str | None, float]:
        """Return the chance of a click; a banner that is not shown has none."""
        return {None: self._clicks(request) if action else 0.0}

    def worth(self, request: Row, action: Action) -> float:
        """Return the chance of a click less the cost of showing."""
        return self._clicks(request) - self.loop.policy.threshold if action else 0.0

    def by_chance(self, request: Row) -> float:
        """Return what showing in half of the cases is worth."""
        return self.worth(request, True) / 2.0

    def best(self, request: Row) -> Action:
        """Return whether showing is worth it."""
        return self.worth(request, True) > 0.0

    def _clicks(self, request: Row) -> float:
        features = request["features"]
        assert isinstance(features, dict)
        return self.clicks[features["country"]]


class Headlines:
    """Five headlines for six segments: one is the best of each, and the default of one only."""

    def __init__(self) -> None:
        self._truth = Clicks.headlines()
        self.loop = headline_loop(self._truth)

    def request(self, random: np.random.Generator) -> dict[str, object]:
        """Return the segment of a reader."""
        return {"features": {"segment": f"segment-{random.integers(len(self._truth.clicks))}"}}

    def chances(self, request: Row, action: Action) -> Mapping[str | None, float]:
        """Return the chance of a click."""
        number = self.loop.decision.actions.index(str(action))
        return {None: float(self._row(request)[number])}

    def worth(self, request: Row, action: Action) -> float:
        """Return the chance of a click."""
        return sum(self.chances(request, action).values())

    def by_chance(self, request: Row) -> float:
        """Return the chance of a click on a random headline."""
        return float(self._row(request).mean())

    def best(self, request: Row) -> Action:
        """Return the headline of the segment."""
        return self.loop.decision.actions[int(self._row(request).argmax())]

    def _row(self, request: Row) -> Floats:
        features = request["features"]
        assert isinstance(features, dict)
        found: Floats = self._truth.clicks[int(features["segment"].removeprefix("segment-"))]
        return found


class Shelf:
    """Items by request: each segment likes one kind, and a little another.

    Args:
        kind: whether one item is shown, or all of them in an order.
        items: how many a request brings.
        epsilon: the share that is explored.
    """

    likes: Mapping[str, str] = MappingProxyType({"s0": "k0", "s1": "k1", "s2": "k2"})
    kinds, decay = 6, 0.5

    def __init__(self, kind: str, *, items: int, epsilon: float) -> None:
        self.items = items
        self.loop = shop_loop(
            kind,
            policy={"kind": "greedy", "epsilon": epsilon},
            models={"batch": {"min_labels": 2_000, "retrain": {"new_labels": 2_000}}},
        )

    def request(self, random: np.random.Generator) -> dict[str, object]:
        """Return the segment of a customer, and items of random kinds in a random order."""
        kinds = random.integers(0, self.kinds, self.items).tolist()
        return {
            "features": {"segment": f"s{random.integers(len(self.likes))}"},
            "items": [
                {"id": f"i{place}", "features": {"kind": f"k{kind}", "price": float(kind % 2)}}
                for place, kind in enumerate(kinds)
            ],
        }

    def chances(self, request: Row, action: Action) -> Mapping[str | None, float]:
        """Return the chance of a click of each shown item."""
        shown = action if isinstance(action, list) else [str(action)]
        liking = self._liking(request)
        return {name: liking[name] * self.decay**place for place, name in enumerate(shown)}

    def worth(self, request: Row, action: Action) -> float:
        """Return the clicks of a decision."""
        return sum(self.chances(request, action).values())

    def by_chance(self, request: Row) -> float:
        """Return the clicks of a random item, or of a random order."""
        positions = self.items if self.loop.decision.type == "ranking" else 1
        mean = sum(self._liking(request).values()) / self.items
        return mean * sum(self.decay**place for place in range(positions))

    def best(self, request: Row) -> Action:
        """Return the item, or the order, with most clicks."""
        liking = self._liking(request)
        order = sorted(liking, key=lambda name: -liking[name])
        return order if self.loop.decision.type == "ranking" else order[0]

    def _liking(self, request: Row) -> dict[str, float]:
        features, items = request["features"], request["items"]
        assert isinstance(features, dict)
        assert isinstance(items, list)
        wanted = self.likes[features["segment"]]
        also = f"k{int(wanted[1:]) + 3}"
        by_kind = {wanted: 0.6, also: 0.3}
        return {item["id"]: by_kind.get(item["features"]["kind"], 0.05) for item in items}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What decides at some time: what it earns in each judged request more than the default."""

    version: str | None
    gains: Sequence[float]

    @property
    def is_worse(self) -> bool:
        """Whether it earns less than the default, beyond the interval of 95 % of the mean."""
        spread = float(np.std(self.gains)) / len(self.gains) ** 0.5
        return bool(np.mean(self.gains) + 1.96 * spread < 0.0)


@dataclass
class Played:
    """One world with its loop.

    Attributes:
        checkpoints: one for each 5,000 decisions.
    """

    world: World
    folder: Path
    seed: int
    checkpoints: list[Checkpoint] = field(default_factory=list)
    decided: int = 0

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        loop = self.world.loop.model_copy(update={"salt": f"seed {self.seed}"})
        self.loop, self.sandbox = loop, Sandbox(loop, self.folder)
        self._log, store = MemoryEventLog(), MemorySchemaStore()
        register(loop, store)
        self.decider = Decider(loop, store=store, log=self._log)
        self._decoder = EventDecoder(loop, DECISIONS, store)
        judges = np.random.default_rng(99)
        self._judged = [self.world.request(judges) for _ in range(JUDGES)]
        self._serving: str | None = None

    def play(self, decisions: int) -> None:
        """Decide so often, and learn from it."""
        asyncio.run(self._play(decisions))

    async def _play(self, decisions: int) -> None:
        await self.sandbox.start()
        for _ in range(decisions // STEP):
            await self.sandbox.take(self._events(STEP))
            self.sandbox.cycle.run()
            self._serve(self.sandbox.cycle.registry.model())
            if self.decided % CHECKPOINT == 0:
                self.checkpoints.append(self._checkpoint())

    def _events(self, count: int) -> list[PastEvent]:
        """Return the next *count* decisions, with the clicks that follow them."""
        requests = []
        for number in range(self.decided, self.decided + count):
            at = START + timedelta(seconds=number)
            requests.append(self.world.request(self.random))
            self.decider.decide(self._checked(requests[-1], f"d{number:07}", at))
        self.decided += count
        values = [event.value for event in self._log.events if event.topic.endswith(DECISIONS)]
        self._log.events.clear()
        rows = self._decoder.decode(values).frame.drop("row").to_dicts()
        events = []
        for request, row in zip(requests, rows, strict=True):
            events.append(PastEvent(at=row["at"], log=DECISIONS, key=row["id"], fields=row))
            events += self._clicks(request, row)
        return sorted(events, key=lambda event: event.at)

    def _clicks(self, request: Row, row: Row) -> list[PastEvent]:
        kind, found = next(iter(self.loop.feedback)), []
        at, decision_id = row["at"], str(row["id"])
        assert isinstance(at, datetime)
        for item, chance in self.world.chances(request, row["action"]).items():  # type: ignore[arg-type]
            if self.random.random() >= chance:
                continue
            clicked = at + timedelta(seconds=self.random.uniform(0.1, 5.0))
            fields: dict[str, object] = {"id": f"{decision_id}/{item}", "at": clicked, "values": {}}
            fields |= {"decision_id": decision_id} | ({} if item is None else {"item": item})
            log = self.loop.feedback[kind].log
            found.append(PastEvent(at=clicked, log=log, key=decision_id, fields=fields, kind=kind))
        return found

    def _checked(
        self, request: Row, id: str, at: datetime | None = None, decider: Decider | None = None
    ) -> DecisionRequest:
        check = (decider or self.decider).decisions.check
        return check(request["features"], None, id, at, items=request.get("items"))  # type: ignore[arg-type]

    def _serve(self, model: ModelVersion | None) -> None:
        """Let *model* decide from now on; the default if it is None."""
        version = None if model is None else model.version
        if version != self._serving:
            self.decider.model = None if model is None else self._live(model)
            self._serving = version

    def _live(self, model: ModelVersion) -> LiveModel:
        signature = model.signature
        score = try_payload(
            self.loop,
            version=model.version,
            learner=model.learner,
            payload=self.sandbox.cycle.registry.payload(model),
            signature=signature,
        )
        return LiveModel(
            model.version,
            policy_score(score, signature, self.loop),
            model.trained_on_rows,
            learned_actions(signature, self.loop),
        )

    def answers(self) -> list[Action]:
        """Return what is answered to the judged requests now, without exploration."""
        policy = self.loop.policy.model_copy(update={"epsilon": 0.0})
        plain = Decider(
            self.loop.model_copy(update={"policy": policy, "budget_ms": 1e6}),
            store=MemorySchemaStore(),
            log=MemoryEventLog(),
        )
        plain.model = self.decider.model
        return [
            plain.decide(self._checked(request, f"j{number}", decider=plain)).action
            for number, request in enumerate(self._judged)
        ]

    def worth(self, answers: Sequence[Action]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Return what *answers* to the judged requests are worth."""
        pairs = zip(self._judged, answers, strict=True)
        return np.array([self.world.worth(*pair) for pair in pairs])

    def defaults(self) -> list[Action]:
        """Return the default of each judged request."""
        found: list[Action] = []
        for request in self._judged:
            items = request.get("items")
            if isinstance(items, list):
                ids: list[str] = [item["id"] for item in items]
                found.append(ids if self.loop.decision.type == "ranking" else ids[0])
            else:
                found.append(self.loop.decision.default)
        return found

    def share_of_gain(self) -> float:
        """Return which share of the possible gain over the default the loop gets, exploring."""
        default = self.worth(self.defaults()).mean()
        explored = np.mean([self.world.by_chance(request) for request in self._judged])
        epsilon = self.loop.policy.epsilon

        def gain(answers: Sequence[Action]) -> float:
            taken = self.worth(answers).mean()
            return float((1.0 - epsilon) * taken + epsilon * explored - default)

        possible = gain([self.world.best(request) for request in self._judged])
        return gain(self.answers()) / possible

    def _checkpoint(self) -> Checkpoint:
        gains = self.worth(self.answers()) - self.worth(self.defaults())
        return Checkpoint(self._serving, gains.tolist())

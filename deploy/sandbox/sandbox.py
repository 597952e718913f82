"""The sandbox: a loop that plays a history through its join, its learners and its gate.

It runs the code of production from `LoopRunner` and `TrainingCycle` down. The logs, the dead
letters and the model topic are in memory; the lake is a folder. The clock is that of the events: a
record arrives at its event time, or when the record before it did, if that is later. So a year
takes seconds, and the same history gives the same examples and models.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from tidemill.deploy.sandbox.history import PastEvent
from tidemill.errors import ConfigError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.layouts import EXAMPLES, TABLES
from tidemill.schemas.events.schemas import DecisionEncoder, FeedbackEncoder
from tidemill.schemas.logs import DECISIONS, Log
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.signing import SigningKey
from tidemill.schemas.published import joined_topics
from tidemill.schemas.registry.memory import MemorySchemaStore
from tidemill.schemas.registry.port import SchemaStore
from tidemill.streams.consumer.memory_log import MemoryLog
from tidemill.streams.deadletters.writer import MemoryDeadLetters
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.runtime.commit_schedule import Cadence
from tidemill.streams.runtime.loop_runner import LoopRunner
from tidemill.streams.runtime.prepared_loop import PreparedLoop
from tidemill.streams.state.spill_store import MemorySpillStore
from tidemill.trainers.cycle import TrainingCycle
from tidemill.trainers.model_trial import Trial, no_trial
from tidemill.trainers.publisher import MemoryModelTopic, Publisher
from tidemill.trainers.registry import ModelVersion

BLOCK = 2_000
"""Events of one commit. The trainer looks for work after each."""
ONE = 0  # the number of the only partition


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxReport:
    """What a loop would have learned from a history.

    Attributes:
        decisions: decisions of the history.
        feedback: feedback of the history.
        first: the time of the first event.
        last: the time of the last event.
        states: examples by state, as `ledger` names them.
        labels: how many examples have a label.
        mean_label: the mean of these labels; None without any.
        refused: dead letters by reason.
        models: every version that was made, with the verdict of the gate.
        live: the version that would decide at the end, if any.
        took_s: how long the run took.
    """

    decisions: int
    feedback: int
    first: datetime
    last: datetime
    states: Mapping[str, int]
    labels: int
    mean_label: float | None
    refused: Mapping[str, int]
    models: Sequence[ModelVersion]
    live: ModelVersion | None
    took_s: float


class EventWriter:
    """Turns past events of one loop into the payloads of its topics; registers their schemas."""

    def __init__(self, loop: Loop, store: SchemaStore) -> None:
        self._decision = DecisionEncoder(loop, store)
        self._feedback = FeedbackEncoder(loop, store)

    def payload(self, event: PastEvent) -> bytes:
        """Return the payload of *event* for Kafka.

        Raises:
            RequestError: a field of it has another type.
        """
        if event.kind is None:
            return self._decision.encode(event.fields)
        return self._feedback.encode(event.kind, event.fields)


class Sandbox:
    """One loop with its worker and its trainer, in this process and in event time.

    Args:
        loop: what is played; its number of partitions does not matter.
        folder: where its lake is; an empty one.
        trial: what a model must survive before it would go live.
    """

    def __init__(self, loop: Loop, folder: Path, *, trial: Trial = no_trial) -> None:
        self.loop = loop.model_copy(update={"partitions": 1, "rekey": False})
        self.lake = Lake(LakeConfig(root=str(folder)))
        self.now = datetime.fromtimestamp(0, UTC)
        store = MemorySchemaStore()
        self._writer = EventWriter(self.loop, store)
        topics = joined_topics(self.loop)
        self._logs = {log: MemoryLog(topic, ONE) for log, topic in topics.items()}
        self._next: dict[Log, int] = dict.fromkeys(self._logs, 0)
        self._dead_letters = MemoryDeadLetters()
        self.models = MemoryModelTopic()
        self.cycle = TrainingCycle(
            self.loop,
            self.lake,
            Publisher(self.models, self.loop.loop, SigningKey.generate()),
            trial=trial,
            clock=lambda: self.now,
            count_share=1.0,
        )
        self._run = LoopRunner(
            prepared=PreparedLoop.of(self.loop, store),
            tables={name: self.lake.table(self.loop.loop, name) for name in TABLES},
            dead_letters=self._dead_letters,
            metrics=StreamMetrics(),
            on_examples=lambda _version: None,
            cadence=Cadence(clock=lambda: self.now.timestamp(), rows=10**9),
            newest=lambda: self.loop.version,
            spill_files=MemorySpillStore(),
        )

    def play(
        self,
        events: Sequence[PastEvent],
        on_progress: Callable[[int, int], object] = lambda _done, _of: None,
    ) -> SandboxReport:
        """Play *events*, close every window, and return what came of it.

        Args:
            events: in the order of their times; at least one.
            on_progress: called with the events played, and with all of them.

        Raises:
            LakeError: the folder refuses the lake.
            ContractError: the loop and the events do not fit.
        """
        started_s = time.perf_counter()
        asyncio.run(self._play(events, on_progress))
        return self._report(events, time.perf_counter() - started_s)

    def _report(self, events: Sequence[PastEvent], took_s: float) -> SandboxReport:
        examples = self.lake.table(self.loop.loop, EXAMPLES).read(["state", "label"])
        labels = examples.get_column("label").drop_nulls().cast(pl.Float64)
        mean = labels.mean()
        decisions = sum(event.log == DECISIONS for event in events)
        return SandboxReport(
            decisions=decisions,
            feedback=len(events) - decisions,
            first=events[0].at,
            last=events[-1].at,
            states=dict(examples.group_by("state").len().sort("state").iter_rows()),
            labels=len(labels),
            mean_label=mean if isinstance(mean, float) else None,
            refused=Counter(letter.reason for letter in self._dead_letters.written),
            models=self.cycle.registry.models(),
            live=self.cycle.registry.model(),
            took_s=took_s,
        )

    async def _play(
        self, events: Sequence[PastEvent], on_progress: Callable[[int, int], object]
    ) -> None:
        await self.start()
        for start in range(0, len(events), BLOCK):
            await self.take(events[start : start + BLOCK])
            self.cycle.run()
            on_progress(min(start + BLOCK, len(events)), len(events))
        await self.finish()

    async def start(self) -> None:
        """Own the partition, before the first event."""
        await self._run.claim([ONE])

    async def finish(self) -> None:
        """Close every window, and have the trainer do what is left."""
        self._run.end_logs(self.now, self._at_end())
        await self._commit()
        self.cycle.run(force=True)
        await self._run.release()

    async def take(self, events: Sequence[PastEvent]) -> None:
        """Have *events* arrive, join them, and commit."""
        for event in events:
            self.now = max(self.now, event.at)
            self._logs[event.log].append(
                event.key.encode(),
                self._writer.payload(event),
                timestamp_ms=int(self.now.timestamp() * 1000),
            )
        for log, memory_log in self._logs.items():
            batch = memory_log.fetch(self._next[log], len(events))
            if batch is not None:
                self._next[log] = batch.next
                await self._run.take(log, batch)
        await self._commit()
        self._run.advance_idle(self._at_end(self._run.quiet_logs()))

    async def _commit(self) -> None:
        """Commit what was taken, and every window that is due."""
        await self._run.commit()
        while self._run.is_closing:
            await self._run.commit()

    def _at_end(self, of: Sequence[tuple[Log, int]] | None = None) -> set[tuple[Log, int]]:
        """Return those logs that are read to their ends: all, or those *of* a list."""
        read = {
            (log, ONE)
            for log, number in self._next.items()
            if number == (self._run.position(log, ONE).taken or 0)
        }
        return read if of is None else read.intersection(of)


def empty_folder(folder: Path) -> Path:
    """Return *folder*, made if it is missing.

    Raises:
        ConfigError: it has something in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ConfigError(
            f"{folder} is not empty, and two runs in one lake would mix",
            hint="name a new folder, or remove this one",
        )
    return folder

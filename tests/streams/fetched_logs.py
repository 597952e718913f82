"""A broker in memory that answers aiokafka's own fetcher, with the difficulties of real brokers."""

import asyncio
import random
from types import SimpleNamespace
from typing import NamedTuple

from aiokafka.protocol.fetch import FetchRequest
from aiokafka.structs import TopicPartition
from tests.streams.record_batches import ABORT, COMMIT, Sent, control_batch, record_batch

NOT_LEADER, OUT_OF_RANGE = 6, 1
COMMITTING, ABORTING = 7, 9  # producers, by how their transactions end


class Stored(NamedTuple):
    """A record batch, and the offsets of it that readers have to get."""

    next: int
    data: bytes
    offsets: list[int]


class MemoryLog:
    """One partition: it grows by events, control batches and aborted transactions; old ones go."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self.batches: list[Stored] = []
        self.aborted: list[tuple[int, int]] = []
        self.low = self.end = 0

    def grow(self) -> None:
        """Add a few records, or a control batch, or a transaction that is aborted."""
        kind = self._draw.choice(["events", "events", "events", "control", "aborted"])
        if kind == "control":
            self._add(control_batch(self.end, COMMITTING, COMMIT), 1, visible=False)
            return
        count = self._draw.randint(1, 4)
        records = [Sent(self.end + number, 1, b"k", b"v") for number in range(count)]
        if kind == "events":
            self._add(record_batch(self.end, records), count, visible=True)
            return
        self.aborted.append((ABORTING, self.end))
        self._add(record_batch(self.end, records, producer=ABORTING), count, visible=False)
        self._add(control_batch(self.end, ABORTING, ABORT), 1, visible=False)

    def _add(self, data: bytes, count: int, *, visible: bool) -> None:
        offsets = list(range(self.end, self.end + count)) if visible else []
        self.batches.append(Stored(self.end + count, data, offsets))
        self.end += count

    def delete_oldest(self) -> None:
        """Delete some of the oldest records."""
        if self.batches:
            self.low = self._draw.choice(self.batches).next
            self.batches = [batch for batch in self.batches if batch.next > self.low]

    def answer(self, partition: int, offset: int) -> tuple[object, ...]:
        """Return a partition's part of an answer, as aiokafka reads version 4 of it."""
        if self._draw.random() < 0.03:
            return partition, NOT_LEADER, 0, 0, [], b""
        if not self.low <= offset <= self.end:
            return partition, OUT_OF_RANGE, 0, 0, [], b""
        rest = [batch.data for batch in self.batches if batch.next > offset]
        data = b"".join(rest[: self._draw.randint(1, 4)])
        return partition, 0, self.end, self.end, list(self.aborted), data


class MemoryCluster:
    """The client that aiokafka's fetcher needs, with two nodes that take turns as leader."""

    _metadata_max_age_ms = 1_000_000

    def __init__(self, logs: dict[TopicPartition, MemoryLog], draw: random.Random) -> None:
        self._logs = logs
        self._draw = draw
        self._leaders = dict.fromkeys(logs, 1)
        self._loop = asyncio.get_running_loop()
        self.cluster = SimpleNamespace(
            leader_for_partition=self._leaders.get, broker_metadata=lambda _node: True
        )

    def force_metadata_update(self) -> "asyncio.Future[None]":
        """Change the leaders."""
        for tp in self._leaders:
            self._leaders[tp] = self._draw.choice([1, 2])
        done = self._loop.create_future()
        done.set_result(None)
        return done

    async def send(self, _node: int, request: object) -> SimpleNamespace:
        """Answer a request for records, or for the first offsets, after some turns of the loop."""
        for _ in range(self._draw.randint(0, 5)):
            await asyncio.sleep(0)
        if isinstance(request, FetchRequest):
            found = [
                (name, [self._log(name, at).answer(at, offset) for at, offset, _ in offsets])
                for name, offsets in request.topics
            ]
            return SimpleNamespace(topics=found, API_VERSION=4)
        lows = [
            (name, [(at, 0, 0, self._log(name, at).low) for at, _ in offsets])
            for name, offsets in request._topics  # type: ignore[attr-defined]  # of aiokafka
        ]
        return SimpleNamespace(topics=lows, API_VERSION=1)

    def _log(self, name: str, partition: int) -> MemoryLog:
        return self._logs[TopicPartition(name, partition)]

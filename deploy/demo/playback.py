"""Play past events through the public client: ask for every decision, send all feedback.

Each shard (`shards.py`) has a thread and a client of its own. No shard begins a day before all have
ended the day before. A call that is not answered is made again with the same id, so it counts once.
"""

import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date

from tidemill.deploy.demo.shards import Decide, Feed, Past, PlaybackShard
from tidemill.errors import BrokerError
from tidemill.serving.client.client import Client, LoopClient

BUDGET_MS = 5_000.0
ANSWER_TIMEOUT_S = 120.0  # a worker that crashed is restarted long before
_RETRY_S = 0.2
_STOP_S = 6.0  # longer than one call, see BUDGET_MS


@dataclass(slots=True)
class PlaybackCounts:
    """What was sent and answered so far, by one shard or by all."""

    decisions: int = 0
    feedback: int = 0
    again: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    latencies_s: "array[float]" = field(default_factory=lambda: array("d"))

    @property
    def events(self) -> int:
        """How many events were sent and answered."""
        return self.decisions + self.feedback

    def __iadd__(self, other: "PlaybackCounts") -> "PlaybackCounts":
        self.decisions += other.decisions
        self.feedback += other.feedback
        self.again += other.again
        self.sources += other.sources
        self.versions += other.versions
        self.latencies_s.extend(other.latencies_s)
        return self


@dataclass(frozen=True, slots=True)
class Step:
    """How far a playback has come: all events up to *day* are answered."""

    day: date
    decisions: int
    feedback: int
    sources: Counter[str]


class Playback:
    """Plays past events to the workers at *urls*.

    Args:
        loop: the name of the loop.
        past: the events.
        urls: the workers; each shard uses one of them.
        partitions: how many the topics of the loop have.
        on_step: called after every day, in one of the threads.
    """

    def __init__(
        self,
        loop: str,
        past: Past,
        urls: Sequence[str],
        *,
        partitions: int,
        on_step: Callable[[Step], None] = lambda _step: None,
    ) -> None:
        self._loop, self._urls, self._on_step = loop, urls, on_step
        self._shards = past.shards(partitions)
        self._days = past.days()
        self._counts = [PlaybackCounts() for _ in self._shards]
        self._errors: list[BaseException] = []
        self._is_over = False
        self._day = 0
        self._barrier = threading.Barrier(len(self._shards), action=self._next_day)
        self.wall_s = 0.0

    def run(self) -> PlaybackCounts:
        """Play all events; return the counts.

        Raises:
            BrokerError: a worker has not answered for `ANSWER_TIMEOUT_S`.
            RequestError: a worker refused an event.
        """
        started = time.monotonic()
        threads = [
            threading.Thread(
                target=self._play, args=(shard,), name=f"shard-{shard.partition}", daemon=True
            )
            for shard in self._shards
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:  # Ctrl-C: no shard may go on in a process that ends
            self._barrier.abort()
            self._is_over = True
            for thread in threads:
                thread.join(_STOP_S)
            raise
        self.wall_s = time.monotonic() - started
        if self._errors:
            raise self._errors[0]
        total = PlaybackCounts()
        for counts in self._counts:
            total += counts
        return total

    def _next_day(self) -> None:
        sources: Counter[str] = Counter()
        for counts in self._counts:
            sources += counts.sources
        decisions = sum(counts.decisions for counts in self._counts)
        feedback = sum(counts.feedback for counts in self._counts)
        self._on_step(Step(self._days[self._day], decisions, feedback, sources))
        self._day += 1

    def _play(self, shard: PlaybackShard) -> None:
        url = self._urls[shard.partition % len(self._urls)]
        try:
            with Client(url, budget_ms=BUDGET_MS) as client:
                player = _Player(client, self._loop, self._counts[shard.partition])
                for day in self._days:
                    for event in shard.day(day):
                        if self._is_over:
                            return
                        player.play(event)
                    self._barrier.wait()
        except threading.BrokenBarrierError:
            return  # another shard has put its error down
        except Exception as error:  # the outermost loop of a thread: its owner raises it
            self._errors.append(error)
            self._barrier.abort()


class _Player:
    """Makes the calls of one shard."""

    def __init__(self, client: Client, loop: str, counts: PlaybackCounts) -> None:
        self._client = client
        self._loop: LoopClient = client.loop(loop)
        self._counts = counts

    def play(self, event: Decide | Feed) -> None:
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        call = self._decide if isinstance(event, Decide) else self._feed
        while not call(event):  # type: ignore[arg-type]  # chosen by the type of event
            self._counts.again += 1
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"no worker has answered for {ANSWER_TIMEOUT_S:g} s",
                    hint="read the workers' logs: are they running, and is the broker?",
                )
            time.sleep(_RETRY_S)

    def _decide(self, event: Decide) -> bool:
        unanswered = self._client.unanswered
        started = time.perf_counter()
        try:
            decision = self._loop.get_decision(
                event.features, entity=event.entity, id=event.id, at=event.at
            )
        except BrokerError:
            return False
        took = time.perf_counter() - started
        if self._client.unanswered > unanswered:
            return False  # the client gave the default itself, so no worker has logged a decision
        counts = self._counts
        counts.decisions += 1
        counts.sources[decision.source] += 1
        if decision.model_version is not None:
            counts.versions[decision.model_version] += 1
        counts.latencies_s.append(took)
        return True

    def _feed(self, event: Feed) -> bool:
        try:
            self._loop.log_feedback(
                event.decision_id, event.kind, id=event.id, at=event.at, item=None, **event.values
            )
        except BrokerError:
            return False
        self._counts.feedback += 1
        return True

"""Play the past through the public client: ask for every decision, tell all that came of it.

One thread a lane (`shards.py`), each with a client of its own; all lanes come to the same day
before the next one begins. A worker that does not answer is asked again with the same id, which
counts once. It knows no Kafka and no lake.
"""

import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date

from tidemill.deploy.demo.shards import Decide, Past, PlaybackShard, Tell
from tidemill.errors import BrokerError
from tidemill.serving.client.client import Client, LoopClient

BUDGET_MS = 5_000.0
PATIENCE_S = 120.0  # a worker that crashed is back long before
_PAUSE_S = 0.2
_STOP_S = 6.0  # one call at most, see BUDGET_MS


@dataclass(slots=True)
class PlaybackCounts:
    """What one lane, or all of them, have seen so far."""

    decisions: int = 0
    feedback: int = 0
    again: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    latencies_s: "array[float]" = field(default_factory=lambda: array("d"))

    @property
    def events(self) -> int:
        """How many calls were answered."""
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
    """How far a playback has come."""

    day: date
    decisions: int
    feedback: int
    sources: Counter[str]


class Playback:
    """Plays a past to the workers at *urls*.

    Args:
        loop: the name of the loop.
        past: what happened.
        urls: the workers; each lane keeps to one of them.
        partitions: of the loop's topics.
        on_step: told after every day, from one of the threads.
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
        self._lanes = past.lanes(partitions)
        self._days = past.days()
        self._tallies = [PlaybackCounts() for _ in self._lanes]
        self._errors: list[BaseException] = []
        self._is_over = False
        self._day = 0
        self._barrier = threading.Barrier(len(self._lanes), action=self._next_day)
        self.wall_s = 0.0

    def run(self) -> PlaybackCounts:
        """Play all of it; return what was seen.

        Raises:
            BrokerError: a worker has not answered for `PATIENCE_S`.
            RequestError: a worker refused an event.
        """
        started = time.monotonic()
        threads = [
            threading.Thread(target=self._play, args=(lane,), name=f"lane-{lane.partition}")
            for lane in self._lanes
        ]
        for thread in threads:
            thread.daemon = True
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:  # Ctrl-C: no lane may go on in a process that ends
            self._barrier.abort()
            self._is_over = True
            for thread in threads:
                thread.join(_STOP_S)
            raise
        self.wall_s = time.monotonic() - started
        if self._errors:
            raise self._errors[0]
        total = PlaybackCounts()
        for tally in self._tallies:
            total += tally
        return total

    def _next_day(self) -> None:
        sources: Counter[str] = Counter()
        for tally in self._tallies:
            sources += tally.sources
        decisions = sum(tally.decisions for tally in self._tallies)
        feedback = sum(tally.feedback for tally in self._tallies)
        self._on_step(Step(self._days[self._day], decisions, feedback, sources))
        self._day += 1

    def _play(self, lane: PlaybackShard) -> None:
        url = self._urls[lane.partition % len(self._urls)]
        try:
            with Client(url, budget_ms=BUDGET_MS) as client:
                player = _Player(client, self._loop, self._tallies[lane.partition])
                for day in self._days:
                    for event in lane.day(day):
                        if self._is_over:
                            return
                        player.play(event)
                    self._barrier.wait()
        except threading.BrokenBarrierError:
            return  # another lane has said why
        except Exception as error:  # the outermost loop of a thread: its owner raises it
            self._errors.append(error)
            self._barrier.abort()


class _Player:
    """Makes the calls of one lane."""

    def __init__(self, client: Client, loop: str, tally: PlaybackCounts) -> None:
        self._client = client
        self._loop: LoopClient = client.loop(loop)
        self._tally = tally

    def play(self, event: Decide | Tell) -> None:
        deadline = time.monotonic() + PATIENCE_S
        call = self._decide if isinstance(event, Decide) else self._tell
        while not call(event):  # type: ignore[arg-type]  # chosen by the type of event
            self._tally.again += 1
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"no worker has answered for {PATIENCE_S:g} s",
                    hint="read the workers' logs: are they running, and is the broker?",
                )
            time.sleep(_PAUSE_S)

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
            return False  # the client answered in the workers' place, and nobody has logged it
        tally = self._tally
        tally.decisions += 1
        tally.sources[decision.source] += 1
        if decision.model_version is not None:
            tally.versions[decision.model_version] += 1
        tally.latencies_s.append(took)
        return True

    def _tell(self, event: Tell) -> bool:
        try:
            self._loop.log_feedback(
                event.decision_id, event.kind, id=event.id, at=event.at, **event.values
            )
        except BrokerError:
            return False
        self._tally.feedback += 1
        return True

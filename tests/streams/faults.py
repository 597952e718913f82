"""A run of many records with faults in the middle, and a checker that reads the lake afterwards.

After the idea of Kafka's own test of its transactions: rounds of traffic, in each of which
something is killed, ended or frozen; at the end nothing may be lost, doubled or paired wrongly.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from tests.streams.rig import START, Rig, assert_exact, end, new_rig, send_traffic, until

from tidemill.features.lake.layouts import table_of
from tidemill.features.lake.progress_keys import OFFSET
from tidemill.kafka import KafkaConfig
from tidemill.schemas import topics

ROUNDS = 3
SECOND = timedelta(seconds=1)
OFTEN = {"TIDEMILL_COMMIT_S": "0.2", "TIDEMILL_COMMIT_ROWS": "4000"}  # so that faults hit commits
FEEDBACK = {
    "click": {"within": "30s", "early": "3s", "values": {"amount": "float"}},
    "buy": {"within": "60s", "values": {"amount": "float"}},
}


def two_kinds(kafka: KafkaConfig, folder: Path) -> Rig:
    """Return a rig of a loop with two kinds of feedback, whose windows differ, one with `early`."""
    folder.mkdir(exist_ok=True)
    return new_rig(kafka, folder, feedback=FEEDBACK, idle_after="1h")


def committed(rig: Rig) -> int:
    """Return how many records are committed to the lake."""
    if not rig.lake.has_table(rig.loop.loop, "examples"):
        return 0
    found = 0
    for log in rig.loop.logs:
        ids = [OFFSET.for_log(log).key(number) for number in range(rig.loop.partitions)]
        numbers = rig.lake.table(rig.loop.loop, table_of(log)).progress(ids)
        found += sum(number or 0 for number in numbers.values())
    return found


class Supervised:
    """A worker that is restarted when it ends, as in production."""

    def __init__(self, rig: Rig, **settings: str) -> None:
        self._rig = rig
        self._settings = settings
        self._stop = threading.Event()
        self.codes: list[int] = []
        self.current = rig.start(**settings)
        self._thread = threading.Thread(target=self._run, name="supervisor")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_ended: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            while self.current.poll() is None and not self._stop.wait(0.05):
                pass
            self.codes.append(end(self.current))
            if self._stop.is_set():
                return
            self.current = self._rig.start(**self._settings)


@dataclass
class Course:
    """Traffic in rounds, and all that was sent."""

    rig: Rig
    decisions: int
    last: datetime = START
    broken: set[bytes] = field(default_factory=set)
    failed: list[BaseException] = field(default_factory=list)

    def run(self, fault: Callable[[], None]) -> None:
        """Send everything in rounds, let *fault* happen in the middle of each, then close all."""
        share = self.decisions // ROUNDS
        for number in range(ROUNDS):
            before = committed(self.rig)
            with self._sending(range(number * share, (number + 1) * share), seed=number):
                until(lambda before=before: committed(self.rig) > before, "it reads")  # type: ignore[misc]
                fault()
            sent = sum(self.rig.ends().values())
            until(lambda sent=sent: committed(self.rig) >= sent, "it has gone on")  # type: ignore[misc]
        self.rig.close(self.last + 10 * SECOND)  # feedback of `early` is open for longer
        until(self.rig.is_done, "everything is closed")

    @contextmanager
    def _sending(self, numbers: range, seed: int) -> Iterator[None]:
        """Send traffic of *numbers* in the background; all of it is acknowledged at the end."""
        sender = threading.Thread(target=self._send, args=(numbers, seed), name="sender")
        sender.start()
        try:
            yield
        finally:
            sender.join()
        assert not self.failed, self.failed

    def _send(self, numbers: range, seed: int) -> None:
        try:
            producer = self.rig.producer()
            for start in range(numbers.start, numbers.stop, 1_000):
                key, topic = f"broken{start}", topics.decisions(self.rig.loop.loop)
                producer.send(topic, key, producer.decision(key, START)[:-3])
                self.broken.add(key.encode())
                some = range(start, min(start + 1_000, numbers.stop))
                self.last = max(self.last, send_traffic(producer, some, seed=seed * 1_000 + start))
        except BaseException as error:  # raised where the thread is joined
            self.failed.append(error)

    def check(self) -> None:
        """Fail if the lake has lost, doubled or invented a record, or joined it wrongly."""
        assert_exact(self.rig)
        sent = {f"d{number}" for number in range(self.decisions // ROUNDS * ROUNDS)}
        found = self.rig.lake.table(self.rig.loop.loop, "decisions").read(["id"])["id"]
        assert set(found) == sent
        dead = sum(account.ends["dead_letter"] for account in self.rig.accounts())
        assert dead >= len(self.broken), "a retry of a producer may write one twice"
        assert {letter.fields["key"].encode() for letter in self.rig.dead_letters()} == self.broken

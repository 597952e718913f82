"""Turns: which partitions the next request to the brokers is about.

aiokafka lists every assigned partition in each request, ten times a second. Thousands of quiet ones
would take a core here, and another at the broker. So the quiet ones share the requests.
"""

import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

from aiokafka.structs import TopicPartition

TURN_PARTITIONS = 128  # so many of the quiet ones are in one request; up to so many, all are
TURN_S = 0.2  # how often the next ones have their turn
BUSY_BYTES = 16 * 1024  # an answer of so much makes a partition a busy one
BUSY_S = 2.0  # for so long; a busy one is in every request


class Turns:
    """The partitions of the next request: all busy ones, and of the quiet ones the next few.

    A quiet one that could not be requested, because its broker has a request already, is in the
    next request too. All methods but `busy` are called from the thread of the fetcher.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, at_once: int = TURN_PARTITIONS
    ) -> None:
        """Let *at_once* quiet partitions have their turn together; up to so many, all have it."""
        self._clock = clock
        self._at_once = at_once
        self._assigned: Collection[TopicPartition] = ()
        self._order: list[TopicPartition] = []
        self._next = 0  # in the order
        self._turned_s = -TURN_S
        self._waiting: set[TopicPartition] = set()
        self._busy_until: dict[TopicPartition, float] = {}

    def due(
        self, assigned: Collection[TopicPartition], fetched: Iterable[TopicPartition]
    ) -> Collection[TopicPartition]:
        """Return those of *assigned* that the next request may be about.

        Partitions with *fetched* records are among them: aiokafka waits until they are taken.
        """
        if len(assigned) <= self._at_once:
            return assigned
        now_s = self._clock()
        if assigned is not self._assigned:
            self._assigned, self._order, self._next = assigned, sorted(assigned), 0
            self._waiting.clear()
            self._busy_until.clear()
        if now_s >= self._turned_s + TURN_S:
            turn = self._order[self._next : self._next + self._at_once]
            self._next += self._at_once
            self._next *= self._next < len(self._order)
            self._waiting.update(turn)
            self._turned_s = now_s
        return self._waiting | ({*self.busy(), *fetched} & set(assigned))

    def note_requested(self, tps: Iterable[TopicPartition]) -> None:
        """Record that *tps* had their turn."""
        self._waiting.difference_update(tps)

    def note_answer(self, tp: TopicPartition, size: int) -> None:
        """Record that an answer has brought *size* bytes of *tp*."""
        if size >= BUSY_BYTES:
            self._busy_until[tp] = self._clock() + BUSY_S

    def busy(self) -> set[TopicPartition]:
        """Return the partitions that had much to read just now; another thread may ask."""
        now_s = self._clock()
        return {tp for tp, until_s in self._busy_until.copy().items() if until_s > now_s}

    def choosing(
        self, choose: Callable[[Any], Any], fetched: Collection[TopicPartition]
    ) -> Callable[[Any], Any]:
        """Return aiokafka's method *choose*, which makes requests for an assignment, with turns.

        *fetched* are the partitions with fetched records at each time.
        """

        def chosen(assignment: Any) -> Any:  # noqa: ANN401 (aiokafka's own)
            actions = choose(_Due(assignment, self.due(assignment.tps, list(fetched))))
            self.note_requested(
                TopicPartition(topic, number)
                for _node, request in actions[0]
                for topic, partitions in request.topics
                for number, *_ in partitions
            )
            return actions

        return chosen


class _Due:
    """The part of an aiokafka assignment that is due."""

    def __init__(self, assignment: Any, tps: Collection[TopicPartition]) -> None:  # noqa: ANN401
        self.tps = tps
        self.state_value = assignment.state_value

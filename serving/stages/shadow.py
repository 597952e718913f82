"""Scores of a model that decides nothing, for decisions that others have made and logged."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from tidemill.serving.policies.choice import Action, Choice, LiveModel
from tidemill.serving.stages.served_models import ServedModel
from tidemill.serving.stages.shadow_thread import ShadowThread

logger = logging.getLogger(__name__)

OnFailing = Callable[[ServedModel, str], object]
"""Called with a model that failed too often in a row, and why."""


@dataclass(slots=True)
class ShadowCounters:
    """What the shadow of one loop did; written by its thread alone, but for *skipped*.

    Attributes:
        scored: decisions that it scored in time.
        differing: those in which its action would have been another than the answer.
        failed: decisions in which it raised an error or exceeded the budget.
        skipped: decisions that it did not score: it rested, or had too many waiting.
        took_s: the time of all scores together, in seconds.
    """

    scored: int = 0
    differing: int = 0
    failed: int = 0
    skipped: int = 0
    took_s: float = 0.0


class Shadow:
    """Scores the decisions of one loop after their answers.

    Args:
        thread: makes the scores.
        counters: count them.
        budget_s: how long one score may take.
    """

    def __init__(self, thread: ShadowThread, counters: ShadowCounters, budget_s: float) -> None:
        self._thread = thread
        self._counters = counters
        self._budget_s = budget_s

    def take(
        self,
        served: ServedModel,
        choose: Callable[[LiveModel], Choice],
        answered: Action,
        on_failing: OnFailing | None,
    ) -> None:
        """Score one decision soon.

        Args:
            served: the model in the shadow.
            choose: returns the choice of a model about this decision.
            answered: the action that was answered.
            on_failing: called if the model is to be given up.
        """
        call = partial(self._score, served, choose, answered, on_failing)
        if perf_counter() < served.streak.rest_until_s or not self._thread.take(call):
            self._counters.skipped += 1

    def _score(
        self,
        served: ServedModel,
        choose: Callable[[LiveModel], Choice],
        answered: Action,
        on_failing: OnFailing | None,
    ) -> None:
        counters, started_s = self._counters, perf_counter()
        if started_s < served.streak.rest_until_s:
            counters.skipped += 1
            return
        try:
            action, why = choose(served.model)[0], None
        except Exception as error:  # whatever it is, it is the shadow's and nobody else's
            action, why = None, f"{error!r}"
        now_s = perf_counter()
        counters.took_s += now_s - started_s
        if why is None and now_s - started_s > self._budget_s:
            why = f"it took {1e3 * (now_s - started_s):.1f} ms"
        if why is None:
            served.streak.failures = 0
            counters.scored += 1
            counters.differing += action != answered
            return
        counters.failed += 1
        if served.streak.add(now_s) and on_failing is not None:
            on_failing(served, why)

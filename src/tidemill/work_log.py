"""A line a minute that says what a process has done, computed from its own metrics."""

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry

logger = logging.getLogger(__name__)


class WorkLog:
    """Logs at INFO, in a thread, what each loop has had done since the line before.

    Args:
        registry: has the counters.
        counted: the samples to tell, with the words for them, in their order:
            ``{"tidemill_feedback_total": "feedback"}``.
        every_s: seconds between two lines.
    """

    def __init__(
        self, registry: CollectorRegistry, counted: Mapping[str, str], *, every_s: float = 60.0
    ) -> None:
        self._registry = registry
        self._counted = counted
        self._every_s = every_s
        self._before = self._read()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tidemill-work-log", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_error: object) -> None:
        self._stopped.set()
        self._thread.join()

    def told(self) -> Iterator[tuple[str, str]]:
        """Return each loop that had anything done since the last call, and what; "" is no loop."""
        now = self._read()
        done, self._before = now - self._before, now
        for loop in sorted({loop for loop, _sample in done}):
            counts = ((done[loop, sample], words) for sample, words in self._counted.items())
            yield loop, ", ".join(f"{count:,.0f} {words}" for count, words in counts if count)

    def _read(self) -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        for metric in self._registry.collect():
            for sample in metric.samples:
                if sample.name in self._counted:
                    found[sample.labels.get("loop", ""), sample.name] += sample.value  # type: ignore[assignment]
        return found

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            lines = list(self.told())
            for loop, text in lines:
                told_loop = {"loop": loop} if loop else {}
                logger.info("in the last %g s: %s", self._every_s, text, extra=told_loop)
            if not lines:
                logger.info("in the last %g s: nothing to do", self._every_s)

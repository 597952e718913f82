"""SIGTERM and SIGINT as an event: a process looks at it and ends in good order."""

import signal
import threading
from types import FrameType

STOPS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """While the block lasts, both signals set *stop*; afterwards they do what they did before.

    The event stays set, so a signal that comes while something else is closed is not lost. In
    another thread than the main one, where Python takes no signals, the block changes nothing.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._before: dict[int, object] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in STOPS:
                self._before[number] = signal.signal(number, self._set)

    def _set(self, _number: int, _frame: FrameType | None) -> None:
        self._stop.set()

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() returned

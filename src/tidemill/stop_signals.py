"""SIGTERM and SIGINT as an event: a process looks at it and ends in good order, and in time.

Every process of tidemill may be killed at any moment and loses nothing by it. So one that waits for
a broker or a disk while it stops is ended, and does not keep its supervisor waiting.
"""

import logging
import os
import signal
import threading
from types import FrameType

logger = logging.getLogger(__name__)

STOPS = (signal.SIGTERM, signal.SIGINT)
STOP_S = 8.0  # of the 10 s that supervisors give


class StopSignals:
    """While the block lasts, both signals set *stop*; afterwards they do what they did before.

    The event stays set, so a signal that comes while something else is closed is not lost. In
    another thread than the main one, where Python takes no signals, the block changes nothing.

    Args:
        stop: is set by the signals.
        within_s: so long after a signal the process ends with status 0, whatever it is doing then;
            None if it may take its time.
    """

    def __init__(self, stop: threading.Event, *, within_s: float | None = None) -> None:
        self._stop = stop
        self._within_s = within_s
        self._before: dict[int, object] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in STOPS:
                self._before[number] = signal.signal(number, self._set)

    def _set(self, _number: int, _frame: FrameType | None) -> None:
        if self._within_s is not None and not self._stop.is_set():
            timer = threading.Timer(self._within_s, _end, (self._within_s,))
            timer.daemon = True
            timer.start()
        self._stop.set()

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() returned


def _end(after_s: float) -> None:
    logger.warning(
        "not stopped in order within %g s, so ended as it is; nothing is lost: the next start "
        "goes on from the last commit",
        after_s,
    )
    logging.shutdown()
    os._exit(os.EX_OK)

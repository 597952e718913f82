"""SIGTERM and SIGINT as an event: a process looks at it and ends in good order, and in time.

Every process of tidemill may be killed at any moment and loses nothing by it. So one that waits for
a broker or a disk while it stops is ended, and does not keep its supervisor waiting.
"""

import logging
import os
import signal
import socket
import threading
from types import FrameType

logger = logging.getLogger(__name__)

STOPS = (signal.SIGTERM, signal.SIGINT)
STOP_S = 8.0  # of the 10 s that supervisors give


class StopSignals:
    """While the block lasts, both signals set *stop*; afterwards they do what they did before.

    The event stays set, so a signal that comes while something else is closed is not lost. In
    another thread than the main one, where Python takes no signals, the block changes nothing.

    A handler of Python runs in the main thread, and not before a call of a C library there returns,
    say one that waits for a broker. So a thread reads the signals from a socket, to which Python
    writes them at once.

    Args:
        stop: is set by the signals.
        within_s: so long after a signal the process ends with status 0, whatever it is doing then;
            None if it may take its time.
    """

    def __init__(self, stop: threading.Event, *, within_s: float | None = None) -> None:
        self._stop = stop
        self._within_s = within_s
        self._before: dict[int, object] = {}
        self._told: tuple[socket.socket, threading.Thread, int] | None = None

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        reads, writes = socket.socketpair()
        writes.setblocking(False)
        listener = threading.Thread(
            target=self._listen, args=(reads,), name="stop-signals", daemon=True
        )
        listener.start()
        before = signal.set_wakeup_fd(writes.fileno(), warn_on_full_buffer=False)
        self._told = writes, listener, before
        for number in STOPS:
            self._before[number] = signal.signal(number, _write_only)

    def _listen(self, signals: socket.socket) -> None:
        with signals:
            while numbers := signals.recv(16):
                if not set(numbers).isdisjoint(STOPS):
                    self._begin_stop()

    def _begin_stop(self) -> None:
        if self._within_s is not None and not self._stop.is_set():
            timer = threading.Timer(self._within_s, _end, (self._within_s,))
            timer.daemon = True
            timer.start()
        self._stop.set()

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() returned
        if self._told is not None:
            writes, listener, before = self._told
            signal.set_wakeup_fd(before)
            writes.close()  # ends the listener, once it has read what was sent
            listener.join()


def _write_only(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: with this handler Python writes the signal to the socket."""


def _end(after_s: float) -> None:
    logger.warning(
        "not stopped in order within %g s, so ended as it is; nothing is lost: the next start "
        "goes on from the last commit",
        after_s,
    )
    logging.shutdown()
    os._exit(os.EX_OK)

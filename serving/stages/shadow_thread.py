"""A thread for what a worker does after it has answered, so that no answer waits for it."""

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

logger = logging.getLogger(__name__)

ROOM = 1_000
"""So many calls may wait; beyond them one is not taken."""
_SHORT_S = 0.001
_PAUSES = 3  # a call of a millisecond or more is followed by a pause of three times that


class ShadowThread:
    """Makes calls one after the other; it begins with the first, and its owner closes it.

    After each call others have their turn. A long call is followed by a pause of three times its
    length, so that the thread takes a quarter of the time at most.
    """

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def take(self, call: Callable[[], object]) -> bool:
        """Make *call* soon; return False if there is no room for it, or the thread is closed."""
        if self._calls.qsize() >= self._room or self._closed.is_set():
            return False
        self._calls.put(call)
        if self._thread is None:
            self._start()
        return True

    def drain(self, timeout_s: float = 60.0) -> bool:
        """Wait until all calls so far are made; return whether they were, in *timeout_s*."""
        done = threading.Event()
        self._calls.put(done.set)
        self._start()
        return done.wait(timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """Make no more calls; wait at most *timeout_s* for one that is being made."""
        with self._lock:
            self._closed.set()
            self._calls.put(None)
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None and not self._closed.is_set():
            started_s = time.perf_counter()
            try:
                call()
            except Exception:  # the outermost loop of this thread: the next call is another's
                logger.exception("a call after an answer failed")
            took_s = time.perf_counter() - started_s
            if took_s < _SHORT_S:
                time.sleep(0)  # gives up the interpreter's lock, for which an answer may wait
            else:
                self._closed.wait(_PAUSES * took_s)

"""What the tests of `ChildProcess` make in a child: it answers, refuses, fails, hangs and dies."""

import os
import time

from tidemill.errors import BrokerError


class Crashing:
    """Counts its calls; each method is one way for a call to end."""

    def __init__(self) -> None:
        self.calls = 0

    def count(self, by: int = 1) -> int:
        """Return how many calls were counted so far."""
        self.calls += by
        return self.calls

    def pid(self) -> int:
        """Return the process in which it is."""
        return os.getpid()

    def abort(self) -> None:
        """End as an assertion of librdkafka does."""
        os.abort()

    def refuse(self) -> None:
        """Raise what a reading raises without a broker."""
        raise BrokerError("no answer", hint="start it")

    def fail(self) -> None:
        """Raise what only a bug raises."""
        raise ZeroDivisionError("a bug")

    def hang(self) -> None:
        """Never return."""
        time.sleep(3600)

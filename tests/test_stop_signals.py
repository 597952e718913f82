"""A stop signal is an event that stays set, and only as long as somebody looks at it."""

import os
import signal
import threading

from tidemill.stop_signals import STOPS, StopSignals


def test_a_signal_sets_the_event_and_afterwards_means_what_it_meant() -> None:
    """A worker that closes one thing after the other must not lose the word that it should end."""
    before = [signal.getsignal(number) for number in STOPS]
    for number in STOPS:
        stop = threading.Event()
        with StopSignals(stop):
            os.kill(os.getpid(), number)
            assert stop.wait(60)
        assert stop.is_set()
    assert [signal.getsignal(number) for number in STOPS] == before


def test_another_thread_takes_no_signals() -> None:
    """A worker inside a test, or inside a service, leaves the signals to the process."""
    before = [signal.getsignal(number) for number in STOPS]
    found: list[object] = []

    def look() -> None:
        with StopSignals(threading.Event()):
            found.extend(signal.getsignal(number) for number in STOPS)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == before

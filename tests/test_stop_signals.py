"""A stop signal is an event that stays set while somebody looks at it; the stop is over in time."""

import os
import signal
import subprocess
import sys
import threading

from tidemill.stop_signals import STOPS, StopSignals

HANGS = """
import threading
from tidemill.stop_signals import StopSignals
stop = threading.Event()
with StopSignals(stop, within_s=0.2):
    print("up", flush=True)
    stop.wait()
    threading.Thread(target=threading.Event().wait).start()  # no daemon: it keeps the process alive
"""

BUSY = """
import ctypes, threading
from tidemill.stop_signals import StopSignals
stop = threading.Event()
threading.Thread(target=lambda: stop.wait() and print("told", flush=True), daemon=True).start()
mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
with StopSignals(stop, within_s=0.2):
    libc.pthread_mutex_lock(mutex)
    print("up", flush=True)
    libc.pthread_mutex_lock(mutex)  # never returns, so Python runs no handler in this thread
"""


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


def test_a_process_that_hangs_in_its_stop_ends_with_a_word() -> None:
    """Supervisors give ten seconds; the worker took 37 of them with its broker away."""
    with subprocess.Popen(
        [sys.executable, "-c", HANGS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.terminate()
        _, told = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "not stopped in order within 0.2 s" in told


def test_a_stop_begins_while_a_c_library_keeps_the_main_thread() -> None:
    """A worker that waited in librdkafka for its broker began its eight seconds only afterwards."""
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert process.stdout.readline() == "told\n"
        _, told = process.communicate()
    assert process.returncode == 0
    assert "not stopped in order within 0.2 s" in told

"""A stop is over in time, whatever the process waits for."""

import subprocess
import sys

HANGS = """
import signal, threading
from tidemill.stopping import stop_in_time
signal.signal(signal.SIGTERM, lambda *_: stop_in_time(0.2))
print("up", flush=True)
threading.Thread(target=threading.Event().wait).start()  # no daemon: it keeps the process alive
while True:
    threading.Event().wait(1)
"""


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

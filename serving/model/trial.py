"""The child process in which a model is loaded for the first time: ``python -m`` this module.

Reads a `TrialRequest` from standard input, limits itself, checks the text, loads it, and writes the scores
of the rows as doubles and then its trees as `forest.py` packs them. Whatever goes wrong here goes
wrong here only; and reading megabytes of numbers in Python, which the check is, does not hold up
the decisions of the worker.
"""

import os
import struct
import sys
import time

import msgspec

from tidemill.errors import ModelError
from tidemill.serving.model.forest import pack
from tidemill.serving.model.model_text import read_text
from tidemill.serving.model.predictor import LightGbmModel


class TrialRequest(msgspec.Struct):
    """What the child process is asked to do."""

    text: str
    rows: list[bytes]  # each a row of doubles
    memory_bytes: int
    score_ms: float
    time_s: int
    is_checked: bool = True  # False only to show what the check is for


REFUSED = 3  # exit status: the reason stands on standard error in words; 1 is a traceback


def main() -> int:
    """Carry out one trial; return 0 if the model survived it."""
    trial = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=TrialRequest)
    rows = [struct.unpack(f"{len(row) // 8}d", row) for row in trial.rows]
    _limit(trial)
    try:
        trees = pack(read_text(trial.text, len(rows[0]))) if trial.is_checked else b""
        model = LightGbmModel(trial.text, len(rows[0]))
        started = time.perf_counter()
        scores = [model.predict(row) for row in rows]
        spent_ms = (time.perf_counter() - started) * 1e3 / len(rows)
    except (ModelError, MemoryError) as error:
        print(error.what if isinstance(error, ModelError) else "out of memory", file=sys.stderr)
        return REFUSED
    if spent_ms > trial.score_ms:
        print(f"a prediction takes {spent_ms:.1f} ms, over {trial.score_ms}", file=sys.stderr)
        return REFUSED
    sys.stdout.buffer.write(struct.pack(f"{len(scores)}d", *scores) + trees)
    return 0


def _limit(trial: TrialRequest) -> None:
    """Give the rest of this process so much memory and time; not on Windows, which has no way."""
    try:
        import resource
    except ImportError:
        return
    os.nice(10)  # the decisions of the worker go first
    resource.setrlimit(resource.RLIMIT_CPU, (trial.time_s, trial.time_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = 0
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        pass  # no /proc: the whole process gets what the model may take
    limit = used + trial.memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    sys.exit(main())

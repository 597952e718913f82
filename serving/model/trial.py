"""The child process in which a model is loaded for the first time: ``python -m`` this module.

It reads a `TrialRequest` from standard input, limits its own time and memory, checks the text and
loads it. To standard output it writes the scores of the rows as doubles, then the trees as
`forest.py` packs them. A crash ends only this process; and the check, which reads megabytes of
numbers in Python, does not delay the decisions of the worker.
"""

import os
import struct
import sys
import time
from collections.abc import Callable

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


REFUSED = 3  # exit status: the reason stands on standard error in words; 1 is a traceback


def checked_trees(text: str, columns: int) -> bytes:
    """Return the trees of *text*, packed.

    Raises:
        ModelError: the text is not a sound model of *columns* columns.
    """
    return pack(read_text(text, columns))


def main(trees_of: Callable[[str, int], bytes] = checked_trees) -> int:
    """Carry out the trial that standard input asks for; return 0 if the model survived it."""
    trial = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=TrialRequest)
    rows = [struct.unpack(f"{len(row) // 8}d", row) for row in trial.rows]
    _limit(trial)
    try:
        trees = trees_of(trial.text, len(rows[0]))
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
    """Limit the memory and time of the rest of this process; Windows cannot, so it does nothing."""
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
        pass  # there is no /proc: the limit then covers the whole process, not the model alone
    limit = used + trial.memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    sys.exit(main())

"""The child process in which models are loaded for the first time: ``python -m`` this module.

It reads trials from standard input until that ends, and answers each on standard output. For each
it forks, and the fork limits its own time and memory, checks the text, loads it, scores the rows
and packs the trees as `forest.py` says. So a crash ends only the fork, no model meets what another
one left in memory, and a trial does not wait for Python to start. The check, which reads megabytes
of numbers in Python, does not delay the decisions of the worker either.

Where a system cannot fork, the process itself makes the trial, and `TrialProcess` starts another
one for the next.
"""

import contextlib
import gc
import os
import select
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from typing import BinaryIO

import msgspec

from tidemill.errors import ModelError
from tidemill.serving.model.forest import pack
from tidemill.serving.model.model_text import read_text
from tidemill.serving.model.predictor import LightGbmModel, preload

CAN_FORK = hasattr(os, "fork")
_LENGTH = struct.Struct("=Q")
_MOST_BYTES = 2**28  # of what a fork writes: more than the trees of the largest model


class TrialRequest(msgspec.Struct):
    """What the child process is asked to do."""

    text: bytes
    rows: list[bytes]  # each a row of doubles
    memory_bytes: int
    score_ms: float
    time_s: float


class TrialReply(msgspec.Struct):
    """What became of a trial: scores and trees, or one of the two reasons for their absence."""

    scores: bytes = b""  # doubles
    trees: bytes = b""
    refused: str = ""  # what is wrong with the model
    failed: str = ""  # how the fork ended, if it did not say


TreesOf = Callable[[str, int], bytes]


def checked_trees(text: str, columns: int) -> bytes:
    """Return the trees of *text*, packed.

    Raises:
        ModelError: the text is not a sound model of *columns* columns.
    """
    return pack(read_text(text, columns))


def read_frame(stream: BinaryIO) -> bytes | None:
    """Return the next message of *stream*; None if it ended before."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(head)
    body = stream.read(size)
    return body if len(body) == size else None


def write_frame(stream: BinaryIO, body: bytes) -> None:
    """Write the message *body* to *stream*."""
    stream.write(_LENGTH.pack(len(body)))
    stream.write(body)
    stream.flush()


def main(trees_of: TreesOf = checked_trees) -> int:
    """Carry out the trials that standard input asks for, one after the other, until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # the library prints: not between the answers
    if CAN_FORK:
        os.nice(10)  # the decisions of the worker go first
    preload()
    gc.disable()  # forks would look for garbage among all that this process has, and copy it
    while (body := read_frame(sys.stdin.buffer)) is not None:
        request = msgspec.msgpack.decode(body, type=TrialRequest)
        if CAN_FORK:
            reply = _in_a_fork(request, trees_of)
        else:
            reply = msgspec.msgpack.encode(_tried(request, trees_of))
        write_frame(answers, reply)
    return 0


def _in_a_fork(request: TrialRequest, trees_of: TreesOf) -> bytes:
    """Return the answer of a fork of this process, or how the fork ended without one."""
    (reply, to_reply), (words, to_words) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(to_words, 1)
        os.dup2(to_words, 2)
        status = 1
        try:
            _limit(request)
            with os.fdopen(to_reply, "wb") as stream:
                stream.write(msgspec.msgpack.encode(_tried(request, trees_of)))
            status = 0
        except BaseException:  # the outermost frame of the fork: its last words are the reason
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(to_reply)
    os.close(to_words)
    found = {reply: bytearray(), words: bytearray()}
    is_over = _read_all(found, time.monotonic() + request.time_s)
    if not is_over:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    for pipe in found:
        os.close(pipe)
    if is_over and status == 0:
        return bytes(found[reply])
    if not is_over:
        how = f"hung for {request.time_s:g} s"
    else:
        last = found[words].decode(errors="replace").strip().rpartition("\n")[2][:500]
        how = f"ended with status {os.waitstatus_to_exitcode(status)}: {last}"
    return msgspec.msgpack.encode(TrialReply(failed=how))


def _read_all(found: dict[int, bytearray], deadline: float) -> bool:
    """Read the pipes of *found* to their ends; return whether that was before the *deadline*."""
    left = set(found)
    while left:
        ready, _, _ = select.select(left, [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        for pipe in ready:
            part = os.read(pipe, 2**20)
            found[pipe] += part
            del found[pipe][:-_MOST_BYTES]
            if not part:
                left.discard(pipe)
    return True


def _tried(request: TrialRequest, trees_of: TreesOf) -> TrialReply:
    """Load and try the model in this process."""
    rows = [struct.unpack(f"{len(row) // 8}d", row) for row in request.rows]
    try:
        text = request.text.decode("ascii")
        trees = trees_of(text, len(rows[0]))
        model = LightGbmModel(text, len(rows[0]))
        started = time.perf_counter()
        scores = [model.predict(row) for row in rows]
        spent_ms = (time.perf_counter() - started) * 1e3 / len(rows)
    except ModelError as error:
        return TrialReply(refused=error.what)
    except MemoryError:
        return TrialReply(refused="out of memory")
    if spent_ms > request.score_ms:
        return TrialReply(refused=f"a prediction takes {spent_ms:.1f} ms, over {request.score_ms}")
    return TrialReply(scores=struct.pack(f"{len(scores)}d", *scores), trees=trees)


def _limit(request: TrialRequest) -> None:
    """Limit the memory and time of the rest of this process."""
    import resource  # Windows has none

    seconds = int(request.time_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = 0
    # without /proc the limit covers the whole process, not the model alone
    with contextlib.suppress(OSError), open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limit = used + request.memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    sys.exit(main())

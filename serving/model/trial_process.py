"""The worker's side of trials: one child process tries all models that arrive within a while.

`trial.py` is the child. It is started for the first model and ended once none has come for
`TrialLimits.idle_s`, so a thousand models at the start of a worker, and the next model of a loop,
do not wait for a thousand starts of Python.
"""

import contextlib
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self, cast

import msgspec

from tidemill.errors import ModelError
from tidemill.serving.model.trial import (
    CAN_FORK,
    TrialReply,
    TrialRequest,
    read_frame,
    write_frame,
)

_GRACE_S = 5.0  # after its own limit the child has so long to say that a trial hung
_HINT = "the model is broken or too large for serving: train it again, with fewer leaves"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialLimits:
    """What a trial may use; beyond it the model is refused. And how long the child is kept."""

    time_s: float = 20.0  # ample for loading 64 MB of trees
    memory_bytes: int = 2**30
    score_ms: float = 50.0  # of one probe, on average
    idle_s: float = 60.0  # a child takes 30 MB and no time; its start takes a quarter of a second


class TrialProcess:
    """Tries models in a child process; safe to share between threads, which wait for each other."""

    def __init__(
        self, limits: TrialLimits | None = None, *, command: Sequence[str] | None = None
    ) -> None:
        """Start nothing yet; *command* is what to start instead of `trial.py`."""
        self.limits = limits or TrialLimits()
        self._command = list(command or (sys.executable, "-m", "tidemill.serving.model.trial"))
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._idle: threading.Timer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process id of the child; None while there is none."""
        return None if self._child is None else self._child.pid

    def run(self, text: bytes, rows: list[list[float]]) -> tuple[list[float], bytes]:
        """Check and load *text* in the child; return its scores of *rows*, and the trees packed.

        Raises:
            ModelError: the text is not sound, or its trial crashed, hung, took too much memory or
                was too slow. The child goes on with the next one.
        """
        request = TrialRequest(
            text=text,
            rows=[struct.pack(f"{len(row)}d", *row) for row in rows],
            memory_bytes=self.limits.memory_bytes,
            score_ms=self.limits.score_ms,
            time_s=self.limits.time_s,
        )
        with self._lock:
            reply = self._answer(msgspec.msgpack.encode(request))
        if reply.failed:
            raise _failed(reply.failed)
        if reply.refused:
            raise ModelError(reply.refused, hint=_HINT)
        return list(struct.unpack(f"{len(rows)}d", reply.scores)), reply.trees

    def close(self) -> None:
        """End the child, unless it is at work: then it ends when it has been idle for a while.

        The next trial starts another one.
        """
        if self._lock.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._lock.release()

    def _answer(self, request: bytes) -> TrialReply:
        if self._idle is not None:
            self._idle.cancel()
        is_new = self._child is None
        child = self._child or self._start()
        guard = _timer(self.limits.time_s + _GRACE_S, child.kill)
        body = None
        with contextlib.suppress(OSError):  # it has ended: `_end_of` says how
            write_frame(cast(BinaryIO, child.stdin), request)
            body = read_frame(cast(BinaryIO, child.stdout))
        guard.cancel()
        if body is None:
            self._child = None
            ended = _end_of(child)
            # One that has worked before was ended by something else, say for want of memory.
            return TrialReply(failed=ended) if is_new else self._answer(request)
        if CAN_FORK:
            self._idle = _timer(self.limits.idle_s, self.close)
        else:
            self._end()
        return msgspec.msgpack.decode(body, type=TrialReply)

    def _start(self) -> "subprocess.Popen[bytes]":
        try:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # ^C is for the worker; the child ends with its input
            )
        except OSError as error:
            raise _failed(f"could not start: {error.strerror}") from error
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if self._idle is not None:
            self._idle.cancel()
        if child is not None:
            child.kill()
            _end_of(child)


def _end_of(child: "subprocess.Popen[bytes]") -> str:
    """Return how *child* has ended, once it has."""
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what was to be written has no reader any more
                pipe.close()
    return f"ended with status {child.wait()}"


def _timer(seconds: float, act: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
    return timer


def _failed(how: str) -> ModelError:
    return ModelError(f"the trial of the model in a child process {how}", hint=_HINT)

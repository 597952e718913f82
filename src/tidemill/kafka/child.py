"""An object in a child process: a crash of librdkafka there is an error here, and no end.

librdkafka's admin client aborts its process (an assertion of its queues, or SIGSEGV) when calls
have timed out on a frozen broker that then continues. A process that asks for hours asks this way.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Concatenate, Generic, ParamSpec, Self, TypeVar

from tidemill.errors import BrokerError
from tidemill.kafka.config import client_log

S = TypeVar("S")
P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)

_STARTS = 2  # a child that has died since the last call is replaced; one that dies again is told
_START_S = 20.0  # for the child to import what it needs, on a busy machine
_MARGIN_S = 1.0  # a method is to end by itself before it is killed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer(Generic[T]):
    """What a call in the child came to: a value, a `BrokerError`, or the traceback of a bug."""

    value: T | None = None
    refusal: tuple[str, str] | None = None
    bug: str | None = None
    logged: tuple[tuple[int, str], ...] = ()


class ChildProcess(Generic[S]):
    """Makes an object in a child process at the first call, and calls its methods there.

    A child that has died is replaced at the next call. One whose method raised a `BrokerError` is
    ended, so that the next call has new clients. Not thread-safe.

    Args:
        make: makes the object; like arguments and results it has to be picklable.
        what: what a call is for, as the start of an error: "the lag could not be read".
        timeout_s: how long a method may take before its child is killed.
    """

    def __init__(self, make: Callable[[], S], *, what: str, timeout_s: float) -> None:
        self._make = make
        self._what = what
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the child, if there is one."""
        return None if self._process is None else self._process.pid

    def call(self, method: Callable[Concatenate[S, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what *method* of the object returns, say ``call(LagReading.read, group)``.

        Raises:
            BrokerError: the method raised it, or the child died twice or hung.
            RuntimeError: the method raised another error; its traceback is the text.
        """
        for _ in range(_STARTS):
            try:
                pipe = self._pipe or self._start()
                pipe.send((method, args, kwargs))
                if not pipe.poll(self._timeout_s + _MARGIN_S):
                    break
                answer: _Answer[T] = pipe.recv()
            except (EOFError, OSError):
                logger.info("%s: the child process has died; another one is started", self._what)
                self.close()
            else:
                return self._result(answer)
        self.close()
        raise BrokerError(
            f"{self._what}: the client of Kafka crashes or hangs",
            hint="see that the brokers answer; the next reading has a new client",
        )

    def _result(self, answer: _Answer[T]) -> T:
        for level, text in answer.logged:
            client_log.log(level, "%s", text)
        if answer.refusal is not None:
            self.close()
            what, hint = answer.refusal
            raise BrokerError(what, hint=hint)
        if answer.bug is not None:
            raise RuntimeError(answer.bug)
        return answer.value  # type: ignore[return-value]  # None only where T may be None

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # an assertion's last words
                pass_fds=[theirs.fileno()],
            )
        self._pipe = ours
        ours.send(self._make)
        if not ours.poll(_START_S):
            raise EOFError
        ours.recv_bytes()
        return ours

    def close(self) -> None:
        """End the child; the next call starts another one."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class _LogKeeper(logging.Handler):
    """Keeps what librdkafka logs during a call; the parent logs it."""

    def __init__(self, logged: list[tuple[int, str]]) -> None:
        super().__init__()
        self._logged = logged

    def emit(self, record: logging.LogRecord) -> None:
        self._logged.append((record.levelno, record.getMessage()))


def serve(pipe: Connection) -> None:
    """Make the object and carry out calls, until the parent closes its end or has ended."""
    logged: list[tuple[int, str]] = []
    client_log.addHandler(_LogKeeper(logged))
    subject = pipe.recv()()
    pipe.send_bytes(b"")
    while True:
        method, args, kwargs = pipe.recv()
        logged.clear()
        answer: _Answer[object]
        try:
            answer = _Answer(value=method(subject, *args, **kwargs), logged=tuple(logged))
        except BrokerError as error:
            answer = _Answer(refusal=(error.what, error.hint), logged=tuple(logged))
        except Exception:  # the outermost loop of this process: the parent gets the traceback
            answer = _Answer(bug=traceback.format_exc(), logged=tuple(logged))
        pipe.send(answer)


def main() -> None:
    """Serve the parent at the other end of the pipe that the command line names."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except ImportError:  # Windows
        pass
    with contextlib.suppress(EOFError, OSError):
        serve(Connection(int(sys.argv[1])))
    os._exit(0)  # clients may wait for a broker before they end


if __name__ == "__main__":
    from tidemill.kafka import child  # what is pickled here has to have its importable name

    child.main()

"""Child processes that belong together: started, waited for, restarted when they crash, stopped.

`tidemill up` and the demo run all processes this way. No child outlives the process that started
it.
"""

import contextlib
import http.client
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tidemill.errors import ConfigError
from tidemill.private_folder import make_private

FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
LOOK_S = 5.0  # between two looks whether a program still answers
HUNG_S = 30.0  # one that has answered, and has not for so long, hangs
SOUND_AFTER_S = 60.0  # a program that ran that long starts with the first backoff again
_POLL_S = 0.1
# The child has the process id of the shell; the subshell kills it when our end of the pipe closes.
_GUARDED = 'exec 3<&0; (read -r _ <&3 || kill -9 $$) & exec "$@" 3<&- </dev/null'

_PID = re.compile(rb'(?:"pid": ?|^tidemill_process_id )([0-9.e+]+)', re.MULTILINE)

OnText = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One process: its command, its environment, and how it is looked at.

    The checks get the process id of the child, because somebody else's program may answer at the
    address that the child was meant to have.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    is_ready: Callable[[int], bool] | None = None  # None: ready once it runs
    is_alive: Callable[[int], bool] | None = None  # None: as long as it runs
    address: str = ""


def tidemill_command(*arguments: str) -> list[str]:
    """Return the command line that runs ``tidemill`` with *arguments* in this environment."""
    return [sys.executable, "-m", "tidemill", *arguments]


def answers(
    url: str,
    *,
    pid: int | None = None,
    timeout_s: float = 1.0,
    tls: ssl.SSLContext | None = None,
    statuses: Container[int] = (200,),
) -> bool:
    """Return whether GET *url* has one of *statuses*, and is by the process *pid* if it is given.

    Pages name their process: JSON in `pid`, metrics in `tidemill_process_id`.
    """
    try:
        with urllib.request.urlopen(url, timeout=timeout_s, context=tls) as answer:
            status, body = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            status, body = error.code, error.read()
    except (urllib.error.URLError, OSError, http.client.HTTPException):
        return False
    named = _PID.search(body)
    is_its = pid is None or (named is not None and int(float(named[1])) == pid)
    return status in statuses and is_its


class Supervisor:
    """Runs programs while its block runs, and restarts those that end.

    Args:
        programs: the programs, in the order of their start.
        logs: the folder of their log files, `<name>.log`.
        say: called with a sentence about each crash and restart.
        stop_s: how long a child may take to stop before it is killed.
        hung_s: how long one that has answered may give no answer before it is killed.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        logs: Path,
        say: OnText,
        stop_s: float = 20.0,
        hung_s: float = HUNG_S,
    ) -> None:
        self._children = [
            _SupervisedProcess(program, logs / f"{program.name}.log") for program in programs
        ]
        self._say = say
        self._stop_s = stop_s
        self._hung_s = hung_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._restart_crashed, name="supervisor", daemon=True
        )

    @property
    def restarts(self) -> dict[str, int]:
        """How often each program was restarted."""
        return {child.program.name: child.restarts for child in self._children}

    @property
    def pids(self) -> dict[str, int | None]:
        """The process id of each program; None while it waits for its restart."""
        return {child.program.name: child.pid for child in self._children}

    def __enter__(self) -> Self:
        try:
            for child in self._children:
                child.start()
        except BaseException:
            self.stop()
            raise
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def wait_ready(self, timeout_s: float = 60.0, *, on_ready: OnText | None = None) -> None:
        """Return once every program is ready.

        Raises:
            ConfigError: one is not in time; with the last lines of its log.
        """
        deadline = time.monotonic() + timeout_s
        for child in self._children:
            check = child.program.is_ready
            while check is not None and not ((pid := child.pid) and check(pid)):
                if time.monotonic() > deadline:
                    raise child.not_ready(timeout_s)
                time.sleep(_POLL_S)
            child.note_answer(time.monotonic())
            if on_ready is not None:
                on_ready(child.program.name)

    def stop(self) -> None:
        """Stop all children for good, the last started first; kill those that do not stop."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        for child in reversed(self._children):
            child.terminate()
        deadline = time.monotonic() + self._stop_s
        for child in reversed(self._children):
            child.end(deadline)

    def _restart_crashed(self) -> None:
        while not self._stopping.wait(_POLL_S):
            for child in self._children:
                for text in (
                    child.kill_if_hung(time.monotonic(), self._hung_s),
                    child.restart_if_due(time.monotonic()),
                ):
                    if text:
                        self._say(text)


class _SupervisedProcess:
    """One program and its process; the supervisor calls it from one thread at a time."""

    def __init__(self, program: Program, log: Path) -> None:
        self.program = program
        self.restarts = 0
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._due_s: float | None = None
        self._look_s = 0.0
        self._answered_s: float | None = None
        self._backoff_s = FIRST_BACKOFF_S

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        make_private(self._log.parent)
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _GUARDED, self.program.name, *self.program.command],
                env={**os.environ, **self.program.env},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the parent alone, which stops all in order
            )
        self._started_s = time.monotonic()
        self._due_s = self._answered_s = None
        self._look_s = self._started_s

    def note_answer(self, now_s: float) -> None:
        """Note that it is ready: if it answers no more, it hangs."""
        self._answered_s = now_s

    def kill_if_hung(self, now_s: float, hung_s: float) -> str | None:
        """Kill it if it has answered, and has not for *hung_s*; return a sentence on it."""
        check, pid = self.program.is_alive, self.pid
        if check is None or pid is None or now_s < self._look_s:
            return None
        self._look_s = now_s + min(LOOK_S, hung_s / 3)
        if check(pid):
            self._answered_s = now_s
        if self._answered_s is None or now_s - self._answered_s < hung_s:
            return None
        self._kill_group()
        return f"{self.program.name} has not answered for {hung_s:g} s, so it was killed"

    def restart_if_due(self, now_s: float) -> str | None:
        """Notice that it has ended, or restart it after the backoff; return a sentence on it."""
        process = self._process
        if process is None or process.poll() is None:
            return None
        name = self.program.name
        if self._due_s is None:
            self._kill_group()
            if now_s - self._started_s >= SOUND_AFTER_S:
                self._backoff_s = FIRST_BACKOFF_S
            self._due_s = now_s + self._backoff_s
            backoff_s = self._backoff_s
            self._backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)
            status = _status(process.returncode)
            return f"{name} ended with {status}, see {self._log}; it restarts in {backoff_s:g} s"
        if now_s < self._due_s:
            return None
        self.restarts += 1
        self.start()
        return f"{name} was restarted (restart {self.restarts})"

    def terminate(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()

    def end(self, deadline: float) -> None:
        if self._process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._kill_group()

    def _kill_group(self) -> None:
        """Kill what is left of the process's group, such as the subshell."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def not_ready(self, timeout_s: float) -> ConfigError:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        last = "\n  ".join(lines[-8:]) or "(nothing)"
        return ConfigError(
            f"{self.program.name} is not ready after {timeout_s:g} s; its log ends with:\n  {last}",
            hint=f"read {self._log}",
        )


def _status(code: int) -> str:
    if code >= 0:
        return f"status {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"

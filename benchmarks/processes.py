"""Measured processes: pinned to one core, the broker and the load on another."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

MEASURED, LOAD = 0, -1  # indices in the list of cores this process may use


def core(index: int) -> set[int]:
    """Return the core at *index* of those this process was started with."""
    return {_CORES[index]}


_CORES = sorted(os.sched_getaffinity(0))
ALL_CORES = set(_CORES)


def stay_out_of_the_way() -> None:
    """Pin this process, and so the broker it starts, to the core that is not measured."""
    os.sched_setaffinity(0, core(LOAD))


@contextlib.contextmanager
def on_all_cores() -> Iterator[None]:
    """Allow this process, and those it starts in the block, every core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, ALL_CORES)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def broker_processes() -> list[psutil.Process]:
    """Return the brokers that this process has started; none if one was given."""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "kafka.Kafka" in child.cmdline()
    ]


def run_on(processes: Sequence[psutil.Process], cores: set[int]) -> None:
    """Let all threads of *processes* run on *cores*."""
    for process in processes:
        for thread in process.threads():
            with contextlib.suppress(ProcessLookupError):  # it has ended just now
                os.sched_setaffinity(thread.id, cores)


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    """Return the resources that *processes* have used so far."""
    times = [process.cpu_times() for process in processes]
    return sum(one.user + one.system for one in times)


@dataclass(frozen=True, slots=True)
class Usage:
    """The resources that a process has used since it was started."""

    cpu_s: float
    peak_mb: float


class Measured:
    """A child process on the measured core, or *cores*; ended when the block is left."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        cores: set[int] | None = None,
    ) -> None:
        self._command = list(command)
        self._cores = cores or core(MEASURED)
        self._env = {**os.environ, "POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", **(env or {})}
        self.process: subprocess.Popen[str]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command,
            env=self._env,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, self._cores),
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def usage(self) -> Usage:
        """Return the resources it has used so far, its start included."""
        times = psutil.Process(self.process.pid).cpu_times()
        return Usage(times.user + times.system, peak_mb(self.process.pid))

    def until(
        self, condition: Callable[[], bool], *, timeout_s: float, every_s: float = 0.1
    ) -> float:
        """Wait for *condition*; return the time it came true, by `time.perf_counter`.

        Raises:
            RuntimeError: the process ended before, or it took longer than *timeout_s*.
        """
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.process.poll() is not None:
                raise RuntimeError(f"it ended with {self.process.returncode}: {self._command}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"not there after {timeout_s} s: {self._command}")
            time.sleep(every_s)
        return time.perf_counter()

    def result(self) -> dict[str, float]:
        """Return the JSON it prints as its last line, once it has ended by itself.

        Raises:
            RuntimeError: it failed.
        """
        output, _ = self.process.communicate()
        if self.process.returncode:
            raise RuntimeError(f"it ended with {self.process.returncode}: {self._command}")
        found: dict[str, float] = json.loads(output.splitlines()[-1])
        return found


def peak_mb(pid: int) -> float:
    """Return the largest resident memory a process has had, in MB of 10^6 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"the kernel does not tell the memory of process {pid}")


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of this package."""
    return [sys.executable, "-m", f"benchmarks.{module}", *arguments]

"""Child processes that share a list of jobs: a line of JSON to the child, a line of JSON back.

It knows no job. A child is a command that calls `serve`; it ends when its input does, so none
outlives the process that started it by more than the job it is at.
"""

import contextlib
import json
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO

from tidemill.errors import LakeError, TidemillError

Job = Mapping[str, object]
JobResult = dict[str, object]

_STOP_S = 5.0


def serve(work: Callable[[Job], JobResult], jobs: Iterable[str], out: IO[str]) -> None:
    """Do every job of *jobs*, lines of JSON, and write a line to *out* for each: the child's half.

    A `TidemillError` is told to the parent; any other error ends the child.
    """
    for line in jobs:
        try:
            told: JobResult = {"done": work(json.loads(line))}
        except TidemillError as error:
            told = {"what": error.what, "hint": error.hint}
        out.write(json.dumps(told) + "\n")
        out.flush()


def answers(
    command: Sequence[str], jobs: Sequence[Job], *, processes: int, env: Mapping[str, str]
) -> Iterator[JobResult]:
    """Have children do *jobs* and yield each answer as it comes; they end when nobody asks on.

    Raises:
        LakeError: a job failed, or its child ended without an answer.
    """
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    told: queue.SimpleQueue[JobResult | TidemillError] = queue.SimpleQueue()
    children = [_PoolProcess(command, env, waiting, told) for _ in range(min(processes, len(jobs)))]
    try:
        for child in children:
            child.start()
        for _ in jobs:
            answer = told.get()
            if isinstance(answer, TidemillError):
                raise answer
            yield answer
    finally:
        for child in children:
            child.stop()


class _PoolProcess:
    """One process, and the thread that hands it jobs."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        waiting: "queue.SimpleQueue[Job]",
        told: "queue.SimpleQueue[JobResult | TidemillError]",
    ) -> None:
        self._command, self._env = command, env
        self._waiting, self._told = waiting, told
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._feed, name="crew", daemon=True)

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            env={**os.environ, **self._env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which ends its children
        )
        self._thread.start()

    def stop(self) -> None:
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._thread.join()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # a job on its way to a child that is gone
                    pipe.close()

    def _feed(self) -> None:
        while True:
            try:
                job = self._waiting.get_nowait()
            except queue.Empty:
                return
            told = self._asked(job)
            self._told.put(told)
            if isinstance(told, TidemillError):
                return

    def _asked(self, job: Job) -> JobResult | TidemillError:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        line = ""
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except (OSError, ValueError):  # it has ended, or is being ended
            pass
        if not line:
            return LakeError(
                f"a process ended with status {process.wait()} at {json.dumps(job)}",
                hint="what is done is kept: run the same command again; if memory was short, with "
                "fewer processes",
            )
        answer: JobResult = json.loads(line)
        if "done" in answer:
            done = answer["done"]
            assert isinstance(done, dict)
            return done
        return LakeError(str(answer["what"]), hint=str(answer["hint"]))

"""Child processes that share a list of jobs: a line of JSON to the child, a line of JSON back.

A child is a command that calls `serve`. It ends when its standard input does, so it outlives the
process that started it by one job at most.
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
    """Do each of *jobs*, a line of JSON, and write its result to *out*; to be called in a child.

    A `TidemillError` is sent to the parent; any other error ends the child.
    """
    for line in jobs:
        try:
            reply: JobResult = {"done": work(json.loads(line))}
        except TidemillError as error:
            reply = {"what": error.what, "hint": error.hint}
        out.write(json.dumps(reply) + "\n")
        out.flush()


def answers(
    command: Sequence[str], jobs: Sequence[Job], *, processes: int, env: Mapping[str, str]
) -> Iterator[JobResult]:
    """Let child processes do *jobs*; yield each result as it comes, in any order.

    The children end with this generator, whether it is exhausted or closed.

    Raises:
        LakeError: a job failed, or its child ended without a result.
    """
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    results: queue.SimpleQueue[JobResult | TidemillError] = queue.SimpleQueue()
    children = [
        _PoolProcess(command, env, waiting, results) for _ in range(min(processes, len(jobs)))
    ]
    try:
        for child in children:
            child.start()
        for _ in jobs:
            result = results.get()
            if isinstance(result, TidemillError):
                raise result
            yield result
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
        results: "queue.SimpleQueue[JobResult | TidemillError]",
    ) -> None:
        self._command, self._env = command, env
        self._waiting, self._results = waiting, results
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._feed, name="worker-pool", daemon=True)

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
                with contextlib.suppress(
                    OSError
                ):  # a job was being written to a child that has ended
                    pipe.close()

    def _feed(self) -> None:
        while True:
            try:
                job = self._waiting.get_nowait()
            except queue.Empty:
                return
            result = self._result_of(job)
            self._results.put(result)
            if isinstance(result, TidemillError):
                return

    def _result_of(self, job: Job) -> JobResult | TidemillError:
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
                f"a process ended with status {process.wait()} during {json.dumps(job)}",
                hint="run the same command again, it goes on with the rest; if memory was short, "
                "with fewer processes",
            )
        reply: JobResult = json.loads(line)
        if "done" in reply:
            done = reply["done"]
            assert isinstance(done, dict)
            return done
        return LakeError(str(reply["what"]), hint=str(reply["hint"]))

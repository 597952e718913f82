"""The streams worker as a process: it reads settings and loops, runs agents, and logs why it ends.

Exit codes: 0 after SIGTERM or SIGINT, 4 (`EXIT_REFUSED`) if a loop that it was told to run is
refused, or all are, and 2 or 3 after any other error, so that its supervisor starts it again. It
continues from the last commit. While no broker answers it waits, and does not end.

Longer than 300 lines because it wires all parts of a worker.
"""

import asyncio
import contextlib
import gc
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tidemill.errors import ContractError, TidemillError
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import TABLES
from tidemill.kafka import BadRecords, KafkaConfig, Outages, Writer, ensure_topics
from tidemill.schemas import topics
from tidemill.schemas.control import NewExamples
from tidemill.schemas.logs import Log
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import (
    SHARED_TOPICS,
    LoopTopic,
    newest,
    read_loop_topic,
    retired_error,
)
from tidemill.schemas.registry.choose import SchemaStore, schema_store
from tidemill.stop_signals import STOP_S, StopSignals
from tidemill.streams.commit.progress_table import ProgressTable
from tidemill.streams.consumer.app import GroupConfig, run_app
from tidemill.streams.deadletters.writer import DeadLetterWriter
from tidemill.streams.join.labels import LabelEngine
from tidemill.streams.metrics import WORK, StreamMetrics
from tidemill.streams.rekey.rekeyer import Rekeyer
from tidemill.streams.retirements import Retirements
from tidemill.streams.runtime.agents import StreamsApp
from tidemill.streams.runtime.audits import AuditTimer, LoopAudit
from tidemill.streams.runtime.close_requests import CloseRequests
from tidemill.streams.runtime.fit_loops import (
    FitLoops,
    LoopExaminer,
    RefusedLoop,
    StoppedLoop,
    WorkerHealth,
)
from tidemill.streams.runtime.loop_runner import LoopRunner
from tidemill.streams.runtime.worker_config import StreamsWorkerConfig, group_name
from tidemill.streams.state.spill_files import SpillFiles
from tidemill.streams.versions import NewVersions
from tidemill.work_log import WorkLog

__all__ = ["EXIT_REFUSED", "StreamsWorker", "StreamsWorkerConfig", "run_worker"]

logger = logging.getLogger(__name__)

# Frames and arrays make few cycles. With Python's default (2,000, 10, 10) the collector would scan
# all open rows again and again, and free nothing.
COLLECT = (200_000, 20, 20)

EXIT_REFUSED = 4
"""The exit code of a worker that refuses a loop that it was told to run, or all loops."""

_FIRST_PAUSE_S = 0.5
_LAST_PAUSE_S = 30.0  # between two restarts that follow one another
_SETTLED_S = 60.0  # a worker that ran for so long restarts without a longer pause


class _NothingToRunError(TidemillError):
    """Every loop of the worker is refused."""

    status = EXIT_REFUSED


def run_worker(config: StreamsWorkerConfig) -> int:
    """Run until a signal or an error ends it; log the reason and return the exit code."""
    return StreamsWorker(config).run()


class StreamsWorker:
    """One worker process: it builds the parts, and rebuilds them for a new version of a loop."""

    def __init__(self, config: StreamsWorkerConfig) -> None:
        self._config = config
        self._bad = BadRecords()
        self._metrics = StreamMetrics(self._bad)
        self._health = WorkerHealth(self._metrics, self._bad)
        self._engine = LabelEngine()
        self._stop = threading.Event()
        self._stopped: dict[str, StoppedLoop] = {}
        self._retirements = Retirements(config.kafka, Lake(config.lake))
        self._fit = FitLoops(prepared=(), refused={})

    def run(self) -> int:
        """Run until a signal or an error ends it; return the exit code.

        When a new version of a loop is published, everything is committed, and the worker
        continues with that version.
        """
        gc.set_threshold(*COLLECT)
        try:
            if self._config.metrics is not None:
                self._config.metrics.serve(self._metrics.registry, self._health.page)
            with WorkLog(self._metrics.registry, WORK):
                self._run_until_stopped()
        except TidemillError as error:
            logger.critical("the worker ends: %s", error)
            return error.status
        except Exception:  # the outermost loop: an exit code for the supervisor, a trace for people
            logger.critical("the worker ends by an error of its own", exc_info=True)
            return 2
        if refused := self._fit.refused.keys() & set(self._config.loops) - self._fit.running.keys():
            logger.critical("the worker ends as asked; it refused %s", ", ".join(sorted(refused)))
            return EXIT_REFUSED
        logger.info("the worker ends as asked")
        return 0

    def _run_until_stopped(self) -> None:
        """Run the loops, and again with what was published since, until a signal."""
        outages = Outages(self._config.kafka, "the worker")
        pause_s = _FIRST_PAUSE_S
        while not self._stop.is_set():
            started_s = time.monotonic()
            outages.waited(self._run_unless_stopped)
            if time.monotonic() - started_s > _SETTLED_S:
                pause_s = _FIRST_PAUSE_S
            with StopSignals(self._stop):
                if not self._stop.wait(pause_s):
                    logger.info("restarting with the newest published loops")
            pause_s = min(2 * pause_s, _LAST_PAUSE_S)

    def _run_unless_stopped(self) -> None:
        if not self._stop.is_set():
            asyncio.run(self._run())

    def open_tables(self, lake: Lake, loop: Loop) -> dict[str, ProgressTable]:
        """Return the tables of *loop*, which its examination has created."""
        return {name: lake.table(loop.loop, name) for name in TABLES}

    def new_runner(self, **parts: Any) -> LoopRunner:  # noqa: ANN401 (those of LoopRunner)
        """Return the runner of one loop."""
        return LoopRunner(**parts)

    async def _run(self) -> None:
        """Run the loops that are fit until a signal, or until other ones can be run."""
        config = self._config
        lake = Lake(config.lake)
        store = schema_store(config.kafka, config.env, self._bad)
        before = {each.loop.loop: each for each in self._fit.prepared}
        usable = {name: each for name, each in before.items() if name not in self._stopped}
        examiner = LoopExaminer(config.kafka, lake, store, self._engine, before=usable)
        ensure_topics(config.kafka, SHARED_TOPICS)
        topic = read_loop_topic(config.kafka, self._bad)
        self._examine(examiner, topic)
        with StopSignals(self._stop, within_s=STOP_S), contextlib.ExitStack() as last:
            dead_letters = DeadLetterWriter(config.kafka)
            last.callback(dead_letters.close)
            control = Writer(config.kafka)
            last.callback(control.close, 1.0)
            close_requests = CloseRequests(config.kafka, self._bad, config.trusted)
            last.callback(close_requests.close)
            news = self._news(examiner, topic)
            last.callback(news.close)
            folder = last.enter_context(tempfile.TemporaryDirectory(prefix="tidemill-faust-"))
            runners = [
                self.new_runner(
                    prepared=prepared,
                    tables=self.open_tables(lake, prepared.loop),
                    dead_letters=dead_letters,
                    metrics=self._metrics,
                    on_examples=_announce(control, prepared.loop.loop),
                    cadence=config.cadence,
                    newest=newest_version(config.kafka, prepared.loop.loop, self._bad),
                    spill_files=SpillFiles(config.scratch),
                    accept_bad=config.accept_bad,
                )
                for prepared in self._fit.prepared
            ]
            if config.audit_s > 0:
                audits = [
                    LoopAudit(lake, runner.loop, lambda runner=runner: runner.partitions)  # type: ignore[misc]
                    for runner in runners
                ]
                last.callback(AuditTimer(audits, self._metrics, every_s=config.audit_s).close)
            streams = StreamsApp(
                kafka=config.kafka,
                group=self._group(Path(folder)),
                runners=runners,
                metrics=self._metrics,
                end_of_stream=close_requests,
                cadence=config.cadence,
                rekeying=self._rekeying(store),
            )
            await run_app(streams.app, lambda: self._is_over(news, runners))
            self._note_stopped(runners)

    def _examine(self, examiner: LoopExaminer, topic: LoopTopic) -> None:
        """Choose the loops to run; log what is refused since the last time.

        Raises:
            ContractError: no loop is published.
            _NothingToRunError: all are refused.
        """
        asked = self._config.loops or sorted({name for name, _version in topic.loops})
        if not asked:
            raise ContractError(
                "no loop is published", hint="publish one: tidemill publish LOOP.yaml"
            )
        names = [name for name in asked if not self._retirements.is_over(topic.loops, name)]
        if not names:
            raise retired_error(newest(topic.loops, asked[0]))
        before = {str(each) for each in self._fit.refused.values()}
        self._fit = examiner.examine(topic.loops, names, self._stopped)
        self._health.show(self._fit)
        refused = list(self._fit.refused.values())
        if not self._fit.prepared:
            raise _nothing_to_run(refused)
        for each in refused:
            if str(each) not in before:
                running = self._fit.running.get(each.loop)
                logger.error("%s", each, extra={"loop": each.loop})
                logger.error(
                    "%s %s; all other loops go on",
                    each.loop,
                    "is not run" if running is None else f"goes on with version {running}",
                )

    def _news(self, examiner: LoopExaminer, topic: LoopTopic) -> NewVersions:
        fit, stopped = self._fit, self._stopped
        return NewVersions(
            self._config.kafka,
            examined=topic.loops,
            running=fit.running,
            wanted=self._config.loops,
            bad=self._bad,
            reexamine=lambda: (
                examiner.is_any_mended(topic.loops, fit, stopped)
                or any(self._retirements.is_over(topic.loops, name) for name in fit.running)
            ),
        )

    def _is_over(self, news: NewVersions, runners: Sequence[LoopRunner]) -> bool:
        stops = any(runner.superseded or runner.refusal is not None for runner in runners)
        return self._stop.is_set() or stops or news.published()

    def _note_stopped(self, runners: Sequence[LoopRunner]) -> None:
        """Remember which loops must not go on as they were."""
        for runner in runners:
            loop = runner.loop
            if runner.refusal is not None:
                before = self._stopped.get(loop.loop)
                self._stopped[loop.loop] = StoppedLoop.by_its_error(
                    loop.version, runner.refusal, before
                )
            elif runner.superseded:
                self._stopped[loop.loop] = StoppedLoop.by_newer_events(loop)

    def _rekeying(self, store: SchemaStore) -> dict[str, Callable[[Log], Rekeyer]]:
        kafka, loops = self._config.kafka, [each.loop for each in self._fit.prepared]
        return {loop.loop: _rekeyer(kafka, loop, store, self._bad) for loop in loops if loop.rekey}

    def _group(self, folder: Path) -> GroupConfig:
        return GroupConfig(
            group=self._config.group or group_name(self._config.loops),
            data=folder,
            session_timeout_s=self._config.session_timeout_s,
            fetch_records=self._config.fetch_records,
        )


def _nothing_to_run(refused: Sequence[RefusedLoop]) -> _NothingToRunError:
    """Return the error of a worker that refuses all its loops."""
    first, *others = refused
    also = "".join(f"; {each.error.what}" for each in others)
    return _NothingToRunError(f"{first.error.what}{also}", hint=first.error.hint)


def open_tables(lake: Lake, loop: Loop) -> dict[str, ProgressTable]:
    """Return the tables of *loop*, created if they are missing."""
    lake.create(loop)
    return {name: lake.table(loop.loop, name) for name in TABLES}


def _announce(control: Writer, loop_name: str) -> Callable[[int], None]:
    """Return a function that announces a new version of a loop's examples on the control topic."""

    def announce(version: int) -> None:
        key, value = NewExamples(loop_name, version).record()
        control.write(topics.CONTROL, key=key, value=value)

    return announce


def newest_version(
    kafka: KafkaConfig, loop_name: str, bad: BadRecords | None = None
) -> Callable[[], int]:
    """Return a function that reads the number of the newest version of a loop from the broker."""
    known = bad or BadRecords()
    return lambda: read_loop_topic(kafka, known).newest_number(loop_name)


def _rekeyer(
    kafka: KafkaConfig, loop: Loop, store: SchemaStore, bad: BadRecords
) -> Callable[[Log], Rekeyer]:
    latest = newest_version(kafka, loop.loop, bad)
    return lambda name: Rekeyer(kafka, loop, store, latest, name)

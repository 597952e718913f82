"""The streams worker as a process: it reads settings and loops, runs agents, and logs why it ends.

Exit codes: 0 after SIGTERM or SIGINT, 2 or 3 after an error, so that its supervisor starts it
again. It continues from the last commit. While no broker answers it waits, and does not end.
"""

import asyncio
import contextlib
import gc
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from tidemill.errors import ConfigError, ContractError, TidemillError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.layouts import TABLES
from tidemill.kafka import KafkaConfig, Outages, Writer, ensure_topics, partition_count
from tidemill.schemas import topics
from tidemill.schemas.logs import Log
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import SHARED_TOPICS, fetch_loops, joined_topics, newest
from tidemill.schemas.registry.choose import SchemaStore, schema_store
from tidemill.stopping import stop_in_time
from tidemill.streams.commit.progress_table import ProgressTable
from tidemill.streams.consumer.app import GroupConfig, run_app
from tidemill.streams.deadletters.writer import DeadLetterWriter
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.rekey.rekeyer import Rekeyer
from tidemill.streams.runtime.agents import StreamsApp
from tidemill.streams.runtime.audits import EVERY_S, AuditTimer, LoopAudit
from tidemill.streams.runtime.close_requests import CloseRequests
from tidemill.streams.runtime.commit_schedule import Cadence
from tidemill.streams.runtime.loop_runner import LoopRunner
from tidemill.streams.runtime.prepared_loop import PreparedLoop
from tidemill.streams.state.spill_files import SpillFiles, spill_folder
from tidemill.streams.versions import NewVersions

logger = logging.getLogger(__name__)

# Frames and arrays make few cycles. With Python's default (2,000, 10, 10) the collector would scan
# all open rows again and again, and free nothing.
COLLECT = (200_000, 20, 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamsWorkerConfig:
    """The settings of a streams worker."""

    kafka: KafkaConfig
    lake: LakeConfig
    loops: Sequence[str] = ()  # none: every loop that is published when it starts
    group: str | None = None  # None: see group_name
    metrics_port: int | None = None
    cadence: Cadence = field(default_factory=Cadence)
    session_timeout_s: float = 10.0
    fetch_records: int = 8_000
    audit_s: float = EVERY_S  # how often the worker audits the windows it closed; 0: never
    scratch: Path = field(default_factory=lambda: spill_folder({}))  # on a local disk
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # for the schema store

    @classmethod
    def from_env(cls, env: Mapping[str, str], loops: Sequence[str] = ()) -> Self:
        """Read KAFKA_*, TIDEMILL_LAKE and, if set, TIDEMILL_METRICS_PORT and the settings below.

        TIDEMILL_GROUP, TIDEMILL_COMMIT_S, TIDEMILL_COMMIT_ROWS, TIDEMILL_PATIENCE_S,
        TIDEMILL_SESSION_TIMEOUT_S, TIDEMILL_FETCH_RECORDS, TIDEMILL_AUDIT_S, TIDEMILL_SCRATCH.

        Raises:
            ConfigError: a setting is missing or no number.
        """
        plain = cls(
            kafka=KafkaConfig.from_env(env), lake=LakeConfig.from_env(env), loops=tuple(loops)
        )
        port = env.get("TIDEMILL_METRICS_PORT")
        default = plain.cadence
        return replace(
            plain,
            group=env.get("TIDEMILL_GROUP"),
            metrics_port=None if not port else int(_number(env, "TIDEMILL_METRICS_PORT", 0)),
            cadence=Cadence(
                every_s=_number(env, "TIDEMILL_COMMIT_S", default.every_s),
                rows=int(_number(env, "TIDEMILL_COMMIT_ROWS", default.rows)),
                patience_s=_number(env, "TIDEMILL_PATIENCE_S", default.patience_s),
            ),
            session_timeout_s=_number(env, "TIDEMILL_SESSION_TIMEOUT_S", plain.session_timeout_s),
            fetch_records=int(_number(env, "TIDEMILL_FETCH_RECORDS", plain.fetch_records)),
            audit_s=_number(env, "TIDEMILL_AUDIT_S", plain.audit_s),
            scratch=spill_folder(env),
            env=dict(env),
        )


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name)
    try:
        return float(text) if text else default
    except ValueError:
        raise ConfigError(f"{name} is {text!r}, no number", hint=f"say {default:g}") from None


def run_worker(config: StreamsWorkerConfig) -> int:
    """Run until a signal or an error ends it; log the reason and return the exit code."""
    return StreamsWorker(config).run()


class StreamsWorker:
    """One worker process: it builds the parts, and rebuilds them for a new version of a loop."""

    def __init__(self, config: StreamsWorkerConfig) -> None:
        self._config = config
        self._metrics = StreamMetrics()

    def run(self) -> int:
        """Run until a signal or an error ends it; return the exit code.

        When a new version of a loop is published, everything is committed, and the worker
        continues with that version.
        """
        gc.set_threshold(*COLLECT)
        try:
            if self._config.metrics_port is not None:
                self._metrics.serve(self._config.metrics_port)
            outages = Outages(self._config.kafka, "the worker")
            while not outages.waited(lambda: asyncio.run(self._run())):
                logger.info("restarting with the newest published loops")
        except TidemillError as error:
            logger.critical("the worker ends: %s", error)
            return error.status
        except Exception:  # the outermost loop: an exit code for the supervisor, a trace for people
            logger.critical("the worker ends by an error of its own", exc_info=True)
            return 2
        logger.info("the worker ends as asked")
        return 0

    def open_tables(self, lake: Lake, loop: Loop) -> dict[str, ProgressTable]:
        """Return the tables of *loop*, created if they are missing."""
        return open_tables(lake, loop)

    def new_runner(self, **parts: Any) -> LoopRunner:  # noqa: ANN401 (those of LoopRunner)
        """Return the runner of one loop."""
        return LoopRunner(**parts)

    async def _run(self) -> bool:
        """Return True after a signal, False when the worker has to restart with a newer version."""
        config = self._config
        loops = read_loops(config)
        lake = Lake(config.lake)
        store = schema_store(config.kafka, config.env)
        with contextlib.ExitStack() as last:
            dead_letters = DeadLetterWriter(config.kafka)
            last.callback(dead_letters.close)
            control = Writer(config.kafka)
            last.callback(control.close, 1.0)
            close_requests = CloseRequests(config.kafka)
            last.callback(close_requests.close)
            news = NewVersions(config.kafka, loops, any_loop=not config.loops)
            last.callback(news.close)
            folder = last.enter_context(tempfile.TemporaryDirectory(prefix="tidemill-faust-"))
            runners = [
                self.new_runner(
                    prepared=PreparedLoop.of(loop, store),
                    tables=self.open_tables(lake, loop),
                    dead_letters=dead_letters,
                    metrics=self._metrics,
                    on_examples=_announce(control, loop.loop),
                    cadence=config.cadence,
                    newest=newest_version(config.kafka, loop.loop),
                    spill_files=SpillFiles(config.scratch),
                )
                for loop in loops
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
                rekeying={
                    loop.loop: _rekeyer(config.kafka, loop, store) for loop in loops if loop.rekey
                },
            )
            return await run_app(
                streams.app,
                lambda: news.published() or any(runner.superseded for runner in runners),
                on_stop=stop_in_time,
            )

    def _group(self, folder: Path) -> GroupConfig:
        return GroupConfig(
            group=self._config.group or group_name(self._config.loops),
            data=folder,
            session_timeout_s=self._config.session_timeout_s,
            fetch_records=self._config.fetch_records,
        )


def read_loops(config: StreamsWorkerConfig) -> list[Loop]:
    """Return the newest version of each loop to work on, after a check of its topics.

    Raises:
        ContractError: a loop is not published, or its topics differ in partitions.
        BrokerError: the broker does not answer.
    """
    ensure_topics(config.kafka, SHARED_TOPICS)
    published = fetch_loops(config.kafka)
    names = config.loops or sorted({name for name, _version in published})
    if not names:
        raise ContractError("no loop is published", hint="publish one: tidemill publish LOOP.yaml")
    loops = [newest(published, name) for name in names]
    for loop in loops:
        counts = {
            topic: partition_count(config.kafka, topic) for topic in joined_topics(loop).values()
        }
        if set(counts.values()) != {loop.partitions}:
            actual = ", ".join(f"{topic} has {count or 'none'}" for topic, count in counts.items())
            raise ContractError(
                f"loop {loop.loop} has {loop.partitions} partitions, but {actual}",
                hint="a decision and its feedback must share a partition: recreate these topics "
                "with that number, or publish the loop under a new name, with rekey: true if its "
                "feedback has other keys or another number of partitions",
            )
    return loops


def group_name(loops: Sequence[str]) -> str:
    """Return the consumer group of a worker that was asked for *loops*; none is all of them.

    It does not depend on how many loops are published, or the lag of a group would grow for ever
    from the next loop on. Workers for other loops are in another group.
    """
    return f"tidemill-{'+'.join(sorted(set(loops)))}" if loops else "tidemill-streams"


def open_tables(lake: Lake, loop: Loop) -> dict[str, ProgressTable]:
    """Return the tables of *loop*, created if they are missing."""
    lake.create(loop)
    return {name: lake.table(loop.loop, name) for name in TABLES}


def _announce(control: Writer, loop_name: str) -> Callable[[int], None]:
    """Return a function that announces a new version of a loop's examples on the control topic."""
    key = loop_name.encode()

    def announce(version: int) -> None:
        control.write(topics.CONTROL, key=key, value=str(version).encode())

    return announce


def newest_version(kafka: KafkaConfig, loop_name: str) -> Callable[[], int]:
    """Return a function that reads the newest published version of a loop from the broker."""
    return lambda: newest(fetch_loops(kafka), loop_name).version


def _rekeyer(kafka: KafkaConfig, loop: Loop, store: SchemaStore) -> Callable[[Log], Rekeyer]:
    latest = newest_version(kafka, loop.loop)
    return lambda name: Rekeyer(kafka, loop, store, latest, name)

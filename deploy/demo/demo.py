"""The demo: a year of real flights through the whole loop, from an empty machine to a model.

It starts what a user starts (Kafka and the processes) and calls what a user calls (the public
client). The flights and their loop come from `flights.py`, the figures from the lake.
"""

import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.text import Text

from tidemill.access import ACCESS_SETTINGS
from tidemill.deploy.demo import report
from tidemill.deploy.demo.flights import LOOP_FILE, load_flights
from tidemill.deploy.demo.model_watcher import ModelWatcher
from tidemill.deploy.demo.playback import Playback, PlaybackCounts
from tidemill.deploy.demo.progress import PlaybackProgress
from tidemill.deploy.demo.report import Report
from tidemill.deploy.demo.shards import Past
from tidemill.deploy.local.folder_lock import NAME, FolderLock
from tidemill.deploy.local.kafka import RunningKafka, find_kafka
from tidemill.deploy.local.stack import Ports, Stack
from tidemill.deploy.local.supervisor import Supervisor
from tidemill.deploy.local.up import look_after_kafka, print_addresses
from tidemill.errors import ConfigError, LakeError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.layouts import DECISIONS, EXAMPLES
from tidemill.kafka import KafkaConfig, partition_count
from tidemill.monitor.ledger import is_balanced, ledger
from tidemill.schemas import topics
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.labels import checked_loop
from tidemill.schemas.models.signing import SigningKey, TrustedKeys
from tidemill.schemas.published import publish_loop
from tidemill.schemas.registry.choose import schema_store
from tidemill.streams.runtime.close_requests import request_close
from tidemill.trainers.registry import Registry

CLOSE_TIMEOUT_S = 120.0  # for the last windows to become examples
TRAIN_TIMEOUT_S = 60.0  # for the trainer to learn from the last examples
_QUIET_S = 10.0  # a trainer without a new model for so long has ended; no training takes longer
_POLL_S = 0.5
_MARKER = ".tidemill-demo"  # a file in a folder that the next demo may empty


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """What to play, and where to write the report."""

    folder: Path = Path(".tidemill/demo")
    report: Path = Path("demo-report.json")
    days: int | None = None  # None: the whole year
    keep: bool = False
    servers: int = 2
    loop_file: Path | None = None  # None: the flights' own
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


def load_past(days: int | None) -> Past:
    """Return the flights of the first *days*, or of the whole year.

    Raises:
        ConfigError: the package with the data is not installed.
    """
    flights = load_flights()
    if days is not None:
        flights = flights.first_days(days)
    return Past(decisions=flights.decisions, feedback=flights.arrivals, kind="arrived")


def run_demo(
    config: DemoConfig,
    console: Console,
    *,
    on_report: Callable[[Report], None] = lambda _report: None,
) -> Report:
    """Run the demo and return its report; with `keep`, return only when interrupted.

    The report goes to *on_report* before the processes are stopped.

    Raises:
        TidemillError: something could not be started or did not answer; everything is stopped.
    """
    started = time.monotonic()
    with ExitStack() as running:
        _empty(config.folder, running)
        kafka = _start_kafka(config, console, running)
        loop = _publish(config.loop_file or LOOP_FILE, kafka.config, config, console)
        stack = _stack(config, kafka.config, loop)
        supervisor = Supervisor(stack.programs(), logs=stack.logs, say=console.log)
        past = load_past(config.days)
        watcher = ModelWatcher(kafka.config, loop.loop, TrustedKeys.from_env(stack.keys()))
        running.callback(watcher.close)
        running.enter_context(supervisor)
        supervisor.wait_ready()
        _step(console, 3, f"Ready: {', '.join(supervisor.pids)}; logs in {stack.logs}")
        run = _DemoRun(config, console, kafka, loop, stack, supervisor, watcher, past)
        found = run.play(started)
        on_report(found)
        config.report.write_text(json.dumps(found.to_json(), indent=2) + "\n")
        _step(console, 6, f"The same figures are in {config.report}")
        if config.keep:
            _run_until_interrupted(stack, kafka, console)
    return found


def _run_until_interrupted(stack: Stack, kafka: RunningKafka, console: Console) -> None:
    print_addresses(stack, console)
    with suppress(KeyboardInterrupt):
        look_after_kafka(kafka, console, threading.Event())


def _start_kafka(config: DemoConfig, console: Console, running: ExitStack) -> RunningKafka:
    with console.status("Looking for Kafka: yours, Docker's, or one of our own"):
        kafka = find_kafka(config.env, data=config.folder / "kafka")
    running.callback(kafka.stop)
    where = kafka.config.bootstrap
    _step(console, 1, f"Kafka ({kafka.kind}) at {where} after {kafka.start_s:.1f} s")
    return kafka


def _publish(path: Path, kafka: KafkaConfig, config: DemoConfig, console: Console) -> Loop:
    loop = checked_loop(path)
    plain, number = loop.model_dump(mode="json"), 1
    while partition_count(kafka, topics.decisions(loop.loop)) is not None:
        number += 1  # the events of an earlier demo must not mix with those of this one
        loop = Loop.model_validate({**plain, "loop": f"{plain['loop']}-{number}"})
    publish_loop(kafka, loop, schema_store(kafka, config.env))
    _step(console, 2, f"{path.name} is legal; published as {loop.loop} v{loop.version}")
    return loop


def _stack(config: DemoConfig, kafka: KafkaConfig, loop: Loop) -> Stack:
    return Stack(
        kafka=kafka,
        lake=str((config.folder / "lake").resolve()),
        folder=config.folder.resolve(),
        ports=Ports.free(config.servers),
        loops=[loop.loop],
        env={
            name: value
            for name, value in config.env.items()
            if name.startswith("TIDEMILL_") and name not in ACCESS_SETTINGS
        },
    )


def _step(console: Console, number: int, text: str) -> None:
    console.print(Text.assemble((str(number), "bold"), " ", text), soft_wrap=True)


def _empty(folder: Path, running: ExitStack) -> None:
    """Own and empty the folder of the last demo; refuse any other that is not empty."""
    marker = folder / _MARKER
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise ConfigError(
            f"{folder} is not empty, and no demo wrote it", hint="name another one with --folder"
        )
    hint = "wait for its end, or name another folder with --folder"
    running.enter_context(FolderLock(folder, use="the folder of a demo that runs", hint=hint))
    for each in folder.iterdir():
        if each.is_dir():
            shutil.rmtree(each, ignore_errors=True)
        elif each.name != NAME:
            each.unlink()
    marker.touch()


@dataclass(frozen=True, slots=True)
class _DemoRun:
    """One playback and its report."""

    config: DemoConfig
    console: Console
    kafka: RunningKafka
    loop: Loop
    stack: Stack
    supervisor: Supervisor
    watcher: ModelWatcher
    past: Past

    def play(self, started: float) -> Report:
        console, past = self.console, self.past
        _step(
            console,
            4,
            f"{past.decisions.height:,} flights ask for a decision,"
            f" {past.feedback.height:,} arrivals are reported, in the order of that year",
        )
        with PlaybackProgress(console, past, lambda: self.watcher.live) as progress:
            playback = Playback(
                self.loop.loop,
                past,
                self.stack.server_urls,
                partitions=self.loop.partitions,
                on_step=progress.step,
            )
            counts = playback.run()
        with console.status("The last windows close, the last models are trained"):
            self._await_examples()
            self._await_models()
        live = len(self.watcher.journeys)
        _step(console, 5, f"{live} models went live one after the other, without a restart")
        return self._report(counts, playback.wall_s, time.monotonic() - started)

    def _lake(self) -> Lake:
        return Lake(LakeConfig(root=self.stack.lake))

    def _await_examples(self) -> None:
        """Close the last windows, and wait until every decision has ended."""
        last = self.past.decisions["at"].max()
        assert isinstance(last, datetime)
        request_close(
            self.kafka.config, self.loop.loop, last, SigningKey.from_env(self.stack.keys())
        )
        wanted, lake = self.past.decisions.height, self._lake()
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        while (found := self._ended(lake)) < wanted:
            if time.monotonic() > deadline:
                raise LakeError(
                    f"only {found:,} of {wanted:,} decisions have ended in {CLOSE_TIMEOUT_S:g} s",
                    hint=f"read {self.stack.logs / 'worker.log'}",
                )
            time.sleep(_POLL_S)

    def _ended(self, lake: Lake) -> int:
        """Return how many decisions became examples, or ended as late or duplicate."""
        if not lake.has_table(self.loop.loop, EXAMPLES):
            return 0
        tables = (
            (EXAMPLES, pl.lit(True)),
            (DECISIONS, pl.col("verdict").is_not_null()),
        )
        counts = (
            lake.table(self.loop.loop, name).scan().filter(chosen).select(pl.len()).collect().item()
            for name, chosen in tables
        )
        return sum(counts)

    def _await_models(self) -> None:
        """Wait until the trainer has made no new model for a while."""
        registry = Registry(self._lake(), self.loop.loop)
        deadline = time.monotonic() + TRAIN_TIMEOUT_S
        count, since = -1, time.monotonic()
        while time.monotonic() < deadline and time.monotonic() - since < _QUIET_S:
            now = len(registry.models())
            if now != count:
                count, since = now, time.monotonic()
            time.sleep(_POLL_S)

    def _report(self, counts: PlaybackCounts, playback_s: float, wall_s: float) -> Report:
        lake = self._lake()
        registry = Registry(lake, self.loop.loop)
        accounts = ledger(lake, self.loop)
        swaps = [journey.swap_s(self.config.servers) for journey in self.watcher.journeys.values()]
        return Report(
            loop=self.loop.loop,
            kafka={"kind": self.kafka.kind, "start_s": self.kafka.start_s},
            decisions=counts.decisions,
            feedback=counts.feedback,
            examples=report.ends_of(accounts, DECISIONS),
            ledger_balanced=is_balanced(accounts),
            duplicates=report.duplicates(lake, self.loop),
            models=report.models(registry),
            months=report.months(lake, self.loop, registry),
            events_per_second=counts.events / playback_s,
            decision_ms=report.quantiles_ms(counts.latencies_s),
            close_to_example_s=report.close_to_example(self.stack.metrics_url),
            publish_to_swap_s=max((swap for swap in swaps if swap is not None), default=None),
            wall_s=wall_s,
            sources=dict(counts.sources),
            restarts=self.supervisor.restarts,
        )

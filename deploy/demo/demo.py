"""The demo: a year of real flights through the whole loop, from an empty machine to a model.

It starts what a user would start and calls what a user would call: Kafka, the processes, the
public client. The flights and their loop come from `flights.py`, the figures from the lake.
"""

import json
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import polars as pl
from rich.console import Console

from tidemill.cli.commands.loop import checked_loop
from tidemill.deploy.demo import report
from tidemill.deploy.demo.flights import LOOP_FILE, load_flights
from tidemill.deploy.demo.model_watcher import ModelWatcher
from tidemill.deploy.demo.playback import Playback, PlaybackCounts
from tidemill.deploy.demo.progress import PlaybackProgress
from tidemill.deploy.demo.report import Report
from tidemill.deploy.demo.shards import Past
from tidemill.deploy.local.kafka import RunningKafka, find_kafka
from tidemill.deploy.local.stack import Ports, Stack
from tidemill.deploy.local.supervisor import Supervisor
from tidemill.deploy.local.up import tell_addresses, watch_kafka
from tidemill.errors import ConfigError, LakeError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.layouts import DECISIONS, EXAMPLES
from tidemill.kafka import KafkaConfig, partition_count
from tidemill.monitor.ledger import is_balanced, ledger
from tidemill.schemas import topics
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.signing import TrustedKeys
from tidemill.schemas.published import publish_loop
from tidemill.schemas.registry.choose import schema_store
from tidemill.streams.runtime.close_requests import request_close
from tidemill.trainers.registry import Registry

LANDED_S = 120.0  # how long the last windows may take to become examples
LEARNED_S = 60.0  # how long the trainer may take to come to rest after the last example
_QUIET_S = 10.0  # a trainer that made nothing for so long is at rest; trainings are shorter
_POLL_S = 0.5
_MARK = ".tidemill-demo"  # in a folder that the next demo may empty


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """What to play, and where to leave what comes of it."""

    folder: Path = Path(".tidemill/demo")
    report: Path = Path("demo-report.json")
    days: int | None = None  # None: the whole year
    keep: bool = False
    servers: int = 2
    loop_file: Path | None = None  # None: the flights' own
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


def load_past(days: int | None) -> Past:
    """Return the flights of the first *days*, by default of the year.

    Raises:
        ConfigError: the package with the data is not installed.
    """
    flights = load_flights()
    if days is not None:
        flights = flights.first_days(days)
    return Past(decisions=flights.decisions, feedback=flights.arrivals, kind="arrived")


def run_demo(config: DemoConfig, console: Console) -> Report:
    """Run all of it; with `keep`, return only when interrupted.

    Raises:
        TidemillError: something could not be started or did not answer; all is stopped then.
    """
    started = time.monotonic()
    _empty(config.folder)
    with ExitStack() as running:
        kafka = _start_kafka(config, console, running)
        loop = _publish(config.loop_file or LOOP_FILE, kafka.config, config, console)
        stack = _stack(config, kafka.config, loop)
        supervisor = Supervisor(stack.programs(), logs=stack.logs, say=console.log)
        trusted = TrustedKeys.from_env(stack.keys())
        past = load_past(config.days)
        watch = ModelWatcher(kafka.config, loop.loop, trusted)
        running.callback(watch.close)
        running.enter_context(supervisor)
        supervisor.wait_ready()
        names = ", ".join(supervisor.pids)
        _step(console, 3, f"Processes are ready: {names}; logs in {stack.logs}")
        run = _DemoRun(config, console, kafka, loop, stack, supervisor, watch, past)
        played = run.play(started)
        report.show(played, console)
        config.report.write_text(json.dumps(played.to_json(), indent=2) + "\n")
        _step(console, 6, f"The same in {config.report}")
        if config.keep:
            tell_addresses(stack, console)
            with suppress(KeyboardInterrupt):
                watch_kafka(kafka, console)
    return played


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
        number += 1  # what was played before must not meet what is played now
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
        env={name: value for name, value in config.env.items() if name.startswith("TIDEMILL_")},
    )


def _step(console: Console, number: int, text: str) -> None:
    console.print(f"[bold]{number}[/] {text}", soft_wrap=True)


def _empty(folder: Path) -> None:
    """Empty the folder of the last demo; refuse any other that holds something."""
    mark = folder / _MARK
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise ConfigError(
            f"{folder} is not empty, and not of a demo", hint="name another one with --folder"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mark.touch()


@dataclass(frozen=True, slots=True)
class _DemoRun:
    """One playback and what is counted after it."""

    config: DemoConfig
    console: Console
    kafka: RunningKafka
    loop: Loop
    stack: Stack
    supervisor: Supervisor
    watch: ModelWatcher
    past: Past

    def play(self, started: float) -> Report:
        console, past = self.console, self.past
        _step(
            console,
            4,
            f"{past.decisions.height:,} flights ask for a decision,"
            f" {past.feedback.height:,} arrivals are told, as they happened",
        )
        with PlaybackProgress(console, past, lambda: self.watch.live) as progress:
            playback = Playback(
                self.loop.loop,
                past,
                self.stack.server_urls,
                partitions=self.loop.partitions,
                on_step=progress.step,
            )
            seen = playback.run()
        with console.status("The last windows close, the last models train"):
            self._close()
            self._learn()
        live = len(self.watch.journeys)
        _step(console, 5, f"{live} models went live one after the other, without a restart")
        return self._report(seen, playback.wall_s, time.monotonic() - started)

    def _lake(self) -> Lake:
        return Lake(LakeConfig(root=self.stack.lake))

    def _close(self) -> None:
        """End the playback for the join, and wait until every decision has come to its end."""
        last = self.past.decisions["at"].max()
        assert isinstance(last, datetime)
        request_close(self.kafka.config, self.loop.loop, last)
        wanted, lake = self.past.decisions.height, self._lake()
        deadline = time.monotonic() + LANDED_S
        while (found := self._ended(lake)) < wanted:
            if time.monotonic() > deadline:
                raise LakeError(
                    f"of {wanted:,} decisions {found:,} have ended {LANDED_S:g} s after the last",
                    hint=f"read {self.stack.logs / 'worker.log'}",
                )
            time.sleep(_POLL_S)

    def _ended(self, lake: Lake) -> int:
        """Return how many decisions became examples or were refused as late or doubled."""
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

    def _learn(self) -> None:
        """Wait until the trainer has made nothing new for a while."""
        registry = Registry(self._lake(), self.loop.loop)
        deadline = time.monotonic() + LEARNED_S
        made, since = -1, time.monotonic()
        while time.monotonic() < deadline and time.monotonic() - since < _QUIET_S:
            now = len(registry.models())
            if now != made:
                made, since = now, time.monotonic()
            time.sleep(_POLL_S)

    def _report(self, seen: PlaybackCounts, playback_s: float, wall_s: float) -> Report:
        lake = self._lake()
        registry = Registry(lake, self.loop.loop)
        accounts = ledger(lake, self.loop)
        swaps = [journey.swap_s(self.config.servers) for journey in self.watch.journeys.values()]
        return Report(
            loop=self.loop.loop,
            kafka={"kind": self.kafka.kind, "start_s": self.kafka.start_s},
            decisions=seen.decisions,
            feedback=seen.feedback,
            examples=report.ends_of(accounts, DECISIONS),
            ledger_balanced=is_balanced(accounts),
            duplicates=report.duplicates(lake, self.loop),
            models=report.models(registry),
            months=report.months(lake, self.loop, registry),
            events_per_second=seen.events / playback_s,
            decision_ms=report.quantiles_ms(seen.latencies_s),
            close_to_example_s=report.close_to_example(self.stack.metrics_url),
            publish_to_swap_s=max((swap for swap in swaps if swap is not None), default=None),
            wall_s=wall_s,
            sources=dict(seen.sources),
            restarts=self.supervisor.restarts,
        )

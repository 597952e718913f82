"""`tidemill up`: all processes of some loops on this machine, and Kafka if there is none."""

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from tidemill.deploy.local.folder_lock import FolderLock
from tidemill.deploy.local.kafka import RunningKafka, find_kafka
from tidemill.deploy.local.stack import Ports, Stack
from tidemill.deploy.local.supervisor import HUNG_S, LOOK_S, Supervisor
from tidemill.errors import ContractError, TidemillError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.kafka import KafkaConfig, ensure_topics
from tidemill.kafka.outage import is_away
from tidemill.schemas.loop.labels import checked_loops
from tidemill.schemas.published import SHARED_TOPICS, fetch_loops, publish_loop, used_loops
from tidemill.schemas.registry.choose import schema_store

_POLL_S = 1.0
_STOP_S, _KAFKA_STOP_S = 6.0, 3.5  # of the ten seconds that a supervisor of ours gives; then a kill


@dataclass(frozen=True, slots=True, kw_only=True)
class UpConfig:
    """What to run, and with which ports and folder."""

    files: Sequence[Path] = ()  # to publish first; empty: all loops, those published later too
    port: int = 8700
    servers: int = 1
    folder: Path = Path(".tidemill/up")
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


def run_up(config: UpConfig, console: Console) -> None:
    """Run loops until interrupted.

    Raises:
        KeyboardInterrupt: Ctrl-C; all processes are stopped then.
        ContractError: there is no loop to run.
        TidemillError: something could not be started.
    """
    loops = checked_loops(config.files)
    with ExitStack() as running:
        running.enter_context(_folder_lock(config.folder))
        with console.status("Looking for Kafka: yours, Docker's, or one of our own"):
            kafka = find_kafka(config.env, data=config.folder / "kafka")
        running.callback(kafka.stop, timeout_s=_KAFKA_STOP_S)
        console.print(f"Kafka ({kafka.kind}) at {kafka.config.bootstrap}")
        root = config.env.get("TIDEMILL_LAKE") or str((config.folder / "lake").resolve())
        lake = Lake(LakeConfig.from_env({**config.env, "TIDEMILL_LAKE": root}))
        for loop in loops:
            store = schema_store(kafka.config, config.env)
            publish_loop(kafka.config, loop, store, prepare=lake.create)
        if not loops:
            _check_published(kafka.config)
        ports = Ports.from_first(config.port, config.servers)
        ports.check_free()
        stack = Stack(
            kafka=kafka.config,
            lake=root,
            folder=config.folder.resolve(),
            ports=ports,
            loops=[loop.loop for loop in loops],
            env={k: v for k, v in config.env.items() if k.startswith("TIDEMILL_")},
        )
        supervisor = Supervisor(stack.programs(), logs=stack.logs, say=console.log, stop_s=_STOP_S)
        running.enter_context(supervisor)
        supervisor.wait_ready(on_ready=lambda name: console.print(f"{name} is ready"))
        print_addresses(stack, console)
        look_after_kafka(kafka, console, threading.Event())


def _folder_lock(folder: Path) -> FolderLock:
    return FolderLock(
        folder,
        use="the folder of a `tidemill up` that runs",
        hint="stop that one, or name another folder with --folder, and ports with --port",
    )


def _check_published(kafka: KafkaConfig) -> None:
    """Do nothing if there is a loop to run."""
    ensure_topics(kafka, SHARED_TOPICS)
    if not used_loops(fetch_loops(kafka)):
        raise ContractError(
            "no loop is published, so there is nothing to run",
            hint="write one with `tidemill init`, then: tidemill up loop.yaml",
        )


def print_addresses(stack: Stack, console: Console) -> None:
    """Print where the processes listen and write, and the settings for other commands."""
    console.print("All of it runs until Ctrl-C:")
    for name, value in [
        ("decisions", " ".join(stack.server_urls)),
        ("monitor", stack.monitor_url),
        ("metrics", stack.metrics_url),
        ("logs", str(stack.logs)),
        ("for tidemill's commands", f"export KAFKA_BOOTSTRAP_SERVERS={stack.kafka.bootstrap}"),
        ("", f"export TIDEMILL_LAKE={stack.lake}"),
        *(("", f"export {name}={value}") for name, value in stack.keys().items()),
    ]:
        console.print(f"  {name:<24}{value}", soft_wrap=True)


def look_after_kafka(
    kafka: RunningKafka, console: Console, stop: threading.Event, *, hung_s: float = HUNG_S
) -> None:
    """Restart an embedded Kafka whenever it ends by itself or hangs, until *stop* is set."""
    answered_s = looked_s = time.monotonic()
    while not stop.wait(_POLL_S):
        if kafka.embedded is None:
            continue
        now_s = time.monotonic()
        if now_s - looked_s >= min(LOOK_S, hung_s / 3):
            looked_s = now_s
            answered_s = answered_s if is_away(kafka.config) else now_s
        if kafka.embedded.running and now_s - answered_s < hung_s:
            continue
        console.log("Kafka ended by itself, or hangs; it restarts")
        try:
            kafka.embedded.restart()
        except TidemillError as error:
            console.log(f"Kafka does not start: {error}")
        answered_s = time.monotonic()

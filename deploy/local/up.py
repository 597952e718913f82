"""`tidemill up`: all processes of some loops on this machine, and Kafka if there is none."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Never

from rich.console import Console

from tidemill.deploy.local.kafka import RunningKafka, find_kafka
from tidemill.deploy.local.stack import Ports, Stack
from tidemill.deploy.local.supervisor import Supervisor
from tidemill.errors import ContractError, TidemillError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.kafka import KafkaConfig, ensure_topics
from tidemill.schemas.loop.labels import checked_loop
from tidemill.schemas.published import SHARED_TOPICS, fetch_loops, publish_loop
from tidemill.schemas.registry.choose import schema_store

_POLL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UpConfig:
    """What to run, and with which ports and folder."""

    files: Sequence[Path] = ()  # to publish first; empty: run all loops that are published
    port: int = 8700
    servers: int = 1
    folder: Path = Path(".tidemill/up")
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


def run_up(config: UpConfig, console: Console) -> Never:
    """Run loops until interrupted.

    Raises:
        KeyboardInterrupt: Ctrl-C; all processes are stopped then.
        ContractError: there is no loop to run.
        TidemillError: something could not be started.
    """
    loops = [checked_loop(path) for path in config.files]
    config.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as running:
        with console.status("Looking for Kafka: yours, Docker's, or one of our own"):
            kafka = find_kafka(config.env, data=config.folder / "kafka")
        running.callback(kafka.stop)
        console.print(f"Kafka ({kafka.kind}) at {kafka.config.bootstrap}")
        root = config.env.get("TIDEMILL_LAKE") or str((config.folder / "lake").resolve())
        lake = Lake(LakeConfig.from_env({**config.env, "TIDEMILL_LAKE": root}))
        for loop in loops:
            store = schema_store(kafka.config, config.env)
            publish_loop(kafka.config, loop, store, prepare=lake.create)
        stack = Stack(
            kafka=kafka.config,
            lake=root,
            folder=config.folder.resolve(),
            ports=Ports.from_first(config.port, config.servers),
            loops=[loop.loop for loop in loops] or _published(kafka.config),
            env={k: v for k, v in config.env.items() if k.startswith("TIDEMILL_")},
        )
        supervisor = Supervisor(stack.programs(), logs=stack.logs, say=console.log)
        running.enter_context(supervisor)
        supervisor.wait_ready(on_ready=lambda name: console.print(f"{name} is ready"))
        print_addresses(stack, console)
        restart_kafka_when_it_ends(kafka, console)


def _published(kafka: KafkaConfig) -> list[str]:
    ensure_topics(kafka, SHARED_TOPICS)
    names = sorted({name for name, _version in fetch_loops(kafka)})
    if not names:
        raise ContractError(
            "no loop is published, so there is nothing to run",
            hint="write one with `tidemill init`, then: tidemill up loop.yaml",
        )
    return names


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
    ]:
        console.print(f"  {name:<24}{value}", soft_wrap=True)


def restart_kafka_when_it_ends(kafka: RunningKafka, console: Console) -> Never:
    """Restart an embedded Kafka whenever it ends by itself, until interrupted."""
    while True:
        time.sleep(_POLL_S)
        if kafka.embedded is None or kafka.embedded.running:
            continue
        console.log("Kafka ended by itself; it restarts")
        try:
            kafka.embedded.restart()
        except TidemillError as error:
            console.log(f"Kafka does not start: {error}")

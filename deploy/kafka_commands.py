"""`tidemill kafka` and `tidemill lag`: parse, call one function of a room, print.

Each command imports its room when it runs, so that `tidemill --help` loads none of them.
"""

import os
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer


def kafka(
    data: Annotated[Path, typer.Option(help="Where an embedded Kafka keeps its data.")] = Path(
        ".tidemill/kafka"
    ),
) -> None:
    """Find a Kafka or start one, say where it is, and keep it until Ctrl-C."""
    from tidemill.deploy.embedded import find_kafka
    from tidemill.errors import BrokerError

    running = find_kafka(os.environ, data=data)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    typer.echo(f"Kafka ({running.kind}) answers after {running.start_s:.1f} s")
    typer.echo(f"export KAFKA_BOOTSTRAP_SERVERS={running.config.bootstrap}")
    if running.embedded is None:
        return
    try:
        while not stop.wait(0.5):
            if not running.embedded.running:
                raise BrokerError("Kafka ended by itself", hint=f"read {data / 'kafka.log'}")
    finally:
        running.stop()


def lag(
    group: Annotated[str | None, typer.Argument(help="One consumer group; all by default.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Read again and again.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between readings.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a reading.")] = False,
    limit_messages: Annotated[
        int | None, typer.Option(help="Most a partition may be behind.")
    ] = None,
    limit_seconds: Annotated[float | None, typer.Option(help="Oldest a record may be.")] = None,
) -> int:
    """Show how far consumer groups are behind, in messages and seconds; exit 1 over a limit."""
    from tidemill.kafka import KafkaConfig
    from tidemill.monitor.lag import LagReader
    from tidemill.monitor.lag_table import Limits, show, watch_lag

    reader = LagReader(KafkaConfig.from_env(os.environ))
    limits = Limits(messages=limit_messages, seconds=limit_seconds)
    if watch:
        return watch_lag(lambda: reader.read(group), limits, as_json=as_json, every_s=every)
    return show(reader.read(group), limits, as_json=as_json)

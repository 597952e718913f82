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
    from tidemill.deploy.local.kafka import find_kafka
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
    group: Annotated[
        str | None,
        typer.Argument(help="One consumer group, or with --labels one loop; all by default."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Read again and again.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between readings.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a reading.")] = False,
    limit_messages: Annotated[
        int | None, typer.Option(help="Most a partition may be behind.")
    ] = None,
    limit_seconds: Annotated[float | None, typer.Option(help="Oldest a record may be.")] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="Show how long after decisions feedback comes instead.")
    ] = False,
    since: Annotated[
        str | None, typer.Option("--from", help="With --labels: decisions made from then on.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", help="With --labels: decisions made before then.")
    ] = None,
) -> int:
    """Show how far consumer groups are behind, in messages and seconds; exit 1 over a limit.

    With --labels the lake is asked how long feedback takes, to choose `within` by: needs no Kafka.
    """
    if labels:
        return _label_lag(group, since, until, as_json=as_json)
    from tidemill.cli.tables.lag import Limits, show, watch_lag
    from tidemill.kafka import KafkaConfig
    from tidemill.monitor.lag import LagReader

    reader = LagReader(KafkaConfig.from_env(os.environ))
    limits = Limits(messages=limit_messages, seconds=limit_seconds)
    if watch:
        return watch_lag(lambda: reader.read(group), limits, as_json=as_json, every_s=every)
    return show(reader.read(group), limits, as_json=as_json)


def _label_lag(loop: str | None, since: str | None, until: str | None, *, as_json: bool) -> int:
    from tidemill.cli.commands.lake import loops_of
    from tidemill.cli.tables.label_lag import print_label_lags
    from tidemill.cli.times import event_span
    from tidemill.features.lake.lake import Lake, LakeConfig
    from tidemill.monitor.label_lag import label_lags

    first, behind = event_span(since, until)
    lake = Lake(LakeConfig.from_env(os.environ))
    names = loops_of(lake) if loop is None else [loop]
    curves = [
        curve
        for name in names
        for curve in label_lags(lake, lake.loop(name), since=first, until=behind)
    ]
    print_label_lags(curves, as_json=as_json)
    return 0

"""`tidemill kafka` and `tidemill lag`."""

import os
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.options import AsJson, FromTime, ToTime
from tidemill.cli.terminal import print_text
from tidemill.errors import ConfigError


def kafka(
    data: Annotated[Path, typer.Option(help="Where an embedded Kafka keeps its data.")] = Path(
        ".tidemill/kafka"
    ),
) -> None:
    """Find a Kafka or start one, print its address, and run it until Ctrl-C."""
    from tidemill.deploy.local.kafka import find_kafka
    from tidemill.errors import BrokerError

    running = find_kafka(os.environ, data=data)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    print_text(f"Kafka ({running.kind}) answers after {running.start_s:.1f} s")
    print_text(f"export KAFKA_BOOTSTRAP_SERVERS={running.config.bootstrap}")
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
        typer.Argument(
            metavar="GROUP",
            help="One consumer group, or with --labels one loop; all of them by default.",
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Read again until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between readings.")] = 2.0,
    as_json: AsJson = False,
    limit_messages: Annotated[
        int | None, typer.Option(help="Most messages that a partition may be behind.")
    ] = None,
    limit_seconds: Annotated[
        float | None, typer.Option(help="Greatest age of an unread record, in seconds.")
    ] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="Show how long after decisions feedback comes instead.")
    ] = False,
    since: FromTime = None,
    until: ToTime = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Delete GROUP, which nobody will join again.")
    ] = False,
) -> int:
    """Show how far consumer groups are behind, in messages and seconds.

    Exit 1 over a limit, if records were lost unread, or if an offset past the end of a log is
    committed (AHEAD); 3 if Kafka could not be read. OPEN_TXN: an open transaction hides records.
    `<=` and `>=` stand where only READ on the topic, or a longer look, could tell.

    With --labels it reads the lake, not Kafka, and shows how long feedback takes: choose `within`
    by it. --from and --to are for --labels.
    """
    if labels:
        return _label_lag(group, since, until, as_json=as_json)
    if forget:
        return _forget(group)
    from tidemill.cli.tables.lag import Limits, print_lag, watch_lag
    from tidemill.kafka import KafkaConfig
    from tidemill.monitor.lag import LagReader

    limits = Limits(messages=limit_messages, seconds=limit_seconds)
    with LagReader(KafkaConfig.from_env(os.environ)) as reader:
        if watch:
            return watch_lag(lambda: reader.read(group), limits, as_json=as_json, every_s=every)
        return print_lag(reader.read(group), limits, as_json=as_json)


def _forget(group: str | None) -> int:
    from tidemill.kafka import KafkaConfig
    from tidemill.kafka.groups import delete_group

    if group is None:
        raise ConfigError(
            "--forget needs the name of one group", hint="tidemill lag lists them all"
        )
    delete_group(KafkaConfig.from_env(os.environ), group)
    print_text(f"{group}: forgotten, with its offsets")
    return 0


def _label_lag(loop: str | None, since: str | None, until: str | None, *, as_json: bool) -> int:
    from tidemill.cli.lakes import chosen_loops, open_lake
    from tidemill.cli.tables.label_lag import print_label_lags
    from tidemill.cli.times import event_span
    from tidemill.monitor.label_lag import label_lags

    first, end = event_span(since, until)
    lake = open_lake()
    curves = [
        curve
        for name in chosen_loops(lake, loop)
        for curve in label_lags(lake, lake.loop(name), since=first, until=end)
    ]
    print_label_lags(curves, as_json=as_json)
    return 0

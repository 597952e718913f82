"""`tidemill monitor`: parse, call one function of the monitor, print."""

import json
import os
import signal
import threading
from typing import Annotated

import typer


def monitor(
    loops: Annotated[list[str] | None, typer.Argument(help="Loops; all by default.")] = None,
    port: Annotated[int, typer.Option(help="Where /metrics, /status and /healthz are.")] = 8790,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    every: Annotated[float, typer.Option(help="Seconds between readings.")] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="Read once, print, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --once: print JSON.")] = False,
) -> int:
    """Watch lag, freshness and ledger, and serve them over HTTP until Ctrl-C."""
    from rich.console import Console

    from tidemill.features.lake.lake import LakeConfig
    from tidemill.kafka import KafkaConfig
    from tidemill.monitor.chain import table
    from tidemill.monitor.observer import MonitorConfig, Observer
    from tidemill.monitor.status import run_monitor

    config = MonitorConfig(
        kafka=KafkaConfig.from_env(os.environ),
        lake=LakeConfig.from_env(os.environ),
        loops=loops or (),
        host=host,
        port=port,
        every_s=every,
    )
    if once:
        status = Observer(config).read()
        if as_json:
            print(json.dumps(status.to_json()))
        else:
            Console(width=None if Console().is_terminal else 160).print(table(status.chains))
        return 0
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    typer.echo(f"monitor: http://{host}:{port}/status")
    return run_monitor(config, stop)

"""`tidemill monitor`."""

import os
import signal
import threading
from typing import Annotated

import typer

from tidemill.cli.options import AsJson, HostOption, Insecure, LoopNames
from tidemill.cli.terminal import print_error, print_text


def monitor(
    loops: LoopNames = None,
    port: Annotated[int, typer.Option(help="The port of /metrics, /status and /healthz.")] = 8790,
    host: HostOption = "127.0.0.1",
    every: Annotated[float, typer.Option(help="Seconds between readings.")] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="Read once, print, and end.")] = False,
    as_json: AsJson = False,
    insecure: Insecure = False,
) -> int:
    """Measure lag, freshness and ledger, and serve them over HTTP until Ctrl-C.

    --json is for --once, which exits with 3 if something could not be read.
    """
    from tidemill.cli.tables.chain import chain_table, troubles
    from tidemill.cli.terminal import print_json, print_table
    from tidemill.features.lake.lake import LakeConfig
    from tidemill.http_server.listener import HttpConfig
    from tidemill.kafka import KafkaConfig
    from tidemill.monitor.observer import MonitorConfig, Observer, Status
    from tidemill.monitor.status import run_monitor
    from tidemill.schemas.models.signing import TrustedKeys

    config = MonitorConfig(
        kafka=KafkaConfig.from_env(os.environ),
        lake=LakeConfig.from_env(os.environ),
        loops=loops or (),
        http=HttpConfig.from_env(os.environ, host=host, port=port, is_insecure=insecure),
        every_s=every,
        trusted=TrustedKeys.if_set(os.environ),
    )
    if once:
        with Observer(config) as observer:
            status = observer.read(Status())
        if as_json:
            print_json(status.to_json())
        else:
            if status.chains.value is not None:
                print_table(chain_table(status.chains.value.rows))
            for line in troubles(status):
                print_text(line)
        if status.problem is not None:
            print_error(status.problem)
        return 3 if status.problem is not None or status.unread else 0
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    print_text(f"monitor: {config.http.url}/status")
    return run_monitor(config, stop)

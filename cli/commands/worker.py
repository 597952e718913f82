"""`tidemill worker` and `tidemill close`: parse, call one function of a room, print.

Each command imports its room when it runs, so that `tidemill --help` loads none of them.
"""

import logging
import os
from typing import Annotated

import typer


def worker(
    loops: Annotated[
        list[str] | None, typer.Argument(help="Names of published loops; all of them by default.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Answer GET /metrics there, for Prometheus.")
    ] = None,
    group: Annotated[str | None, typer.Option(help="Consumer group, if not the usual one.")] = None,
) -> int:
    """Join decisions with their feedback and keep both in the lake, until Ctrl-C."""
    from dataclasses import replace

    from tidemill.streams.runtime.worker import StreamsWorkerConfig, run_worker

    config = StreamsWorkerConfig.from_env(os.environ, loops or ())
    if metrics_port is not None:
        config = replace(config, metrics_port=metrics_port)
    if group is not None:
        config = replace(config, group=group)
    for name in ("faust", "mode", "aiokafka"):  # what they tell is of use to their own authors
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    return run_worker(config)


def close(
    loop: Annotated[str, typer.Argument(help="Name of a loop whose replay has ended.")],
    until: Annotated[
        str, typer.Option(help="Event time of its last decision, say 2026-01-01T00:00:00Z.")
    ],
) -> None:
    """Close the windows of all decisions up to a time, as if its topics had ended."""
    from tidemill.cli.times import time_of
    from tidemill.kafka import KafkaConfig
    from tidemill.streams.runtime.close_requests import request_close

    time = time_of("--until", until)
    request_close(KafkaConfig.from_env(os.environ), loop, time)
    typer.echo(f"{loop}: workers close what was decided up to {time.isoformat()}")

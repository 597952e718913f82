"""`tidemill worker` and `tidemill lake close`."""

import os
from typing import Annotated

import typer

from tidemill.cli.options import LoopNames, MetricsHost, MetricsPort
from tidemill.cli.terminal import print_text


def worker(
    loops: LoopNames = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
    group: Annotated[str | None, typer.Option(help="Consumer group, if not the usual one.")] = None,
    accept_bad: Annotated[
        str | None,
        typer.Option(
            metavar="UNTIL",
            help="Go on after a stop by `max_bad`: unreadable records that came until then become "
            "dead letters and are not counted.",
        ),
    ] = None,
) -> int:
    """Join decisions with their feedback and write both to the lake, until Ctrl-C."""
    from dataclasses import replace

    from tidemill.cli.log_setup import quiet_faust
    from tidemill.cli.times import time_of
    from tidemill.metrics_page import MetricsPage
    from tidemill.streams.runtime.worker import StreamsWorkerConfig, run_worker

    config = StreamsWorkerConfig.from_env(os.environ, loops or ())
    config = replace(config, metrics=MetricsPage.asked(os.environ, metrics_port, metrics_host))
    if group is not None:
        config = replace(config, group=group)
    if accept_bad is not None:
        config = replace(config, accept_bad=time_of("--accept-bad", accept_bad))
    quiet_faust()
    return run_worker(config)


def close(
    loop: Annotated[
        str, typer.Argument(metavar="LOOP", help="A loop whose past events have all been sent.")
    ],
    until: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="Event time of its last decision, say 2026-01-01T00:00:00Z."
        ),
    ],
) -> None:
    """Close the windows of all decisions up to a time, as if the loop's topics had ended."""
    from tidemill.cli.times import time_of
    from tidemill.kafka import KafkaConfig
    from tidemill.schemas.models.signing import command_signer
    from tidemill.streams.runtime.close_requests import request_close

    time = time_of("--until", until)
    signer = command_signer(os.environ)
    request_close(KafkaConfig.from_env(os.environ), loop, time, signer)
    print_text(f"{loop}: workers close the windows of decisions up to {time.isoformat()}")

"""`tidemill replay`: parse, call one function, print."""

import json
import logging
import os
from typing import Annotated

import typer

from tidemill.errors import RequestError


def replay(
    loop: Annotated[str, typer.Argument(metavar="LOOP", help="Name of a published loop.")],
    into: Annotated[
        str, typer.Option(metavar="LAKE", help="An empty folder, or s3://bucket/prefix.")
    ],
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Close the windows of all decisions up to then."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Go on although Kafka has deleted records.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> int:
    """Read the topics of a loop once more from the beginning, into a lake of its own.

    No worker notices. After Ctrl-C or a crash the same command goes on where it was.
    """
    from rich.console import Console

    from tidemill.cli.times import time_of
    from tidemill.deploy.reprocess.replay import run_replay
    from tidemill.features.lake.lake import Lake, LakeConfig
    from tidemill.streams.runtime.worker import StreamsWorkerConfig

    worker = StreamsWorkerConfig.from_env({**os.environ, "TIDEMILL_LAKE": into}, [loop])
    live = os.environ.get("TIDEMILL_LAKE")
    if live and Lake(worker.lake).root == Lake(LakeConfig.from_env(os.environ)).root:
        raise RequestError(
            f"{into} is the lake that workers write to",
            hint="name an empty folder with --into",
        )
    for name in ("faust", "mode", "aiokafka"):  # what they tell is of use to their own authors
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    told = run_replay(
        worker,
        loop,
        until=None if until is None else time_of("--until", until),
        partial=partial,
        console=Console(stderr=True),
    )
    if as_json:
        typer.echo(json.dumps(told.to_json()))
    elif told.is_whole:
        ends = ", ".join(f"{count:,} {name}" for name, count in told.counts.items() if count)
        typer.echo(f"{loop} version {told.version}: {told.records:,} records replayed into {into}")
        typer.echo(f"  decisions: {ends or 'none'}")
    return 0 if told.is_whole else 130

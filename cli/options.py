"""Options and arguments that several commands have, so that each reads the same in every help."""

from getpass import getuser
from pathlib import Path
from socket import gethostname
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
LoopName = Annotated[str, typer.Argument(metavar="LOOP", help="Name of a loop.")]
OneLoop = Annotated[
    str | None, typer.Argument(metavar="LOOP", help="One loop; all of them by default.")
]
LoopNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="LOOP", help="Names of loops; all of them by default."),
]
LoopFileArgument = Annotated[Path, typer.Argument(metavar="LOOP.yaml", help="A loop file.")]
LoopFileArguments = Annotated[list[Path], typer.Argument(metavar="LOOP.yaml", help="Loop files.")]
PngFile = Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Draw it as PNG, too.")]
FromTime = Annotated[
    str | None,
    typer.Option("--from", metavar="TIME", help="Only decisions made from then on, in event time."),
]
ToTime = Annotated[
    str | None,
    typer.Option("--to", metavar="TIME", help="Only decisions made before then, in event time."),
]
HostOption = Annotated[
    str, typer.Option(help="The address to listen on; 0.0.0.0 for all networks.")
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Let other machines call without a token.")
]
MetricsPort = Annotated[
    int | None, typer.Option(help="Answer GET /metrics at this port, for Prometheus.")
]
MetricsHost = Annotated[
    str | None,
    typer.Option(help="The address of --metrics-port, 127.0.0.1 if not named; 0.0.0.0 for all."),
]
Servers = Annotated[int, typer.Option(min=1, help="How many serving workers.")]
Why = Annotated[str, typer.Option("--why", help="The reason, for the record.")]
Who = Annotated[
    str | None, typer.Option("--as", metavar="NAME", help="Who you are; by default user@host.")
]


def person(name: str | None) -> str:
    """Return *name*, or user@host of whoever runs the command."""
    return name or f"{getuser()}@{gethostname()}"

"""`tidemill demo` and `tidemill up`: parse, call one function, print."""

import contextlib
import os
import signal
from pathlib import Path
from typing import Annotated

import typer


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running at the end.")] = False,
    days: Annotated[
        int | None, typer.Option(min=1, help="Play the first days only, not the year.")
    ] = None,
    report: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("demo-report.json"),
    folder: Annotated[
        Path, typer.Option(help="For logs, lake and an embedded Kafka's data; is emptied.")
    ] = Path(".tidemill/demo"),
    servers: Annotated[int, typer.Option(min=1, help="How many serving workers.")] = 2,
    loop: Annotated[
        Path | None, typer.Option(help="Another loop file for the same flights.")
    ] = None,
) -> int:
    """Play a year of real flights through the whole loop, and show what came of it."""
    from rich.console import Console

    from tidemill.deploy.demo.demo import DemoConfig, run_demo

    config = DemoConfig(
        folder=folder,
        report=report,
        days=days,
        keep=keep,
        servers=servers,
        loop_file=loop,
        env=dict(os.environ),
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends all children, like Ctrl-C
    found = run_demo(config, Console(highlight=False))
    return int(not found.is_sound)


def up(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Loop files to publish first.", metavar="[LOOP.yaml]"),
    ] = None,
    port: Annotated[int, typer.Option(help="Of the first serving worker; others follow.")] = 8700,
    servers: Annotated[int, typer.Option(min=1, help="How many serving workers.")] = 1,
    folder: Annotated[
        Path, typer.Option(help="For logs, keys, and the lake unless TIDEMILL_LAKE is set.")
    ] = Path(".tidemill/up"),
) -> int:
    """Run all processes of loops here, Kafka too if there is none, until Ctrl-C."""
    from rich.console import Console

    from tidemill.deploy.local.up import UpConfig, run_up

    config = UpConfig(
        files=files or (), port=port, servers=servers, folder=folder, env=dict(os.environ)
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        run_up(config, Console(highlight=False))
    return 0

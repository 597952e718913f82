"""`tidemill demo` and `tidemill up`."""

import contextlib
import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.options import Servers
from tidemill.cli.terminal import terminal


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave all of it running at the end.")
    ] = False,
    days: Annotated[int | None, typer.Option(min=1, help="Play only so many days.")] = None,
    report: Annotated[Path, typer.Option(help="File for the figures.")] = Path("demo-report.json"),
    folder: Annotated[
        Path,
        typer.Option(help="Folder for logs, lake and an embedded Kafka's data; it is emptied."),
    ] = Path(".tidemill/demo"),
    servers: Servers = 2,
    loop: Annotated[
        Path | None, typer.Option(help="Another loop file for the same flights.")
    ] = None,
) -> int:
    """Play a year of real flights through the whole loop, and print the figures.

    Exit 1 if something was lost or doubled, or if no model that went live decided.
    """
    from tidemill.cli.tables.demo import print_report
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
    found = run_demo(config, terminal(), on_report=print_report)
    return int(not found.is_sound)


def up(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="LOOP.yaml",
            help="Loop files to publish first; else all published loops run.",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(help="Port of the first serving worker; the others follow it.")
    ] = 8700,
    servers: Servers = 1,
    folder: Annotated[
        Path, typer.Option(help="Folder for logs, keys, and the lake unless TIDEMILL_LAKE is set.")
    ] = Path(".tidemill/up"),
) -> int:
    """Run all processes of loops on this machine, with Kafka if there is none, until Ctrl-C."""
    from tidemill.deploy.local.up import UpConfig, run_up

    config = UpConfig(
        files=files or (), port=port, servers=servers, folder=folder, env=dict(os.environ)
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        run_up(config, terminal())
    return 0

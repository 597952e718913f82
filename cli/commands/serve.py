"""The command ``serve``: run an inference worker behind HTTP."""

import os
import socket
from pathlib import Path
from typing import Annotated

import typer

from tidemill.schemas.loop.loop_file import load_loop
from tidemill.schemas.registry.choose import writer_store
from tidemill.serving.api.server import ServerConfig, run_server
from tidemill.serving.worker import ServingWorkerConfig


def serve(
    loops: Annotated[
        list[str] | None, typer.Argument(metavar="[LOOP ...]", help="default: all published")
    ] = None,
    port: Annotated[int, typer.Option(help="where to listen; 0: any free port")] = 8700,
    host: Annotated[str, typer.Option(help="0.0.0.0 to be reached from elsewhere")] = "127.0.0.1",
    name: Annotated[
        str | None, typer.Option(help="in acknowledgements; default TIDEMILL_WORKER or HOST-PORT")
    ] = None,
    file: Annotated[
        list[Path] | None, typer.Option(help="a loop file, for a start without Kafka")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="of the policies' chance")] = None,
) -> int:
    """Serve decisions of published loops over HTTP until SIGTERM."""
    definitions = tuple(load_loop(path) for path in file or ())
    name = name or os.environ.get("TIDEMILL_WORKER") or f"{socket.gethostname()}-{port}"
    worker = ServingWorkerConfig.from_env(
        os.environ, name=name, loops=tuple(loops or ()), definitions=definitions, seed=seed
    )
    config = ServerConfig(worker=worker, host=host, port=port)
    typer.echo(f"worker {name} answers at http://{host}:{port}")
    return run_server(config, store=writer_store(worker.kafka, os.environ))

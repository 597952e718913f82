"""`tidemill serve`."""

import os
import socket
from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.options import HostOption, LoopNames
from tidemill.cli.terminal import print_text
from tidemill.schemas.loop.loop_file import load_loop
from tidemill.schemas.registry.choose import writer_store
from tidemill.serving.api.server import ServerConfig, run_server
from tidemill.serving.worker import ServingWorkerConfig


def serve(
    loops: LoopNames = None,
    port: Annotated[int, typer.Option(help="The port to listen on; 0 for any free one.")] = 8700,
    host: HostOption = "127.0.0.1",
    name: Annotated[
        str | None,
        typer.Option(help="Name in acknowledgements; default TIDEMILL_WORKER or HOST-PORT."),
    ] = None,
    file: Annotated[
        list[Path] | None, typer.Option(help="A loop file, to start without Kafka.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the policies' random choices.")] = None,
) -> int:
    """Serve decisions of published loops over HTTP until SIGTERM."""
    definitions = tuple(load_loop(path) for path in file or ())
    name = name or os.environ.get("TIDEMILL_WORKER") or f"{socket.gethostname()}-{port}"
    worker = ServingWorkerConfig.from_env(
        os.environ, name=name, loops=tuple(loops or ()), definitions=definitions, seed=seed
    )
    config = ServerConfig(worker=worker, host=host, port=port)
    print_text(f"worker {name} answers at http://{host}:{port}")
    return run_server(config, store=writer_store(worker.kafka, os.environ))

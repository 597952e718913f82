"""`tidemill serve`."""

import os
import socket
from pathlib import Path
from typing import Annotated

import typer

from tidemill.access import SCOPES, TOKENS, add_token
from tidemill.cli.options import HostOption, Insecure, LoopNames
from tidemill.cli.terminal import print_text
from tidemill.http_server.listener import HttpConfig
from tidemill.schemas.loop.loop_file import load_loop
from tidemill.schemas.registry.choose import writer_store
from tidemill.serving.api.server import PORT, ServerConfig, run_server
from tidemill.serving.worker import ServingWorkerConfig


def serve(
    loops: LoopNames = None,
    port: Annotated[int, typer.Option(help="The port to listen on; 0 for any free one.")] = PORT,
    host: HostOption = "127.0.0.1",
    name: Annotated[
        str | None,
        typer.Option(help="Name in acknowledgements; default TIDEMILL_WORKER or HOST-PORT."),
    ] = None,
    file: Annotated[
        list[Path] | None, typer.Option(help="A loop file, to start without Kafka.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="An origin whose pages may call, say https://shop.example."),
    ] = None,
    insecure: Insecure = False,
) -> int:
    """Serve decisions of published loops over HTTP until SIGTERM."""
    definitions = tuple(load_loop(path) for path in file or ())
    name = name or os.environ.get("TIDEMILL_WORKER") or f"{socket.gethostname()}-{port}"
    worker = ServingWorkerConfig.from_env(
        os.environ, name=name, loops=tuple(loops or ()), definitions=definitions
    )
    http = HttpConfig.from_env(
        os.environ,
        host=host,
        port=port,
        origins=tuple(cors_origin or ()),
        is_insecure=insecure,
    )
    print_text(f"worker {name} answers at {http.url}")
    store = writer_store(worker.kafka, os.environ) if worker.kafka is not None else None
    return run_server(ServerConfig(worker=worker, http=http), store=store)


def token(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=f"The file of {TOKENS}.")],
    name: Annotated[str, typer.Option(help="Whose token it is, for messages.")],
    scope: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(SCOPES)}; default: all of them.")
    ] = None,
    loop: Annotated[
        list[str] | None, typer.Option(help="A loop it is for; all of them by default.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Decisions and feedback a second; any number by default.")
    ] = None,
) -> None:
    """Make a bearer token for the HTTP API: print it once, and add its hash to a file.

    Workers read the file again when it changes. To revoke a token, remove its line.
    """
    made = add_token(
        file,
        name=name,
        scopes=frozenset(scope or SCOPES),
        loops=frozenset(loop or ("*",)),
        rate=rate,
    )
    print_text(made)

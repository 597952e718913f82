"""The commands ``train``, ``models`` and ``keys``: parse, call one function of a room, print.

Each imports its room when it runs, so that `tidemill --help` loads none of them.
"""

import json
import os
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from tidemill.trainers.registry import ModelVersion

AsJson = Annotated[bool, typer.Option("--json", help="print JSON, for programs")]
LoopName = Annotated[str, typer.Argument(metavar="LOOP", help="name of a published loop")]


def train(
    loop: LoopName,
    once: Annotated[bool, typer.Option("--once", help="train now, publish, and end")] = False,
    as_json: AsJson = False,
    metrics_port: Annotated[
        int | None, typer.Option(help="answer GET /metrics there, for Prometheus")
    ] = None,
) -> int:
    """Train the models of a loop as its examples come in, until Ctrl-C, or once."""
    from tidemill.trainers.trainer import TrainerConfig, run_trainer

    config = TrainerConfig.from_env(os.environ, loop, once=once)
    if metrics_port is not None:
        config = replace(config, metrics_port=metrics_port)
    made: list[str] = []

    def tell(model: "ModelVersion") -> None:
        made.append(model.version)
        line = json.dumps(_plain(model)) if as_json else f"{model.version}: {model.reason}"
        typer.echo(line)

    status = run_trainer(config, tell)
    if once and not made and not as_json:
        typer.echo(f"{loop}: nothing new to learn from, or fewer labels than `min_labels`")
    return status


def models(loop: LoopName, as_json: AsJson = False) -> None:
    """Show every model a loop ever made, which one is live, and why the others are not."""
    from rich.console import Console

    from tidemill.features.lake.lake import Lake, LakeConfig
    from tidemill.trainers.registry import Registry

    lake = Lake(LakeConfig.from_env(os.environ))
    lake.loop(loop)  # refuses a name that the lake does not know
    registry = Registry(lake, loop)
    found, live = registry.models(), registry.live()
    if as_json:
        for model in found:
            is_live = live is not None and model.number == live.number
            print(json.dumps(_plain(model) | {"live": is_live}))
        return
    Console().print(_table(loop, found, live))


def keys(
    action: Annotated[Literal["init"], typer.Argument(help="init: make a new pair")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="where the two files go")],
) -> None:
    """Make the pair of keys that signs models and lets workers trust them."""
    from tidemill.schemas.models.signing import SIGNING_KEY, TRUSTED_KEYS, init_keys

    signing, trusted = init_keys(folder)
    typer.echo(f"export {SIGNING_KEY}={signing.absolute()}    # for trainers; keep it secret")
    typer.echo(f"export {TRUSTED_KEYS}={trusted.absolute()}    # for workers")


def _table(loop: str, found: "list[ModelVersion]", live: "ModelVersion | None") -> object:
    from rich.table import Table

    table = Table(title=f"models of {loop}")
    for name in ("version", "made", "rows", "CPU s", ""):
        table.add_column(name, justify="right" if name in ("rows", "CPU s") else "left")
    table.add_column("verdict", ratio=1)
    for model in found:
        is_live = live is not None and model.number == live.number
        made = model.at.strftime("%Y-%m-%d %H:%M:%S")
        numbers = f"{model.trained_on_rows:,}", f"{model.cpu_s:.1f}"
        table.add_row(model.version, made, *numbers, "live" if is_live else "", model.reason)
    return table


def _plain(model: "ModelVersion") -> dict[str, object]:
    """Return *model* as JSON knows it, without the long text of its signature."""
    values = asdict(model)
    del values["features"]
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in values.items()
    }

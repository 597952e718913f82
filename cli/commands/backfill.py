"""`tidemill backfill`: parse, call one function, print."""

import hashlib
import json
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tidemill.errors import RequestError

if TYPE_CHECKING:
    from tidemill.features.lake.lake import Lake
    from tidemill.features.sql.backfills import Backfill, Done
    from tidemill.schemas.loop.definition import Loop


def backfill(
    loop: Annotated[str, typer.Argument(metavar="LOOP", help="Name of a loop of the lake.")],
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Decisions from then on.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Decisions before then.")
    ] = None,
    label: Annotated[str | None, typer.Option(metavar="SQL", help="Another label.")] = None,
    label_type: Annotated[
        Literal["bool", "float"] | None, typer.Option(help="Its type, if it changes.")
    ] = None,
    missing: Annotated[
        Literal["negative", "censored", "dropped"] | None,
        typer.Option(help="What no feedback means."),
    ] = None,
    within: Annotated[
        list[str] | None, typer.Option(metavar="KIND=DURATION", help="Another window, say buy=7d.")
    ] = None,
    early: Annotated[
        list[str] | None, typer.Option(metavar="KIND=DURATION", help="Another `early`.")
    ] = None,
    grace: Annotated[str | None, typer.Option(metavar="DURATION", help="Another grace.")] = None,
    loop_file: Annotated[
        Path | None, typer.Option(help="A changed definition; it need not be published.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Its name; by default made from what it is.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="How many; by default one a core.")
    ] = None,
    as_list: Annotated[bool, typer.Option("--list", help="Show what backfills there are.")] = False,
    drop_name: Annotated[
        str | None, typer.Option("--drop", metavar="NAME", help="Remove a backfill.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Make examples again from the raw tables, by another window or label.

    They are in view examples_NAME, beside the live ones. After a crash or Ctrl-C the same command
    goes on where it was.
    """
    from tidemill.cli.times import time_of
    from tidemill.features.lake.lake import Lake, LakeConfig
    from tidemill.features.sql.backfills import drop
    from tidemill.schemas.loop.variants import variant

    lake = Lake(LakeConfig.from_env(os.environ))
    live = lake.loop(loop)
    if drop_name is not None:
        drop(lake, loop, drop_name)
        typer.echo(f"{loop}: backfill {drop_name} is removed")
        return
    if as_list:
        _print_list(lake, loop, as_json=as_json)
        return
    wanted = variant(
        live if loop_file is None else _checked(loop_file, loop),
        label=label,
        label_type=label_type,
        missing=missing,
        within=_lengths("--within", within),
        early=_lengths("--early", early),
        grace=grace,
    )
    times = (
        None if since is None else time_of("--from", since),
        None if until is None else time_of("--to", until),
    )
    _run(lake, wanted, times, name, processes or _cores(), as_json=as_json)


def _run(
    lake: "Lake",
    loop: "Loop",
    times: tuple[datetime | None, datetime | None],
    name: str | None,
    processes: int,
    *,
    as_json: bool,
) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from tidemill.deploy.reprocess.backfill import begun, run

    since, until = times
    digest = hashlib.sha256(f"{loop.digest} {since} {until}".encode()).hexdigest()
    chosen = begun(
        lake, loop, name or f"b{digest[:8]}", since=since, until=until, processes=processes
    )
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(f"{loop.loop} {chosen.name}", total=chosen.slices)
        done, cpu_s = run(
            lake,
            chosen,
            processes=processes,
            on_slices=lambda count: progress.update(bar, completed=count),
        )
    _print_done(lake, chosen, done, cpu_s, as_json=as_json)


def _print_done(
    lake: "Lake", backfill: "Backfill", done: "Done", cpu_s: float, *, as_json: bool
) -> None:
    from tidemill.features.sql.backfills import COUNTS, view_name

    totals = {count: done.total(count) for count in COUNTS}
    view = view_name(backfill.name)
    if as_json:
        named = {"loop": backfill.loop.loop, "name": backfill.name, "view": view}
        numbers = {"slices": backfill.slices, **totals, "cpu_s": round(cpu_s, 3)}
        typer.echo(json.dumps(named | numbers))
        return
    typer.echo(
        f"{backfill.loop.loop}: {totals['examples']:,} examples in view {view}; besides "
        f"{totals['late']:,} late, {totals['duplicate']:,} duplicate decisions"
    )
    if totals["open"]:
        typer.echo(
            f"  {totals['open']:,} decisions are left out: their windows go on beyond what the "
            "lake has"
        )


def _print_list(lake: "Lake", loop: str, *, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from tidemill.features.sql.backfills import backfills, done, read_backfill, view_name

    table = Table("name", "view", "from", "to", "slices done", "examples")
    for name in backfills(lake, loop):
        backfill = read_backfill(lake, loop, name)
        found = done(lake, backfill)
        row = {
            "name": name,
            "view": view_name(name) if found.is_complete else None,
            "from": None if backfill.since is None else backfill.since.isoformat(),
            "to": None if backfill.until is None else backfill.until.isoformat(),
            "slices": backfill.slices,
            "done": len(found.slices),
            "examples": found.total("examples"),
        }
        if as_json:
            typer.echo(json.dumps(row))
        table.add_row(
            name,
            str(row["view"] or "not complete"),
            str(row["from"] or ""),
            str(row["to"] or ""),
            f"{row['done']} of {row['slices']}",
            f"{row['examples']:,}",
        )
    if not as_json:
        Console().print(table)


def _checked(path: Path, loop: str) -> "Loop":
    from tidemill.schemas.loop.labels import checked_loop

    found = checked_loop(path)
    if found.loop != loop:
        raise RequestError(
            f"{path} defines {found.loop}, not {loop}",
            hint="name the file of the loop whose events are to be joined again",
        )
    return found


def _lengths(option: str, given: Sequence[str] | None) -> dict[str, str]:
    pairs = [text.partition("=") for text in given or ()]
    if not all(kind and length for kind, _, length in pairs):
        raise RequestError(
            f"{option} {' '.join(given or ())} names no kind of feedback and its duration",
            hint=f"write {option} KIND=DURATION, say {option} clicked=30m",
        )
    return {kind: length for kind, _, length in pairs}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

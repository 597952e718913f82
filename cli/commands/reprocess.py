"""`tidemill lake backfill` and `tidemill lake replay`."""

import hashlib
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tidemill.cli.options import AsJson, FromTime, LoopName, ToTime
from tidemill.cli.terminal import print_text
from tidemill.errors import RequestError

if TYPE_CHECKING:
    from tidemill.features.lake.lake import Lake
    from tidemill.schemas.loop.definition import Loop

Span = tuple[datetime | None, datetime | None]


def backfill(
    loop: LoopName,
    since: FromTime = None,
    until: ToTime = None,
    label: Annotated[str | None, typer.Option(metavar="SQL", help="Another label.")] = None,
    label_type: Annotated[
        Literal["bool", "float"] | None,
        typer.Option(help="The type of that label, if it is another."),
    ] = None,
    missing: Annotated[
        Literal["negative", "censored", "dropped"] | None,
        typer.Option(help="What a decision without feedback becomes."),
    ] = None,
    within: Annotated[
        list[str] | None, typer.Option(metavar="KIND=DURATION", help="Another window, say buy=7d.")
    ] = None,
    early: Annotated[
        list[str] | None, typer.Option(metavar="KIND=DURATION", help="Another `early`.")
    ] = None,
    grace: Annotated[str | None, typer.Option(metavar="DURATION", help="Another grace.")] = None,
    loop_file: Annotated[
        Path | None, typer.Option(help="A changed loop file; it need not be published.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the backfill; by default made from its definition.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="How many processes; by default one for each core.")
    ] = None,
    as_list: Annotated[
        bool, typer.Option("--list", help="List the backfills of the loop instead.")
    ] = False,
    drop_name: Annotated[
        str | None, typer.Option("--drop", metavar="NAME", help="Remove a backfill instead.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make examples again from the raw tables, with another window or label.

    They are in view examples_NAME, beside the live ones. After a crash or Ctrl-C the same command
    goes on where it was.
    """
    from tidemill.cli.lakes import open_lake
    from tidemill.cli.tables.reprocess import print_backfills
    from tidemill.cli.times import event_span
    from tidemill.features.sql.backfills import drop
    from tidemill.streams.reprocess.variants import variant

    lake = open_lake()
    live = lake.loop(loop)
    if drop_name is not None:
        drop(lake, loop, drop_name)
        print_text(f"{loop}: backfill {drop_name} is removed")
        return
    if as_list:
        print_backfills(lake, loop, as_json=as_json)
        return
    wanted = variant(
        live if loop_file is None else _checked(loop_file, loop),
        label=label,
        label_type=label_type,
        missing=missing,
        within=_durations("--within", within),
        early=_durations("--early", early),
        grace=grace,
    )
    run_backfill(
        lake, wanted, event_span(since, until), name, processes or cores(), as_json=as_json
    )


def run_backfill(
    lake: "Lake", loop: "Loop", span: Span, name: str | None, processes: int, *, as_json: bool
) -> None:
    """Make the examples of *loop* again, in the backfill *name* or one named by its definition."""
    from tidemill.cli.tables.reprocess import print_backfill
    from tidemill.cli.terminal import progress_bar
    from tidemill.deploy.reprocess.backfill import begun, run

    since, until = span
    digest = hashlib.sha256(f"{loop.digest} {since} {until}".encode()).hexdigest()
    chosen = begun(
        lake, loop, name or f"b{digest[:8]}", since=since, until=until, processes=processes
    )
    with progress_bar(f"{loop.loop} {chosen.name}") as on_slices:
        done, cpu_s = run(
            lake,
            chosen,
            processes=processes,
            on_slices=lambda count: on_slices(count, chosen.slices),
        )
    print_backfill(chosen, done, cpu_s, as_json=as_json)


def make_labels_anew(loop: "Loop", *, as_json: bool) -> None:
    """Make the labels of all rows in the lake again, by those of *loop*.

    The backfill has a name of its own, by which trainers find it. Without rows there is nothing to
    make.
    """
    from tidemill.cli.lakes import open_lake
    from tidemill.features.lake.layouts import DECISIONS
    from tidemill.features.sql.judgements import backfill_name

    lake = open_lake()
    if not lake.table(loop.loop, DECISIONS).uris():
        print_text(f"{loop.loop}: the lake has no decisions yet, so there are no labels to make")
        return
    run_backfill(lake, loop, (None, None), backfill_name(loop.version), cores(), as_json=as_json)


def _checked(path: Path, loop: str) -> "Loop":
    from tidemill.schemas.loop.labels import checked_loop

    found = checked_loop(path)
    if found.loop != loop:
        raise RequestError(
            f"{path} defines {found.loop}, not {loop}",
            hint=f"name a loop file of {loop}, whose events are to be joined again",
        )
    return found


def _durations(option: str, given: Sequence[str] | None) -> dict[str, str]:
    pairs = [text.partition("=") for text in given or ()]
    if not all(kind and duration for kind, _, duration in pairs):
        raise RequestError(
            f"{option} {' '.join(given or ())} is no kind of feedback with its duration",
            hint=f"write {option} KIND=DURATION, say {option} clicked=30m",
        )
    return {kind: duration for kind, _, duration in pairs}


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def replay(
    loop: LoopName,
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
    partitions: Annotated[
        list[int] | None,
        typer.Option("--partition", min=0, help="Read this partition only; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Read the topics of a loop once more from the beginning, into a lake of its own.

    Running workers are not disturbed. After Ctrl-C or a crash the same command goes on where it
    was. With --partition, the rows of some partitions are made again, say after damage; the same
    lake takes more of them by another call.
    """
    from tidemill.cli.log_setup import quiet_faust
    from tidemill.cli.tables.reprocess import print_replay
    from tidemill.cli.terminal import progress_bar
    from tidemill.cli.times import time_of
    from tidemill.deploy.reprocess.replay import run_replay
    from tidemill.features.lake.lake import Lake
    from tidemill.streams.runtime.worker import StreamsWorkerConfig

    worker = StreamsWorkerConfig.from_env({**os.environ, "TIDEMILL_LAKE": into}, [loop])
    _refuse_live_lake(into, Lake(worker.lake))
    quiet_faust()
    end = None if until is None else time_of("--until", until)
    with progress_bar(loop) as on_records:
        replayed = run_replay(
            worker, loop, until=end, partial=partial, partitions=partitions, on_records=on_records
        )
    print_replay(replayed, into, as_json=as_json)
    return 0 if replayed.is_whole else 130


def _refuse_live_lake(into: str, lake: "Lake") -> None:
    from tidemill.cli.lakes import open_lake

    if os.environ.get("TIDEMILL_LAKE") and open_lake().root == lake.root:
        raise RequestError(
            f"{into} is the lake that workers write to", hint="name an empty folder with --into"
        )

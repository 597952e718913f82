"""`tidemill dead-letters show` and `tidemill dead-letters replay`."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.options import AsJson

if TYPE_CHECKING:
    from tidemill.streams.deadletters.reader import Wanted

LoopOption = Annotated[str | None, typer.Option(help="Only records of this loop.")]
TopicOption = Annotated[str | None, typer.Option(help="Only records of this topic.")]
ReasonsOption = Annotated[
    list[str] | None, typer.Option("--reason", help="Only this reason; may be repeated.")
]
SinceOption = Annotated[
    str | None,
    typer.Option(help="Only records that arrived since: 2h, 7d, or 2026-01-01T00:00:00Z."),
]
SourcesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--letter",
        metavar="TOPIC/PARTITION/OFFSET",
        help="Only the record from there; may be repeated.",
    ),
]


def show(
    loop: LoopOption = None,
    topic: TopicOption = None,
    reason: ReasonsOption = None,
    since: SinceOption = None,
    letter: SourcesOption = None,
    limit: Annotated[int, typer.Option(min=0, help="Most dead letters to print.")] = 20,
    by_offset: Annotated[
        bool, typer.Option("--by-offset", help="Sort by topic and offset, not newest first.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what could not be read, and why: each dead letter once, and counts by reason.

    With --letter, up to 4 KB of the bytes are shown.
    """
    from tidemill.cli.tables.deadletters import print_overview
    from tidemill.kafka import KafkaConfig
    from tidemill.streams.deadletters.reader import DeadLetterReader, overview

    reader = DeadLetterReader(KafkaConfig.from_env(os.environ))
    wanted = _wanted(loop, topic, reason, since, letter)
    found = overview(reader, wanted, limit=limit, by_offset=by_offset)
    print_overview(reader, found, whole=bool(letter), as_json=as_json)


def replay(
    loop: LoopOption = None,
    topic: TopicOption = None,
    reason: ReasonsOption = None,
    since: SinceOption = None,
    letter: SourcesOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run/--apply", help="Say what would be sent, or send it.")
    ] = True,
    every: Annotated[
        bool, typer.Option("--all", help="Also send what still cannot be read.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Send dead letters that can be read by now back to their topics, each at most once.

    Exit 1 if some of them still cannot be read. After an interruption the same command goes on
    with the rest.
    """
    from tidemill.cli.tables.deadletters import print_redrive, redrive_progress
    from tidemill.kafka import KafkaConfig
    from tidemill.schemas.published import fetch_loops
    from tidemill.schemas.registry.choose import schema_store
    from tidemill.streams.deadletters.reader import DeadLetterReader
    from tidemill.streams.deadletters.redrive import Judge, RedriveCounts, preview, redrive

    kafka = KafkaConfig.from_env(os.environ)
    reader, counts = DeadLetterReader(kafka), RedriveCounts()
    judge = Judge(fetch_loops(kafka), schema_store(kafka, os.environ))
    wanted = _wanted(loop, topic, reason, since, letter)
    try:
        if dry_run:
            preview(reader, wanted, judge, counts, every=every)
        else:
            with redrive_progress() as on_progress:
                redrive(reader, wanted, judge, counts, every=every, on_progress=on_progress)
    finally:
        print_redrive(counts, applied=not dry_run, as_json=as_json)
    return 1 if counts.left else 0


def _wanted(
    loop: str | None,
    topic: str | None,
    reasons: list[str] | None,
    since: str | None,
    sources: list[str] | None,
) -> "Wanted":
    from tidemill.cli.times import time_since
    from tidemill.streams.deadletters.reader import Wanted

    return Wanted(
        loop=loop,
        topic=topic,
        reasons=frozenset(reasons or ()),
        since=None if since is None else time_since(since),
        sources=frozenset(sources or ()),
    )

"""`tidemill dead-letters show` and `replay`: parse, call one function of a room, print.

Each command imports its room when it runs, so that `tidemill --help` loads none of them.
"""

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.errors import RequestError

if TYPE_CHECKING:
    from tidemill.streams.deadletters.reader import Wanted

LoopOption = Annotated[str | None, typer.Option(help="Only letters of this loop.")]
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
    typer.Option("--letter", help="Only this letter, topic/partition/offset; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]


def show(
    loop: LoopOption = None,
    topic: TopicOption = None,
    reason: ReasonsOption = None,
    since: SinceOption = None,
    letter: SourcesOption = None,
    limit: Annotated[int, typer.Option(min=0, help="Most letters to print.")] = 20,
    by_offset: Annotated[
        bool, typer.Option("--by-offset", help="In the order of their topics, not newest first.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what could not be read, and why: newest first, each letter once, and counts by reason.

    A single --letter is shown with up to 4 KB of its bytes.
    """
    from tidemill.cli.tables.deadletters import print_overview
    from tidemill.kafka import KafkaConfig
    from tidemill.streams.deadletters.reader import DeadLetterReader, overview

    box = DeadLetterReader(KafkaConfig.from_env(os.environ))
    wanted = _wanted(loop, topic, reason, since, letter)
    found = overview(box, wanted, limit=limit, by_place=by_offset)
    print_overview(box, found, whole=bool(letter), as_json=as_json)


def replay(
    loop: LoopOption = None,
    topic: TopicOption = None,
    reason: ReasonsOption = None,
    since: SinceOption = None,
    letter: SourcesOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run/--apply", help="Say what would be done, or do it.")
    ] = True,
    every: Annotated[
        bool, typer.Option("--all", help="Also send what can still not be read.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Send letters that can be read by now back to their topics, each at most once.

    Exit 1 if some of them can still not be read. An interruption leaves nothing half done: start
    it again, and it goes on with the rest.
    """
    from tidemill.cli.tables.deadletters import letters_bar, print_tally
    from tidemill.kafka import KafkaConfig
    from tidemill.schemas.published import fetch_loops
    from tidemill.schemas.registry.choose import schema_store
    from tidemill.streams.deadletters.reader import DeadLetterReader
    from tidemill.streams.deadletters.redrive import Judge, RedriveCounts, look, redrive

    kafka = KafkaConfig.from_env(os.environ)
    box, tally = DeadLetterReader(kafka), RedriveCounts()
    judge = Judge(fetch_loops(kafka), schema_store(kafka, os.environ))
    wanted = _wanted(loop, topic, reason, since, letter)
    try:
        if dry_run:
            look(box, wanted, judge, tally, every=every)
        else:
            with letters_bar() as bar:
                redrive(box, wanted, judge, tally, every=every, told=bar)
    finally:
        print_tally(tally, applied=not dry_run, as_json=as_json)
    return 1 if tally.left else 0


def _wanted(
    loop: str | None,
    topic: str | None,
    reasons: list[str] | None,
    since: str | None,
    sources: list[str] | None,
) -> "Wanted":
    from tidemill.streams.deadletters.reader import Wanted

    return Wanted(
        loop=loop,
        topic=topic,
        reasons=frozenset(reasons or ()),
        since=None if since is None else _moment(since),
        sources=frozenset(sources or ()),
    )


def _moment(text: str) -> datetime:
    from tidemill.schemas.loop.durations import parse_duration

    try:
        return datetime.now(UTC) - parse_duration(text)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise RequestError(
            f"--since {text} is no time", hint="write it as 2h, 7d or 2026-01-01T00:00:00Z"
        ) from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)

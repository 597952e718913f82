"""Dead letters on a terminal, or as JSON for a program. It prints and does nothing else.

What is in a letter came from anywhere: no byte of it reaches a terminal as it is.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from tidemill.streams.deadletters.reader import DeadLetterReader, OnProgress, Overview
from tidemill.streams.deadletters.redrive import RedriveCounts
from tidemill.streams.deadletters.writer import DeadLetter

PREVIEW_BYTES = 64


def preview(value: bytes | None, limit: int = PREVIEW_BYTES) -> str:
    r"""Return the first *limit* bytes of *value* as ASCII, those not printable as their number.

    >>> preview(bytes([0xC3, 0x01]) + b"abc")
    '\\xc3\\x01abc'
    >>> preview(b"a" * 100, 4)
    'aaaa... (100 bytes)'
    """
    if value is None:
        return "(none)"
    shown = "".join(
        chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in value[:limit]
    )
    return shown if len(value) <= limit else f"{shown}... ({len(value)} bytes)"


def plain(text: str) -> str:
    r"""Return *text* without anything a terminal would act on.

    >>> plain("red" + chr(27) + "[31m")
    'red\\x1b[31m'
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def print_overview(box: DeadLetterReader, found: Overview, *, whole: bool, as_json: bool) -> None:
    """Print the letters of *found* and how many there are; *whole* ones with up to 4 KB each."""
    limit = 4096 if whole else PREVIEW_BYTES
    reasons = sorted(found.waiting.keys() | found.resent.keys())
    if as_json:
        counts = {
            each: {"waiting": found.waiting[each], "resent": found.resent[each]} for each in reasons
        }
        letters = [_document(box, letter, limit) for letter in found.letters]
        print(json.dumps({"reasons": counts, "copies": box.copies, "letters": letters}))
        return
    console = Console()
    if not reasons:
        console.print("no dead letters")
        return
    if whole:
        for letter in found.letters:
            for name, told in _document(box, letter, limit).items():
                console.print(Text(f"{name:>10}  {told}"), soft_wrap=True)
    else:
        console.print(_letter_table(box, found))
    table = Table("reason", box=None)
    for name in ("waiting", "sent again"):
        table.add_column(name, justify="right")
    for reason in reasons:
        waiting, resent = found.waiting[reason], found.resent[reason]
        table.add_row(Text(plain(reason)), f"{waiting:,}", f"{resent:,}")
    console.print(table)


def _letter_table(box: DeadLetterReader, found: Overview) -> Table:
    table = Table("letter", "arrived", "reason", "detail", "key", "value", box=None)
    for letter in found.letters:
        cells = [
            letter.source,
            _time(letter.timestamp_ms)[:19],
            letter.reason + (" (sent again)" if letter.source in box.resent else ""),
            letter.detail,
            preview(letter.key, 24),
            preview(letter.value, 24),
        ]
        table.add_row(*(Text(plain(cell)) for cell in cells))
    return table


def _document(box: DeadLetterReader, letter: DeadLetter, limit: int) -> dict[str, object]:
    return {
        "letter": plain(letter.source),
        "topic": plain(letter.topic),
        "partition": letter.partition,
        "offset": letter.offset,
        "arrived": _time(letter.timestamp_ms),
        "reason": plain(letter.reason),
        "detail": plain(letter.detail),
        "resent": box.resent.get(letter.source),
        "size": None if letter.value is None else len(letter.value),
        "key": preview(letter.key, limit),
        "value": preview(letter.value, limit),
    }


def print_tally(tally: RedriveCounts, *, applied: bool, as_json: bool) -> None:
    """Print what became of the letters, or would become of them."""
    if as_json:
        left = [
            {"reason": reason, "now": now, "letters": count}
            for (reason, now), count in sorted(tally.left.items())
        ]
        print(
            json.dumps(
                {"applied": applied, "sent": tally.sent, "before": tally.before, "left": left}
            )
        )
        return
    console = Console()
    table = Table("reason", "now", box=None)
    table.add_column("letters", justify="right")
    table.add_column("")
    sent = "sent again" if applied else "would be sent again"
    for reason, count in sorted(tally.sent.items()):
        table.add_row(plain(reason), "", f"{count:,}", sent)
    for (reason, now), count in sorted(tally.left.items()):
        table.add_row(plain(reason), plain(now), f"{count:,}", "[red]stays: cannot be read[/]")
    for reason, count in sorted(tally.before.items()):
        table.add_row(plain(reason), "", f"{count:,}", "was sent again before")
    console.print(table if table.row_count else "no such letters")
    for opinion in tally.some_left:
        console.print(Text(plain(f"  {opinion.letter.source}: {opinion.detail}")))
    if tally.sent and not applied:
        console.print("nothing was sent: this is what --apply would do")


@contextmanager
def letters_bar() -> Iterator[Callable[[int], OnProgress]]:
    """Show on stderr how far letters are read, where that is a terminal."""
    console = Console(file=sys.stderr)
    with Progress(console=console, disable=not console.is_terminal) as progress:

        def of(records: int) -> OnProgress:
            task = progress.add_task("letters", total=records)
            return lambda more: progress.advance(task, more)

        yield of


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")

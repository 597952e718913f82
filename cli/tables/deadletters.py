"""Dead letters, and what became of those that were to be sent again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.table import Table

from tidemill.cli.terminal import (
    add_row,
    new_table,
    print_json,
    print_table,
    print_text,
    progress_bar,
)
from tidemill.harmless import harmless
from tidemill.streams.deadletters.reader import DeadLetterReader, OnProgress, Overview
from tidemill.streams.deadletters.redrive import RedriveCounts
from tidemill.streams.deadletters.writer import DeadLetter

CELL_BYTES = 24
PREVIEW_BYTES = 64
WHOLE_BYTES = 4096


def preview(value: bytes | None, limit: int = PREVIEW_BYTES) -> str:
    r"""Return the first *limit* bytes of *value* as ASCII, those not printable as their number.

    >>> preview(bytes([0xC3, 0x01]) + b"abc")
    '\\xc3\\x01abc'
    >>> preview(b"a" * 100, 4)
    'aaaa... (100 bytes)'
    """
    if value is None:
        return "(none)"
    text = "".join(
        chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in value[:limit]
    )
    return text if len(value) <= limit else f"{text}... ({len(value)} bytes)"


def print_overview(
    reader: DeadLetterReader, found: Overview, *, whole: bool, as_json: bool
) -> None:
    """Print the dead letters of *found* and the counts by reason; *whole* with up to 4 KB each."""
    limit = WHOLE_BYTES if whole else PREVIEW_BYTES
    reasons = sorted(found.waiting.keys() | found.resent.keys())
    if as_json:
        counts = {
            each: {"waiting": found.waiting[each], "resent": found.resent[each]} for each in reasons
        }
        letters = [_document(reader, letter, limit) for letter in found.dead_letters]
        print_json({"reasons": counts, "copies": reader.copies, "letters": letters})
        return
    if not reasons:
        print_text("no dead letters")
        return
    if whole:
        for letter in found.dead_letters:
            for name, value in _document(reader, letter, limit).items():
                print_text(f"{name:>10}  {value}")
    else:
        print_table(_overview_table(reader, found))
    print_text("")
    table = new_table("reason", "waiting", "sent again", numbers=("waiting", "sent again"))
    for reason in reasons:
        add_row(table, reason, found.waiting[reason], found.resent[reason])
    print_table(table)


def _overview_table(reader: DeadLetterReader, found: Overview) -> Table:
    table = new_table("letter", "arrived", "reason", "detail", "key", "value")
    for letter in found.dead_letters:
        add_row(
            table,
            letter.source,
            _time(letter.timestamp_ms)[:19],
            letter.reason + (" (sent again)" if letter.source in reader.resent else ""),
            letter.detail,
            preview(letter.key, CELL_BYTES),
            preview(letter.value, CELL_BYTES),
        )
    return table


def _document(reader: DeadLetterReader, letter: DeadLetter, limit: int) -> dict[str, object]:
    return {
        "letter": harmless(letter.source),
        "topic": harmless(letter.topic),
        "partition": letter.partition,
        "offset": letter.offset,
        "arrived": _time(letter.timestamp_ms),
        "reason": harmless(letter.reason),
        "detail": harmless(letter.detail),
        "resent": reader.resent.get(letter.source),
        "size": None if letter.value is None else len(letter.value),
        "key": preview(letter.key, limit),
        "value": preview(letter.value, limit),
    }


def print_redrive(counts: RedriveCounts, *, applied: bool, as_json: bool) -> None:
    """Print what became of the dead letters, or what --apply would do with them."""
    if as_json:
        left = [
            {"reason": reason, "now": now, "letters": count}
            for (reason, now), count in sorted(counts.left.items())
        ]
        document = {"applied": applied, "sent": counts.sent, "before": counts.before, "left": left}
        print_json(document)
        return
    table = _redrive_table(counts, "sent again" if applied else "would be sent again")
    if table.row_count:
        print_table(table)
    else:
        print_text("no such dead letters")
    for opinion in counts.some_left:
        print_text(f"  {opinion.dead_letter.source}: {opinion.detail}")
    if counts.sent and not applied:
        print_text("nothing was sent: this is what --apply would do")


def _redrive_table(counts: RedriveCounts, sent: str) -> Table:
    table = new_table("reason", "now", "letters", "", numbers=("letters",))
    for reason, count in sorted(counts.sent.items()):
        add_row(table, reason, "", count, sent)
    for (reason, now), count in sorted(counts.left.items()):
        add_row(table, reason, now, count, "stays: cannot be read", style="red")
    for reason, count in sorted(counts.before.items()):
        add_row(table, reason, "", count, "was sent again before")
    return table


@contextmanager
def redrive_progress() -> Iterator[Callable[[int], OnProgress]]:
    """Show how many dead letters are read; yield the function to call with the total."""
    with progress_bar("dead letters") as show:

        def of(records: int) -> OnProgress:
            done = 0

            def more(count: int) -> None:
                nonlocal done
                done += count
                show(done, records)

            return more

        yield of


def _time(milliseconds: int) -> str:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):  # beyond the calendar: why it is a dead letter
        return f"{milliseconds} ms"

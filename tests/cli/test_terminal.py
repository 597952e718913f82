"""What every command prints: readable at any width, and harmless whoever wrote the values."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.cli.terminal import (
    PIPE_WIDTH,
    add_row,
    new_table,
    print_json,
    print_table,
    print_text,
    progress_bar,
)
from tidemill.harmless import harmless


@given(st.text())
def test_a_terminal_acts_on_nothing_that_a_value_says(text: str) -> None:
    """Whoever may send an event could otherwise retitle, clear or recolour a terminal."""
    assert harmless(text).isprintable() or not text


def test_tables_and_lines_escape_values_and_read_no_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Features and dead letters come from services; square brackets are data, not style."""
    table = new_table("a\x1b[1m", title="t\x07")
    add_row(table, "\x1b[2J[red]x")
    print_table(table)
    print_text("\x1b[2J[red]y")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "\\x1b[2J[red]x" in out
    assert "\\x1b[2J[red]y" in out


def test_numbers_end_at_the_same_column(capsys: pytest.CaptureFixture[str]) -> None:
    """Their size is seen before they are read."""
    table = new_table("loop", "rows", numbers=["rows"])
    add_row(table, "a", 1_234_567)
    add_row(table, "b", 12)
    add_row(table, "c", None)
    print_table(table)
    heading, _, *rows = capsys.readouterr().out.splitlines()
    assert rows[0].split() == ["a", "1,234,567"]
    assert {len(line.rstrip()) for line in (heading, *rows)} == {len(rows[0].rstrip())}


@pytest.mark.parametrize(("columns", "width"), [(None, PIPE_WIDTH), ("60", 60)])
def test_a_table_is_as_wide_as_there_is_room_and_nothing_is_cut(
    columns: str | None,
    width: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An id that ends in dots cannot be looked up."""
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    value = "x" * 300
    table = new_table("id", "rows", numbers=["rows"])
    add_row(table, value, 7)
    print_table(table)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) == width
    assert sum(line.count("x") for line in lines) == 300


def test_a_line_of_text_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """`grep` finds it as it was written."""
    print_text("word " * 100)
    assert capsys.readouterr().out.count("\n") == 1


def test_json_is_one_line_with_times_as_iso_8601(capsys: pytest.CaptureFixture[str]) -> None:
    """Programs read it line by line, and escapes are JSON's own."""
    print_json({"at": datetime(2026, 1, 1, tzinfo=UTC), "text": "\x1b\n"})
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"at": "2026-01-01T00:00:00+00:00", "text": "\x1b\n"}


def test_progress_is_for_terminals_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """A log file with a hundred bars hides the one line that counts."""
    with progress_bar("loop") as show:
        show(1, 2)
    assert capsys.readouterr() == ("", "")

"""Pieces of Markdown."""

import re
from collections.abc import Iterable, Sequence


def code(text: str) -> str:
    """Return *text* as code that may stand in a table."""
    return f"`{text}`".replace("|", "\\|")


def cell(text: str | None) -> str:
    """Return *text* as one cell of a table, in plain words: only code keeps its marks."""
    words = " ".join((text or "").split())
    return _escaped(words[:1].upper() + words[1:]).replace("|", "\\|")


def prose(text: str | None) -> str:
    """Return the paragraphs of a docstring as Markdown."""
    paragraphs = re.split(r"\n\s*\n", (text or "").strip())
    listed = [re.sub(r"^\s*(\w+): ", r"- `\1`: ", each, flags=re.M) for each in paragraphs]
    return "\n\n".join(_escaped(each) for each in listed)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of *rows*, whose cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    # Docstrings write code as ``code`` or `code`; what is outside of it must not become HTML.
    parts = re.split(r"(``.+?``|`.+?`)", text)
    return "".join(
        part if place % 2 else part.replace("<", "\\<").replace("_", "\\_")
        for place, part in enumerate(parts)
    )

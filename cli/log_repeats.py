"""Lines of the log that come again and again: told once, then counted."""

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from tidemill.cli.log_format import fields

EVERY_S = 60.0
_MOST = 1_000  # different lines that are remembered
_NUMBERS = re.compile(r"\d+")


@dataclass(slots=True)
class _Told:
    at_s: float
    left_out: int = 0


class Repeats(logging.Filter):
    """Lets a warning or an error through once in *every_s*, and then says how often it came.

    Lines are the same if logger, level, text and fields are, whatever numbers they have.
    """

    def __init__(
        self, every_s: float = EVERY_S, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._every_s = every_s
        self._now = now
        self._told: dict[tuple[str, int, str], _Told] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether *record* is to be written; add how many like it were not."""
        if record.levelno < logging.WARNING:
            return True
        text, now_s = record.getMessage(), self._now()
        line = f"{text} {fields(record)}"
        key = record.name, record.levelno, _NUMBERS.sub("0", line)
        told = self._told.get(key)
        if told is not None and now_s - told.at_s < self._every_s:
            told.left_out += 1
            return False
        if told is not None and told.left_out:
            record.msg, record.args = "%s (and %d more like it since)", (text, told.left_out)
        if len(self._told) >= _MOST:
            self._told.clear()
        self._told[key] = _Told(now_s)
        return True

"""An outage is told once and then counted, whatever numbers its lines have."""

import logging

from tidemill.cli.log_repeats import Repeats
from tidemill.log_fields import log_fields


def record(text: str, *args: object, level: int = logging.ERROR) -> logging.LogRecord:
    """Return a record as a logger makes it."""
    return logging.LogRecord("aiokafka", level, __file__, 1, text, args, None)


def test_a_line_is_told_once_in_a_minute_and_then_counted() -> None:
    """A worker's log grew by 9 kB a second while the broker was away."""
    now = 0.0
    repeats = Repeats(60.0, now=lambda: now)
    assert repeats.filter(record("no answer of %s after %d ms", "b:9092", 17))
    for number in range(500):
        assert not repeats.filter(record("no answer of %s after %d ms", "b:9092", number))
    now = 61.0
    again = record("no answer of %s after %d ms", "b:9092", 3)
    assert repeats.filter(again)
    assert again.getMessage() == "no answer of b:9092 after 3 ms (and 500 more like it since)"
    now = 130.0
    alone = record("no answer of %s after %d ms", "b:9092", 3)
    assert repeats.filter(alone)
    assert "more like it" not in alone.getMessage()


def test_other_lines_pass() -> None:
    """What happens to another loop is another line; what people asked to see is all shown."""
    repeats = Repeats(60.0, now=lambda: 0.0)
    assert repeats.filter(record("%s was passed over", "shop/1"))
    assert repeats.filter(record("%s was passed over", "news/1"))
    assert repeats.filter(record("%s was passed over", "shop/1", level=logging.WARNING))
    for loop in ("shop", "news"):
        with log_fields(loop=loop):
            assert repeats.filter(record("the lake is full"))
            assert not repeats.filter(record("the lake is full"))
    for _ in range(3):
        assert repeats.filter(record("a batch", level=logging.INFO))

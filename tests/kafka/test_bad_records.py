"""Bad records are told once, counted as they are now, and shown without what they hold."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from tidemill.kafka import BadRecord, BadRecords, Record, parsed


def bad(offset: int, key: bytes | None = b"k", why: str = "no") -> BadRecord:
    """Return a bad record."""
    record = Record(
        topic="shared", partition=0, offset=offset, key=key, value=b"secret", timestamp_ms=0
    )
    return BadRecord.of(record, ValueError(why))


def test_each_is_told_once_however_often_it_is_read(caplog: pytest.LogCaptureFixture) -> None:
    """The monitor reads every five seconds, and a log of a night must stay readable."""
    known = BadRecords()
    for _ in range(3):
        known.report("shared", [bad(3), bad(5)])
    known.report("shared", [bad(5), bad(9)])
    assert [line.getMessage().count("passed over") for line in caplog.records] == [1, 1, 1]
    assert [each.offset for each in known.all()] == [5, 9]
    assert "hint: look at who can write to this topic" in caplog.text
    assert "secret" not in caplog.text


def test_a_topic_that_was_read_has_a_value_also_if_that_is_none() -> None:
    """An alarm on a metric that is not there says nothing."""
    known, registry = BadRecords(), CollectorRegistry()
    registry.register(known)
    known.report("shared", [bad(1), bad(2)])
    known.report("fine", [])
    text = generate_latest(registry).decode()
    assert 'tidemill_bad_shared_records{topic="shared"} 2.0' in text
    assert 'tidemill_bad_shared_records{topic="fine"} 0.0' in text


def test_keys_and_reasons_are_short_and_printable() -> None:
    """Whoever wrote the record must not write to the operator's terminal too."""
    shown = str(bad(1, b"\x1b[31m\xff\n" + b"x" * 10**6, "\x1b]0;owned\x07\u202e" + "y" * 10**6))
    assert shown.isprintable()
    assert len(shown) < 1_000
    assert "key '\\x1b[31m\\xff" in shown


def test_any_error_of_a_parser_is_the_fault_of_its_record() -> None:
    """No list of exceptions is complete, and one that is missing ends a thread for good."""

    def parse(record: Record) -> int:
        raise RecursionError(record.key)

    record = Record(topic="t", partition=0, offset=7, key=None, value=None, timestamp_ms=0)
    found = parsed(record, parse)
    assert isinstance(found, BadRecord)
    assert (found.offset, found.key) == (7, "")

"""Dead letters are told and counted: from zero, by reason, the first of each with what to do."""

import logging
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest

from tidemill.schemas.logs import DECISIONS, FEEDBACK
from tidemill.streams.deadletters.report import DeadLetterReport
from tidemill.streams.deadletters.writer import REASONS, DeadLetter

CONTRACTS = Path(__file__).parents[3] / "docs" / "guide" / "contracts.md"


def dead_letter(reason: str, offset: int) -> DeadLetter:
    """Return a dead letter of feedback."""
    return DeadLetter(
        topic="t.feedback",
        partition=2,
        offset=offset,
        timestamp_ms=0,
        reason=reason,
        detail="it is odd",
        key=b"d1",
        value=b"x",
    )


def test_dead_letters_are_counted_from_zero_and_the_first_of_each_reason_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An alert on an increase sees the first one, and the log names a command, once."""
    registry = CollectorRegistry()
    counter = Counter("dead", "Dead", ["loop", "log", "reason"], registry=registry)
    report = DeadLetterReport("t", [DECISIONS, FEEDBACK], counter)
    shown = generate_latest(registry).decode()
    assert shown.count(" 0.0\n") == 2 * len(REASONS)
    with caplog.at_level(logging.WARNING):
        report.take(FEEDBACK, [dead_letter("skew", 5), dead_letter("skew", 6)])
        report.take(FEEDBACK, [dead_letter("empty", 7), dead_letter("skew", 8)])
    first, second = (record.getMessage() for record in caplog.records)
    assert "t.feedback/2 offset 5 cannot be read (skew: it is odd)" in first
    assert "tidemill dead-letters show --loop t --reason skew" in first
    assert "offset 7" in second
    fields = caplog.records[0].__dict__
    assert (fields["loop"], fields["partition"], fields["decision_id"]) == ("t", 2, "d1")
    shown = generate_latest(registry).decode()
    assert 'dead_total{log="feedback",loop="t",reason="skew"} 3.0' in shown


def test_every_reason_is_explained_and_none_is_forgotten() -> None:
    """A reason that is not listed would have no zero; one without a line has no meaning."""
    text = CONTRACTS.read_text()
    part = text[text.index("| reason | |") :].split("\n\n", 1)[0]
    cells = [line.split("|")[1] for line in part.splitlines()[2:]]
    assert {name for cell in cells for name in re.findall(r"`([a-z-]+)`", cell)} == set(REASONS)

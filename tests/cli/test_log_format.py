"""Log lines: one for each event, with a date, and harmless whoever sent the values in them."""

import json
import logging
import sys
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.cli.log_format import JsonFormatter, TextFormatter
from tidemill.cli.log_setup import set_up_logging
from tidemill.errors import ConfigError
from tidemill.log_fields import log_fields


def record(
    message: str, *args: object, name: str = "tidemill.x", **extra: object
) -> logging.LogRecord:
    """Return what a call of a logger makes."""
    return logging.getLogger(name).makeRecord(
        name, logging.WARNING, "x.py", 1, message, args, None, extra=extra
    )


def test_a_line_has_a_date_a_zone_and_the_reason_that_the_call_gave() -> None:
    """A reason that never reaches the line is a reason that nobody gets."""
    line = TextFormatter().format(record("no model was trained", reason="no rows", loop="ad"))
    time, _, rest = line.partition(" ")
    assert datetime.fromisoformat(time).tzinfo is not None
    assert rest == "WARNING tidemill.x: no model was trained (reason=no rows, loop=ad)"


def test_a_json_line_has_each_field_by_its_name() -> None:
    """Log stores search by loop and partition, not by words of a sentence."""
    line = JsonFormatter().format(record("%d rows", 3, loop="ad", partition=2))
    document = json.loads(line)
    assert datetime.fromisoformat(document.pop("at")).tzinfo is not None
    assert document == {
        "level": "WARNING",
        "logger": "tidemill.x",
        "message": "3 rows",
        "loop": "ad",
        "partition": 2,
    }


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_work_under_way_marks_its_lines(formatter: logging.Formatter) -> None:
    """Code that does not know its loop logs with it, too; also of other libraries."""
    with log_fields(loop="ad"), log_fields(partition=1):
        inside = formatter.format(record("x", name="aiokafka"))
    outside = formatter.format(record("x", name="aiokafka"))
    assert "ad" in inside
    assert "partition" in inside
    assert "ad" not in outside


@given(st.text(), st.text())
def test_no_value_can_act_on_a_terminal_or_forge_a_line(message: str, value: str) -> None:
    """Ids and features come from services, so anybody may have written them."""
    text = TextFormatter().format(record("%s", message, key=value))
    assert text.replace("\n", "").isprintable()
    document = JsonFormatter().format(record("%s", message, key=value))
    assert "\n" not in document
    assert json.loads(document)["key"] == value


def test_an_error_keeps_its_traceback_in_either_format() -> None:
    """The one line is for people at night, the traceback for us in the morning."""
    try:
        raise ValueError("a\x1b[2J")
    except ValueError:
        failed = logging.getLogger("tidemill").makeRecord(
            "tidemill", logging.ERROR, "x.py", 1, "failed", (), sys.exc_info()
        )
    text = TextFormatter().format(failed)
    assert text.splitlines()[-1] == "ValueError: a\\x1b[2J"
    assert json.loads(JsonFormatter().format(failed))["traceback"].endswith("ValueError: a\x1b[2J")


@pytest.mark.parametrize("name", ["TIDEMILL_LOG", "TIDEMILL_LOG_FORMAT"])
def test_a_level_or_format_that_does_not_exist_is_refused(name: str) -> None:
    """A traceback of `logging` does not say which setting is wrong."""
    with pytest.raises(ConfigError, match=name):
        set_up_logging(verbose=False, env={name: "nope"})

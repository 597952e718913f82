"""The tables at the end of the demo."""

import pytest
from tests.deploy.demo.reports import small_report

from tidemill.cli.tables.demo import print_report


def test_the_tables_say_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    """A dash is honest; a zero would be a claim."""
    print_report(small_report(ledger_balanced=False))
    out = capsys.readouterr().out
    assert "NOT BALANCED" in out
    assert "only 2 later rows" in out
    assert "0.5000" in out
    (month,) = (line for line in out.splitlines() if line.startswith("2013-01"))
    assert month.split()[-3:] == ["-", "-", "-"]

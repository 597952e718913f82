"""What a fleet needs is computed from the figures of the report, and the page says the same."""

import json
from pathlib import Path

import pytest
from benchmarks.scale import REPORT, ScaleLoad, main, needs, told

PAGE = (Path(__file__).parents[2] / "docs/scale.md").read_text()


def test_the_page_has_what_the_report_says() -> None:
    """A new figure in the report is a new table on the page: python -m benchmarks.scale."""
    text = PAGE.partition("<!-- python -m benchmarks.scale -->\n")[2].partition("<!-- end -->")[0]
    assert text.strip() == "\n".join(told(json.loads(REPORT.read_text()), ScaleLoad()))


def test_twice_the_load_takes_twice_the_cores() -> None:
    """Nothing of it is a constant."""
    report = json.loads(REPORT.read_text())
    once = list(needs(report, ScaleLoad(decisions=1e6)))
    twice = list(needs(report, ScaleLoad(decisions=2e6)))
    assert [need.cores * 2 for need in once] == pytest.approx([need.cores for need in twice])


def test_a_load_is_asked_for_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody else's load is another one."""
    main(["--decisions", "1000", "--models", "10", "--feedback", "1"])
    out = capsys.readouterr().out
    assert "1,000 decisions a second of 10 loops, 1 feedback for each" in out
    assert "| decisions over HTTP | 1 |" in out

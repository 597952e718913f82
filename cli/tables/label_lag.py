"""Label-lag curves: how long after decisions their feedback comes."""

from collections.abc import Iterator, Sequence

from tidemill.cli.terminal import print_json, print_text
from tidemill.monitor.label_lag import LabelLag
from tidemill.schemas.loop.durations import told_duration

_BAR = 40
_EIGHTHS = " ▏▎▍▌▋▊▉"


def print_label_lags(curves: Sequence[LabelLag], *, as_json: bool) -> None:
    """Print a chart for each of *curves*, with a mark at the window that is set now."""
    if as_json:
        print_json({"curves": [curve.to_json() for curve in curves]})
        return
    for curve in curves:
        for line in _lines(curve):
            print_text(line)


def _lines(curve: LabelLag) -> Iterator[str]:
    counts = f"{curve.answered:,} of {curve.decisions:,} decisions have such feedback"
    yield f"{curve.loop}, {curve.kind}: {counts}"
    if not curve.feedback:
        yield "  no feedback of a known decision yet"
        return
    yield f"  {'within':>8}  share of the feedback"
    for point in curve.points:
        mark = "  <- set now" if point.delay == curve.within else ""
        length = told_duration(point.delay)
        yield f"  {length:>8}  {point.share:8.2%}  {bar(point.share):<{_BAR}}{mark}".rstrip()
    names = (f"p{share:.1%}".replace(".0%", "%").rstrip("%") for share in curve.quantiles)
    delays = (told_duration(max(delay, delay * 0)) for delay in curve.quantiles.values())
    quantiles = ", ".join(f"{name} {delay}" for name, delay in zip(names, delays, strict=True))
    longest = "" if curve.longest is None else f", longest {told_duration(curve.longest)}"
    yield f"  {quantiles}{longest}"
    yield (
        f"  the window of {told_duration(curve.within)} keeps {curve.kept:.2%}; "
        f"{curve.too_late:.2%} is in it, but arrived after the grace"
    )
    if curve.unmatched:
        yield f"  {curve.unmatched:,} more are of no known decision"


def bar(share: float) -> str:
    """Return a bar as long as *share* of the chart.

    >>> bar(0.5) == "█" * 20
    True
    """
    eighths = round(share * _BAR * 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()

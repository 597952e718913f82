"""The flights as two streams: nothing in a decision is later than the decision."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from tidemill.deploy.demo.flights import LOOP_FILE, WEATHER, Flights, load_flights, prepare
from tidemill.schemas.events.schemas import decision_frame_schema
from tidemill.schemas.loop.loop_file import load_loop


@pytest.fixture(scope="module")
def year() -> Flights:
    """All of 2013."""
    return load_flights()


def test_every_flight_of_the_year_is_there_once(year: Flights) -> None:
    """The demo's figures are checked against those of the data set."""
    decisions, arrivals = year.decisions, year.arrivals
    assert decisions.height == decisions["id"].n_unique() == 336_776
    assert arrivals.height == 336_776 - 9_430
    assert arrivals["arr_delay"].gt(15).mean() == pytest.approx(0.2371, abs=1e-4)


def test_both_streams_are_in_event_time(year: Flights) -> None:
    """The playback sends them as they come."""
    assert year.decisions["at"].is_sorted()
    assert year.arrivals["at"].is_sorted()


def test_the_features_are_those_of_the_loop(year: Flights) -> None:
    """A feature that is misspelt here is refused by every worker, 336,776 times."""
    loop = load_loop(LOOP_FILE)
    decisions = year.decisions
    assert set(decisions.columns) == {"id", "at", "entity", *loop.features}
    features = decision_frame_schema(loop)["features"]
    assert isinstance(features, pl.Struct)
    assert {field.name: field.dtype for field in features.fields} == {
        name: dtype for name, dtype in decisions.schema.items() if name in loop.features
    }
    required = [name for name, feature in loop.features.items() if not feature.nullable]
    assert decisions.select(required).null_count().sum_horizontal().item() == 0


def test_arrivals_come_when_planes_land(year: Flights) -> None:
    """Clock times at the destination cross midnight, zones and the change to summer time."""
    both = year.arrivals.join(
        year.decisions.select(decision_id="id", decided="at"), on="decision_id"
    )
    lag = (both["at"] - both["decided"]).dt.total_minutes()
    assert lag.min() >= 15  # type: ignore[operator]  # no flight is shorter
    assert lag.max() < 2_000  # type: ignore[operator]  # a day and a half late
    assert lag.median() == pytest.approx(170, abs=15)
    assert (lag <= 8 * 60).mean() == pytest.approx(0.992, abs=0.002)


def known(minute: int, reports: list[tuple[int, float]]) -> float | None:
    """Return the temperature known to a flight *minute* after ten, given *reports* by hour."""
    flight = pl.DataFrame(
        {
            "year": [2013],
            "month": [7],
            "day": [1],
            "sched_dep_time": [600 + minute],
            "dep_delay": [0],
            "arr_time": [915],
            "arr_delay": [0],
            "carrier": ["UA"],
            "flight": [1],
            "tailnum": ["N1"],
            "origin": ["EWR"],
            "dest": ["SFO"],
            "air_time": [340],
            "distance": [2565],
            "hour": [6],
            "minute": [minute],
            "time_hour": ["2013-07-01T10:00:00Z"],
        }
    )
    weather = pl.DataFrame(
        [
            {"origin": "EWR", "time_hour": f"2013-07-01T{hour:02}:00:00Z", "temp": temp}
            | dict.fromkeys(set(WEATHER) - {"temp"}, 0.0)
            for hour, temp in reports
        ]
    )
    prepared = prepare(flight, weather, {"SFO": "America/Los_Angeles"})
    value = prepared.decisions["temp"].item()
    return None if value is None else float(value)


@pytest.mark.parametrize(
    ("minute", "reports", "temperature"),
    [
        (30, [(9, 1.0), (10, 2.0), (11, 3.0)], 2.0),
        (0, [(9, 1.0), (10, 2.0), (11, 3.0)], 2.0),
        (30, [(8, 1.0), (11, 3.0)], 1.0),
        (30, [(6, 1.0)], None),
        (30, [(11, 3.0)], None),
    ],
)
def test_the_weather_is_the_last_one_known_and_never_a_later_one(
    minute: int, reports: list[tuple[int, float]], temperature: float | None
) -> None:
    """A model that has seen the next hour's storm looks clever until it is deployed."""
    assert known(minute, reports) == temperature


def test_the_first_days_keep_all_that_came_of_them(year: Flights) -> None:
    """A short run must be balanced too."""
    fortnight = year.first_days(14)
    start = datetime(2013, 1, 1, 10, 15, tzinfo=UTC)
    assert fortnight.decisions["at"].min() == start
    last = fortnight.decisions["at"].max()
    assert isinstance(last, datetime)
    assert last < start + timedelta(days=14)
    assert set(fortnight.arrivals["decision_id"]) <= set(fortnight.decisions["id"])
    assert fortnight.arrivals.height > 0.95 * fortnight.decisions.height

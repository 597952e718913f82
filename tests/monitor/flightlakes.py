"""The real flights in a lake, joined by the very join that workers run, but without Kafka."""

import io
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import polars as pl

from tidemill.deploy.demo.flights import LOOP_FILE, data_folder, load_flights
from tidemill.features.lake.lake import CompareAndSwap, Lake, LakeConfig
from tidemill.schemas.events.schemas import CIRCUMSTANCES
from tidemill.schemas.logs import DECISIONS, FEEDBACK, Log
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.loop_file import load_loop
from tidemill.streams.join.checkpoints import Closed
from tidemill.streams.join.partition_join import PartitionJoin
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.units import micros

PLACE = {"topic": pl.lit("flights"), "partition": pl.lit(0, dtype=pl.Int32)}


def flights_loop() -> Loop:
    """Return the example's loop."""
    return load_loop(LOOP_FILE)


def at_the_gate(days: int | None = None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return decisions and arrivals as the demo plays them: feedback when the doors open."""
    flights = load_flights()
    flights = flights if days is None else flights.first_days(days)
    return flights.decisions, flights.arrivals


def on_the_ground() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the same, but feedback after departure delay and air time: without taxiing."""
    flights = load_flights()
    with zipfile.ZipFile(data_folder() / "flights.csv.zip") as archive:
        rows = pl.read_csv(io.BytesIO(archive.read("flights.csv")), null_values="NA")
    date = [pl.col(name).cast(pl.String).str.zfill(2) for name in ("month", "day")]
    lags = rows.select(
        decision_id=pl.concat_str(
            pl.concat_str("carrier", pl.col("flight").cast(pl.String), "origin", separator="-"),
            pl.concat_str("year", *date),
            pl.col("sched_dep_time").cast(pl.String).str.zfill(4),
            separator="-",
        ),
        lag=pl.duration(minutes=pl.col("dep_delay") + pl.col("air_time")),
    )
    made = flights.decisions.select(decision_id="id", made="at")
    arrivals = flights.arrivals.join(lags, on="decision_id").join(made, on="decision_id")
    return flights.decisions, arrivals.with_columns(at=pl.col("made") + pl.col("lag")).sort(
        "at", "id"
    ).drop("made", "lag")


def write_flights(folder: Path, decisions: pl.DataFrame, arrivals: pl.DataFrame) -> Lake:
    """Join both streams a day at a time, and keep in *folder* what a worker would keep."""
    loop = flights_loop()
    rules = JoinRules.of(loop)
    lake = Lake(LakeConfig(root=str(folder)))
    lake.create(loop)
    join = PartitionJoin(rules)
    raw: dict[Log, list[pl.DataFrame]] = {DECISIONS: [], FEEDBACK: []}
    closed: list[Closed] = []
    frames = {"decisions": _decisions(decisions, rules), "feedback": _feedback(arrivals, rules)}
    for part in _days(frames["decisions"], frames["feedback"]):
        raw[DECISIONS].append(join.take_decisions(part[0]))
        raw[FEEDBACK].append(join.take_feedback(part[1]))
        closed += [each] if (each := join.close()) is not None else []
    last = frames["decisions"]["at"].max()
    for log in raw:
        join.advance(log, rules.closing_time(last))  # type: ignore[arg-type]
    closed += [each] if (each := join.close()) is not None else []
    for log, parts in raw.items():
        frame = pl.concat(parts).with_columns(ingested_at=pl.col("at"), **PLACE)
        numbers = {"offset": frame.height}
        lake.table(loop.loop, log).append(frame, swaps=_swaps(numbers))
    end = closed[-1]
    numbers = {
        "frontier": micros(end.frontier),
        "late": end.counts.late,
        "duplicate": end.counts.duplicate,
        "unmatched": end.counts.unmatched,
    }
    examples = pl.concat([each.examples for each in closed]).with_columns(**PLACE)
    lake.table(loop.loop, "examples").append(examples, swaps=_swaps(numbers))
    return lake


def _swaps(numbers: dict[str, int]) -> list[CompareAndSwap]:
    return [CompareAndSwap(f"{name}/0", None, number) for name, number in numbers.items()]


def _days(
    decisions: pl.DataFrame, feedback: pl.DataFrame
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    days = pl.concat([decisions["at"], feedback["at"]]).dt.truncate("1d").unique().sort()
    for day in days:
        inside = pl.col("at").is_between(day, day + timedelta(days=1), closed="left")
        yield decisions.filter(inside), feedback.filter(inside)


def _decisions(frame: pl.DataFrame, rules: JoinRules) -> pl.DataFrame:
    features = rules.decisions["features"]
    assert isinstance(features, pl.Struct)
    made = frame.with_columns(
        features=pl.struct(pl.col(field.name).cast(field.dtype) for field in features.fields),
        action=pl.lit("quiet"),
        score=pl.lit(None, dtype=pl.Float64),
        propensity=pl.lit(1.0),
        source=pl.lit("default"),
        model_version=pl.lit(None, dtype=pl.String),
        policy_version=pl.lit(1, dtype=pl.Int32),
        loop_version=pl.lit(1, dtype=pl.Int32),
        **{name: pl.lit(None, dtype=rules.decisions[name]) for name in CIRCUMSTANCES},
    )
    return made.select(*rules.decisions).with_row_index("offset").cast({"offset": pl.Int64})


def _feedback(frame: pl.DataFrame, rules: JoinRules) -> pl.DataFrame:
    told = frame.with_columns(kind=pl.lit("arrived"), values=pl.struct("arr_delay"))
    return told.select(*rules.feedback).with_row_index("offset").cast({"offset": pl.Int64})

"""The logs of `pending`: decisions of a week, evenly spread, and clicks up to a week after them.

Every third decision gets a click, after one of a thousand delays from nothing to the whole window,
so the clicks for the decisions of any minute are spread over the whole week: the hardest case for a
join that has spilled them. Everything follows from a decision's number.
"""

from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from tidemill.schemas.events.schemas import (
    CIRCUMSTANCES,
    TIME,
    decision_frame_schema,
    feedback_frame_schema,
)
from tidemill.schemas.logs import DECISIONS, FEEDBACK, Log
from tidemill.schemas.loop.definition import Loop
from tidemill.streams.units import micros

Numbers = npt.NDArray[np.int64]

START = micros(datetime(2025, 3, 1, tzinfo=UTC))
WITHIN = timedelta(days=7)
GRACE = timedelta(minutes=1)
PARTITIONS = 4
_WINDOW = micros(WITHIN)
_DELAYS = 1000
_EVERY_CLICK = 3  # every third decision has one


def loop(name: str, memory: str) -> Loop:
    """Return a loop of few features and a window of a week, with the budget *memory*."""
    return Loop.model_validate(
        {
            "loop": name,
            "decision": {"type": "bool", "default": False},
            "features": {"price": "float", "visits": "int", "country": "category"},
            "feedback": {"click": {"within": "7d", "values": {"amount": "float"}}},
            "label": {"sql": "count(*) > 0"},
            "grace": "1m",
            "policy": {"kind": "threshold"},
            "partitions": PARTITIONS,
            "memory": memory,
        }
    )


class Logs:
    """Both logs, with *pending* decisions a window."""

    def __init__(self, bench: Loop, pending: int) -> None:
        self.every = _WINDOW / pending  # microseconds from one decision to the next
        self._schemas: dict[Log, pl.Schema] = {
            DECISIONS: decision_frame_schema(bench),
            FEEDBACK: feedback_frame_schema(bench),
        }

    def at(self, numbers: Numbers) -> Numbers:
        """Return when decisions were made, in microseconds."""
        times: Numbers = START + (numbers * self.every).astype(np.int64)
        return times

    def clicked_at(self, numbers: Numbers) -> Numbers:
        """Return when decisions whose number is a multiple of three got their click."""
        return self.at(numbers) + numbers // _EVERY_CLICK % _DELAYS * (_WINDOW // _DELAYS)

    def decisions(self, first: int, last: int) -> pl.DataFrame:
        """Return the decisions from number *first* up to before *last*."""
        number = np.arange(first, last)
        features = pl.DataFrame(
            {
                "price": number % 1000 / 7,
                "visits": number % 97,
                "country": pl.Series(["DE", "AT", "CH", "FR", "PL"]).gather(number % 5),
            }
        )
        columns = {
            "id": _ids("decision", number),
            "at": _times(self.at(number)),
            "entity": pl.lit(None, dtype=pl.String),
            "action": pl.lit(False),
            "score": pl.lit(0.25),
            "propensity": pl.lit(1.0),
            "source": pl.lit("model"),
            "model_version": pl.lit("lightgbm-7"),
            "policy_version": pl.lit(1),
            "loop_version": pl.lit(1),
            "features": pl.lit(features.to_struct("features")),
            **{name: pl.lit(None) for name in CIRCUMSTANCES},
        }
        return self._frame(DECISIONS, number, columns)

    def feedback(self, first: int, last: int) -> pl.DataFrame:
        """Return the clicks between the decisions *first* and *last*, by their time."""
        since, until = self.at(np.array([first, last]))
        period = _EVERY_CLICK * _DELAYS
        delays = np.arange(_DELAYS) * (_WINDOW // _DELAYS)
        lowest = np.maximum(((since - START - delays) / self.every).astype(np.int64), 0) // period
        rounds = int((until - since) / self.every) // period + 3
        number = (lowest[:, None] + np.arange(rounds)) * period
        number = (number + np.arange(_DELAYS)[:, None] * _EVERY_CLICK).ravel()
        at = self.clicked_at(number)
        number = number[(at >= since) & (at < until)]
        number = number[np.argsort(self.clicked_at(number), kind="stable")]
        columns = {
            "id": _ids("click", number),
            "decision_id": _ids("decision", number),
            "kind": pl.lit("click"),
            "at": _times(self.clicked_at(number)),
            "values": pl.lit(pl.DataFrame({"amount": number % 9 / 2}).to_struct("values")),
        }
        return self._frame(FEEDBACK, number, columns)

    def _frame(self, log: Log, number: Numbers, columns: dict[str, pl.Expr]) -> pl.DataFrame:
        partition = pl.Series("partition", number % PARTITIONS, dtype=pl.Int32)
        schema = self._schemas[log]
        wanted = [columns[name].cast(kind).alias(name) for name, kind in schema.items()]
        return partition.to_frame().with_columns(wanted)


def expected(logs: Logs, count: int) -> npt.NDArray[np.bool_]:
    """Return of each of *count* decisions whether its click came before the logs ended."""
    number = np.arange(count)
    end = int(logs.at(np.array([count]))[0])
    clicked: npt.NDArray[np.bool_] = (number % _EVERY_CLICK == 0) & (logs.clicked_at(number) < end)
    return clicked


def _ids(prefix: str, number: Numbers) -> pl.Expr:
    return pl.lit(pl.select(pl.format(f"{prefix}-{{}}", pl.lit(pl.Series(number)))).to_series())


def _times(at: Numbers) -> pl.Expr:
    return pl.lit(pl.Series(at).cast(TIME))

"""Labels of closed decisions: the loop's SQL expression over their joined feedback, by DuckDB.

One query computes the labels of all decisions of one close, whatever is wrong with some of them.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl

from tidemill.schemas.loop.labels import connect
from tidemill.schemas.loop.sql.label_query import LabelQuery
from tidemill.streams.units import Bools

GROUP = "_decision"
"""The column with the number of the decision; a value of a loop cannot start with an underscore."""


@dataclass(frozen=True, slots=True)
class ComputedLabels:
    """One label for each decision: *values* is nan without one, *is_error* if it has an error."""

    values: npt.NDArray[np.float64]
    is_error: Bools

    @classmethod
    def none(cls, decisions: int) -> "ComputedLabels":
        """Return no label for each of *decisions*."""
        return cls(np.full(decisions, np.nan), np.zeros(decisions, dtype=np.bool_))


class LabelEngine:
    """A DuckDB with one thread, which all loops of a process share: each costs 8 threads and 4 MB.

    Queries of other threads wait; one takes some milliseconds.
    """

    def __init__(self) -> None:
        self._connection = connect()
        self._lock = threading.Lock()

    @contextmanager
    def over(self, joined: pl.DataFrame) -> Iterator[duckdb.DuckDBPyConnection]:
        """Hand out the connection, with *joined* as a table of that name."""
        with self._lock:
            self._connection.register("joined", joined.to_arrow())
            try:
                yield self._connection
            finally:
                self._connection.unregister("joined")


class Labels:
    """Evaluates one label expression, by *engine* or by a DuckDB of its own.

    The expression aggregates one row per joined feedback: columns ``kind``, ``at``, ``offset``,
    ``decision_at`` and every feedback value by its name. *failed* counts the decisions whose label
    is an error; *last_error* names one of the last of them, *last_failed_id*, and says why.
    """

    def __init__(self, query: LabelQuery, engine: LabelEngine | None = None) -> None:
        self._query = query.over("joined", [f'"{GROUP}"'])
        self._plain = query.plain
        self._engine = engine or LabelEngine()
        self.failed = 0
        self.last_error = self.last_failed_id = ""

    def of(self, joined: pl.DataFrame, ids: pl.Series) -> ComputedLabels:
        """Return one label for each decision.

        Args:
            joined: the joined feedback, ordered by (at, offset) within each decision; its column
                `GROUP` is the number of its decision in *ids*.
            ids: the ids of the decisions.
        """
        labels = ComputedLabels.none(len(ids))
        if not len(joined):
            return labels
        with self._engine.over(joined) as connection:
            result = connection.sql(self._query).to_arrow_table()
            computed = pl.DataFrame(result)  # Arrow's own to_numpy would import all of pandas
            groups = computed[GROUP].to_numpy()
            labels.values[groups] = computed["label"].fill_null(np.nan).to_numpy()
            labels.values[~np.isfinite(labels.values)] = np.nan
            labels.is_error[groups] = computed["is_error"].to_numpy()
            if labels.is_error.any():
                self.failed += int(np.count_nonzero(labels.is_error))
                group = int(np.argmax(labels.is_error))
                self.last_failed_id = str(ids[group])
                self.last_error = f"{self.last_failed_id}: {self._error_of(group, connection)}"
        return labels

    def _error_of(self, group: int, connection: duckdb.DuckDBPyConnection) -> str:
        """Return why the label of one decision is an error, in DuckDB's words."""
        try:
            connection.execute(
                f'SELECT {self._plain} FROM joined WHERE "{GROUP}" = {group}'
            ).fetchall()
        except duckdb.Error as error:
            return str(error).splitlines()[0]
        return "an error in a part that DuckDB does not need for the result"

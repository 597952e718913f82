"""Labels of closed decisions: the loop's SQL expression over their joined feedback, by DuckDB.

One query computes the labels of all decisions of one close.
"""

from typing import Literal

import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl

from tidemill.schemas.loop.labels import connect

GROUP = "_decision"
"""The column with the number of the decision; a value of a loop cannot start with an underscore."""


class Labels:
    """Evaluates one label expression, with a single-threaded DuckDB connection of its own.

    The expression aggregates one row per joined feedback: columns ``kind``, ``at``, ``offset``,
    ``decision_at`` and every feedback value by its name.
    """

    def __init__(self, sql: str, *, label_type: Literal["bool", "float"]) -> None:
        value = f"CAST(({sql}) AS BOOLEAN)" if label_type == "bool" else f"({sql})"
        self._query = (
            f'SELECT "{GROUP}", CAST({value} AS DOUBLE) AS label FROM joined GROUP BY "{GROUP}"'
        )
        self._connection = connect()
        self.failed = 0

    def of(self, joined: pl.DataFrame, decisions: int) -> npt.NDArray[np.float64]:
        """Return one label for each decision, nan where the expression gives none.

        Args:
            joined: the joined feedback, ordered by (at, offset) within each decision; its column
                `GROUP` is the number of its decision, from 0 and below *decisions*.
            decisions: how many labels are asked for.

        Returns:
            shape (decisions,). A label that is null, not finite or cannot be computed from the
            feedback (a division of text, say) is nan; `failed` counts those that cannot be
            computed.
        """
        labels = np.full(decisions, np.nan)
        if len(joined):
            self._fill(labels, joined)
        labels[~np.isfinite(labels)] = np.nan
        return labels

    def _fill(self, labels: npt.NDArray[np.float64], joined: pl.DataFrame) -> None:
        """Evaluate the groups of *joined*; bisect them until each group that fails is alone."""
        try:
            self._connection.register("joined", joined.to_arrow())
            result = self._connection.sql(self._query).to_arrow_table()
        except duckdb.Error:
            groups = joined[GROUP].unique(maintain_order=True)
            if len(groups) == 1:
                self.failed += 1
                return
            half = groups.head(len(groups) // 2).implode()
            self._fill(labels, joined.filter(pl.col(GROUP).is_in(half)))
            self._fill(labels, joined.filter(~pl.col(GROUP).is_in(half)))
            return
        self._connection.unregister("joined")
        computed = pl.DataFrame(result)  # Arrow's own to_numpy would import all of pandas
        labels[computed[GROUP].to_numpy()] = computed["label"].fill_null(np.nan).to_numpy()

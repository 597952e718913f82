"""Errors of DuckDB and Delta over a damaged lake, as what they mean: which file, and which rows."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import duckdb

from tidemill.errors import LakeError
from tidemill.features.lake import damage
from tidemill.features.lake.lake import Lake

UNREADABLE = (duckdb.IOException, duckdb.InvalidInputException)
"""What DuckDB raises for a file that is gone or cut off; bad queries raise some of them too."""


@contextmanager
def damage_named(lake: Lake, loops: Iterable[str]) -> Iterator[None]:
    """Look for damage of *loops* if the block cannot read the lake.

    Raises:
        LakeError: the block could not read it; it names the damage if there is any.
    """
    try:
        yield
    except LakeError as error:
        _find(lake, loops, error)
        raise
    except UNREADABLE as error:
        _find(lake, loops, error)
        raise LakeError(
            f"the lake at {lake.root} cannot be read: {error}",
            hint="a compaction may have removed a file meanwhile: try again",
        ) from error


def _find(lake: Lake, loops: Iterable[str], error: Exception) -> None:
    for name in loops:
        try:
            damage.check(lake, name)
        except LakeError as found:
            raise found from error

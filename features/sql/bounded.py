"""A DuckDB connection within a memory limit, for queries over a lake of any size."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from tidemill.errors import LakeError
from tidemill.features.sql.views import open_duckdb


@contextmanager
def bounded_duckdb(
    doing: str, *, memory_mb: int, threads: int | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a connection for *doing* something; it spills to a temporary folder.

    Raises:
        LakeError: the block needs more memory, or a file could not be read.
    """
    with (
        tempfile.TemporaryDirectory(prefix="tidemill-duckdb-") as folder,
        open_duckdb(threads=threads) as connection,
    ):
        connection.execute(f"SET memory_limit = '{memory_mb}MB'")
        connection.execute("SET temp_directory = $folder", {"folder": folder})
        connection.execute("SET preserve_insertion_order = false")
        try:
            yield connection
        except duckdb.OutOfMemoryException as error:
            raise LakeError(
                f"{doing} needs more than {memory_mb} MB: {error}",
                hint="raise --memory-mb, or narrow the time with --from and --to",
            ) from error
        except duckdb.IOException as error:
            raise LakeError(
                f"{doing} cannot read the lake: {error}",
                hint="a compaction may have removed a file meanwhile: try again",
            ) from error

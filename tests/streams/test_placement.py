"""Where ids belong: the same partitions from Kafka's algorithm, for columns of ids and in SQL."""

import duckdb
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.features.sql.misplaced import partition_sql
from tidemill.schemas.partitioner import partition_of
from tidemill.streams.placement import misplaced_in, partitions_of

IDS = st.lists(st.text(max_size=40) | st.text(min_size=255, max_size=300), max_size=8)


@given(IDS, st.integers(1, 50))
def test_a_column_of_ids_belongs_where_each_of_them_does(ids: list[str], partitions: int) -> None:
    """Of any length and in any script; slices of a column too."""
    wanted = [partition_of(each.encode(), partitions) for each in ids]
    column = pl.Series("id", ids, dtype=pl.String)
    assert partitions_of(column, partitions).tolist() == wanted
    assert partitions_of(column[1:], partitions).tolist() == wanted[1:]


@pytest.mark.slow
@given(IDS)
def test_sql_says_the_same(ids: list[str]) -> None:
    """The audit and the views name what is misplaced without a line of the join's code."""
    ids = [each.replace("\0", "") for each in ids]
    wanted = [partition_of(each.encode(), 7) for each in ids]
    frame = pl.DataFrame({"id": ids}, schema={"id": pl.String})
    with duckdb.connect() as connection:
        connection.register("ids", frame.to_arrow())
        found = connection.execute(f"SELECT {partition_sql('id', 7)} FROM ids").fetchall()
    assert [each for (each,) in found] == wanted


@pytest.mark.parametrize(
    ("key", "hashed"),
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536)],
)
def test_keys_are_placed_as_kafka_places_them(key: bytes, hashed: int) -> None:
    """The known answers of Kafka's own tests."""
    assert partition_of(key, 7) == (hashed & 0x7FFFFFFF) % 7


def test_with_one_partition_nothing_is_misplaced() -> None:
    """Everything meets there, whatever its key."""
    ids = pl.Series("id", ["a", "b"])
    assert not misplaced_in(0, 1)(ids).any()
    assert misplaced_in(partition_of(b"a", 4), 4)(ids).tolist()[0] is False

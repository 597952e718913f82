"""The lake keeps the items of decisions, also when their features become more."""

from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import polars as pl
import pytest
from tests.schemas.loops import ITEMS, minimal, with_items

from tidemill.errors import ContractError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.layouts import (
    DECISIONS,
    EXAMPLES,
    FEEDBACK,
    fitted,
    layouts,
    missing_fields,
)
from tidemill.schemas.loop.definition import Loop

AT = datetime(2026, 1, 1, tzinfo=UTC)
OLD = with_items()
OLD_FEATURES = pl.Struct({"price": pl.Float64(), "topic": pl.String(), "age": pl.Int64()})


def later(**features: object) -> Loop:
    """Return a second version, whose items have more *features*."""
    given = {"price": "float", "topic": "category", "age": {"type": "int", "nullable": True}}
    items = {**ITEMS, "features": {**given, **features}}
    return with_items(version=2, decision={"type": "choice", "items": items})


NEW = later(colour={"type": "category", "nullable": True})


def rows(loop: Loop, offset: int, **features: object) -> pl.DataFrame:
    """Return one decision of *loop*, as the worker writes it."""
    plain = {"price": 0.5, "topic": "news", "age": None, **features}
    items = [{"id": name, "propensity": 0.5, "position": None, "features": plain} for name in "ab"]
    schema = layouts(loop)[DECISIONS]
    row = {"id": f"d{offset}", "at": AT, "offset": offset, "items": items}
    return pl.DataFrame([{**row, "event_date": date(2026, 1, 1)}], schema=schema)


def test_only_loops_with_items_have_the_columns() -> None:
    """The tables of all other loops stay as they are."""
    tables = layouts(OLD)
    assert tables[DECISIONS]["items"] == rows(OLD, 0).schema["items"]
    assert tables[FEEDBACK]["item"] == pl.String()
    assert "items" not in tables[EXAMPLES]
    of_item = ["item", "position", "item_propensity", "item_features"]
    assert [name for name in tables[EXAMPLES] if name in of_item] == of_item
    assert tables[EXAMPLES]["item_features"] == OLD_FEATURES
    plain = layouts(minimal())
    assert not {"items", *of_item} & set(plain[EXAMPLES])
    assert "items" not in plain[DECISIONS]
    assert "item" not in plain[FEEDBACK]


def test_rows_of_the_first_version_fit_the_columns_of_the_second() -> None:
    """The table has the columns of both, and what a row does not know is null in each item."""
    wide = layouts(NEW)[DECISIONS]
    frame = fitted(rows(OLD, 1, age=7), wide)
    assert frame.schema == wide
    assert frame["items"].to_list()[0][1]["features"] == {
        "price": 0.5,
        "topic": "news",
        "age": 7,
        "colour": None,
    }
    with pytest.raises(ValueError, match="items is"):
        fitted(rows(NEW, 1, colour="red"), layouts(OLD)[DECISIONS])


def test_a_feature_of_items_that_changes_its_type_is_refused() -> None:
    """Rows that are there could not be read any more."""
    have = layouts(OLD)[DECISIONS]
    with pytest.raises(ContractError, match=r"decisions\.items\.features\.topic as String"):
        missing_fields(DECISIONS, have, layouts(later(topic="int"))[DECISIONS])
    assert missing_fields(DECISIONS, have, have) == []


def test_a_table_grows_by_a_feature_of_items(tmp_path: Path) -> None:
    """Old and new files are read together, by Polars and by DuckDB."""
    lake = Lake(LakeConfig(root=str(tmp_path)))
    lake.create(OLD)
    lake.table(OLD.loop, DECISIONS).append(rows(OLD, 1, age=7).drop("event_date"), swaps=[])
    lake.create(NEW)
    table = lake.table(NEW.loop, DECISIONS)
    table.append(rows(NEW, 2, colour="red").drop("event_date"), swaps=[])
    assert table.schema["items"] == layouts(NEW)[DECISIONS]["items"]
    by_duckdb = duckdb.connect().sql(
        f'SELECT items FROM read_parquet({table.uris()!r}, union_by_name=true) ORDER BY "offset"'
    )
    read = [table.read(["offset", "items"]), table.scan().collect(), by_duckdb.pl()]
    for frame in read:
        lists = (frame.sort("offset") if "offset" in frame else frame)["items"].to_list()
        colours = [[each["features"]["colour"] for each in items] for items in lists]
        assert colours == [[None, None], ["red", "red"]]

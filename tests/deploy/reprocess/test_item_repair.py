"""Lost rows of a loop with items come back from the topics: single items, and lists of them."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from tests.deploy.reprocess.test_repair import remove_newest_commit, table_of
from tests.streams.rig import START, Rig, new_rig, until
from tests.streams.runtime.test_items import DECISION, SECOND, click, decide

from tidemill.cli.app import main
from tidemill.features.lake.layouts import TABLES
from tidemill.kafka import KafkaConfig

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


def written(kafka: KafkaConfig, folder: Path) -> Rig:
    """Return a closed lake: feedback for one item, for all of them, and for one not shown."""
    features = {"hour": "int", "price_limit": "float", "page": "category"}
    changes = {"decision": DECISION, "policy": {"kind": "greedy"}, "features": features}
    rig = new_rig(kafka, folder, idle_after="1h", partitions=1, **changes)
    producer = rig.producer()
    for number in range(3):
        decide(producer, f"d{number}", START + number * SECOND)
    click(producer, "d0", START + 5 * SECOND, "tea", "one")
    click(producer, "d1", START + 6 * SECOND, None, "all")
    click(producer, "d2", START + 7 * SECOND, "salt", "hidden")
    producer.flush()
    with rig.worker():
        rig.close(START + 3600 * SECOND)
        until(rig.is_done, "all is closed")
    return rig


def rows_of(rig: Rig) -> dict[str, pl.DataFrame]:
    """Return all rows of all tables, in order."""
    found = {name: table_of(rig, name).read() for name in TABLES}
    return {
        name: rows.sort("partition", "offset", *(["position"] if name == "examples" else []))
        for name, rows in found.items()
    }


def remove_single_rows(rig: Rig) -> None:
    """Remove an item, a decision with its list, and the feedback that no item took."""
    table_of(rig, "examples").handle().delete('"decision_id" = \'d1\' AND "position" = 1')
    table_of(rig, "decisions").handle().delete("\"id\" = 'd0'")
    table_of(rig, "feedback").handle().delete("\"id\" = 'hidden'")


@pytest.mark.soak
@pytest.mark.parametrize("damage", [remove_single_rows, remove_newest_commit])
def test_a_repair_puts_exactly_the_lost_rows_of_items_back(
    kafka: KafkaConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Rig], None],
) -> None:
    """Row for row, and the ledger and the audit agree again."""
    rig = written(kafka, tmp_path)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", rig.kafka.bootstrap)
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path / "lake"))
    name, before = rig.loop.loop, rows_of(rig)
    assert [len(rows) for rows in before.values()] == [3, 3, 6]
    assert main(["audit", name]) == 0, capsys.readouterr()
    damage(rig)
    assert main(["audit", name]) == 1
    assert f"tidemill lake repair {name}" in "".join(capsys.readouterr()).replace("\n", " ")
    assert main(["lake", "repair", name]) == 0
    for table, rows in rows_of(rig).items():
        assert_frame_equal(rows, before[table])
    capsys.readouterr()
    assert main(["ledger", name, "--json"]) == 0, capsys.readouterr()
    assert "unknown_item" in capsys.readouterr().out
    assert main(["audit", name]) == 0, capsys.readouterr()

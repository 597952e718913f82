"""`tidemill lake backfill`: on several processes, killed, resumed, listed, dropped."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from tests.streams.join_logs import LOOP
from tests.streams.raw_lakes import examples, shop, worked, write

from tidemill.cli.app import main
from tidemill.cli.commands.reprocess import make_labels_anew
from tidemill.deploy.local.supervisor import tidemill_command
from tidemill.deploy.reprocess.backfill import begun, run
from tidemill.errors import LakeError, RequestError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.sql.backfills import Backfill, done, read_backfill, table_name
from tidemill.features.sql.datasets import training_set
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.loop_file import dump_loop

pytestmark = pytest.mark.slow  # each starts processes


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake of two partitions."""
    return write(tmp_path_factory.mktemp("lake"), [worked(seed, 200) for seed in (11, 12)])


@pytest.fixture
def lake(written: Lake, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """The same, named by the environment."""
    monkeypatch.setenv("TIDEMILL_LAKE", written.root)
    return written


def test_two_processes_make_what_the_live_worker_made(
    lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    """One command, all cores, and a summary that a script can read."""
    arguments = ["lake", "backfill", LOOP.loop, "--name", "same", "--processes", "2", "--json"]
    assert main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert examples(lake, table_name("same")) == examples(lake)
    assert document["examples"] == len(examples(lake))
    assert document["view"] == "examples_same"
    assert document["late"] + document["duplicate"] > 0
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == document["examples"]
    assert examples(lake, table_name("same")) == examples(lake), "nothing is made twice"


def test_another_label_is_asked_for_and_compared_in_sql(
    lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    """What docs/guide/backfill.md shows."""
    arguments = ["lake", "backfill", LOOP.loop, "--name", "sums", "--label", "sum(amount)"]
    assert main([*arguments, "--within", "buy=20s", "--missing", "dropped"]) == 0
    assert "examples in view examples_sums" in capsys.readouterr().out
    query = """
        SELECT count(*) AS both, count(*) FILTER (WHERE a.label IS DISTINCT FROM b.label) AS other
        FROM examples a JOIN examples_sums b USING ("partition", "offset")"""
    assert main(["sql", "--json", query]) == 0
    document = json.loads(capsys.readouterr().out)
    assert 0 < document["other"] <= document["both"]


def test_a_changed_loop_file_needs_no_publishing(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several changes at once are easier to read in a file than on a command line."""
    file = tmp_path / "shop.yaml"
    text = dump_loop(shop(2)).replace("grace: 2s", "grace: 5s")
    assert "grace: 5s" in text
    file.write_text(text)
    assert main(["lake", "backfill", LOOP.loop, "--loop-file", str(file), "--name", "patient"]) == 0
    assert read_backfill(lake, LOOP.loop, "patient").loop.grace.total_seconds() == 5
    file.write_text(text.replace("loop: shop", "loop: kiosk"))
    assert main(["lake", "backfill", LOOP.loop, "--loop-file", str(file)]) == 2
    assert "defines kiosk, not shop" in capsys.readouterr().err


def test_backfills_are_listed_and_dropped(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    """Trials pile up."""
    assert (
        main(["lake", "backfill", LOOP.loop, "--name", "gone", "--to", "2026-03-01T00:05:00Z"]) == 0
    )
    capsys.readouterr()
    assert main(["lake", "backfill", LOOP.loop, "--list", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (row,) = [row for row in rows if row["name"] == "gone"]
    assert row["done"] == row["slices"]
    assert row["to"] == "2026-03-01T00:05:00+00:00"
    assert main(["lake", "backfill", LOOP.loop, "--list"]) == 0
    assert "examples_gone" in capsys.readouterr().out
    assert main(["lake", "backfill", LOOP.loop, "--drop", "gone"]) == 0
    assert not lake.has_table(LOOP.loop, table_name("gone"))
    assert main(["lake", "backfill", LOOP.loop, "--drop", "gone"]) == 2


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--from", "yesterday"], "--from yesterday is no time"),
        (["--to", "2026-03-01T00:00:00"], "has no time zone"),
        (["--within", "buy"], "--within KIND=DURATION"),
        (["--within", "sell=3s"], "it has: click, buy"),
        (["--label", "sum("], "label is not SQL"),
        (["--from", "2031-01-01T00:00:00Z"], "has no decisions between"),
    ],
)
def test_a_mistake_is_an_error_with_a_hint(
    lake: Lake, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str
) -> None:
    """Nothing is begun."""
    assert main(["lake", "backfill", LOOP.loop, *arguments]) == 2
    assert error in capsys.readouterr().err


def test_a_name_stands_for_one_definition(lake: Lake) -> None:
    """Half a table by one window and half by another would look like any table."""
    begun(lake, shop(2), "mine", since=None, until=None, processes=1)
    other = shop(2).model_copy(update={"grace": LOOP.grace * 2})
    with pytest.raises(RequestError, match="with other windows"):
        begun(lake, other, "mine", since=None, until=None, processes=1)


def cut(lake: Lake, made: Backfill, slices: int) -> Backfill:
    """Cut a backfill that was just begun into more slices than its few rows need."""
    first, last = made.cuts[0], made.cuts[-1]
    cuts = [first + number * (last - first) / slices for number in range(slices)] + [last]
    finer = made.model_copy(update={"cuts": cuts})
    path = f"{LOOP.loop}/backfill-{made.name}.json"
    lake.storage.write(path, finer.model_dump_json().encode())
    return finer


def test_a_killed_backfill_goes_on_where_it_was(lake: Lake) -> None:
    """SIGKILL to parent and children, again and again; each slice is there once in the end."""
    made = begun(lake, shop(2), "killed", since=None, until=None, processes=1)
    finer = cut(lake, made, 12)
    command = tidemill_command(
        "lake", "backfill", LOOP.loop, "--name", "killed", "--processes", "2"
    )
    env = {**os.environ, "TIDEMILL_LAKE": lake.root}
    for least in (1, 4):
        process = subprocess.Popen(command, env=env)
        while process.poll() is None and len(done(lake, finer).slices) < least:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was at work"
    assert not done(lake, finer).is_complete
    subprocess.run(command, env=env, check=True)
    assert done(lake, finer).is_complete
    assert examples(lake, table_name("killed")) == examples(lake)


def test_ctrl_c_ends_it_with_its_children(lake: Lake) -> None:
    """Status 130, nobody left behind, and the same command goes on."""
    made = cut(lake, begun(lake, shop(2), "stopped", since=None, until=None, processes=1), 12)
    command = tidemill_command(
        "lake", "backfill", LOOP.loop, "--name", "stopped", "--processes", "2"
    )
    process = subprocess.Popen(command, env={**os.environ, "TIDEMILL_LAKE": lake.root})
    parent = psutil.Process(process.pid)
    while process.poll() is None and not done(lake, made).slices:
        time.sleep(0.01)
    children = parent.children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert children
    assert not [child for child in children if child.is_running()]
    assert main([*command[3:]]) == 0
    assert examples(lake, table_name("stopped")) == examples(lake)


def test_an_error_of_a_child_reaches_the_caller(lake: Lake) -> None:
    """The lake refuses in the child, the hint has to reach the terminal."""
    made = begun(lake, shop(2), "elsewhere", since=None, until=None, processes=1)
    with pytest.raises(LakeError, match="has no"):
        run(lake, made, processes=1, env={"TIDEMILL_LAKE": f"{lake.root}/nowhere"})


def test_publish_makes_labels_anew_under_a_name_that_trainers_find(
    written: Lake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each closed decision of the version before is learned by the new label, once."""
    shutil.copytree(written.root, tmp_path / "lake")
    lake = Lake(LakeConfig(root=str(tmp_path / "lake")))
    monkeypatch.setenv("TIDEMILL_LAKE", lake.root)
    tree = shop(2).model_dump(mode="json") | {"version": 2}
    tree["label"] |= {"sql": "100 * sum(amount)"}
    second = Loop.model_validate(tree)
    lake.create(second)
    assert training_set(lake, second).table.num_rows == 0
    make_labels_anew(second, as_json=False)
    assert "examples in view examples_version_2" in capsys.readouterr().out
    rows = training_set(lake, second).table
    assert rows.num_rows > 50
    assert rows.equals(training_set(lake, second, backfill="version_2").table)
    make_labels_anew(second, as_json=False)
    assert training_set(lake, second).table.equals(rows), "the same command again makes nothing"


def test_a_lake_without_decisions_has_no_labels_to_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`publish --backfill` of a first version is no error."""
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path))
    Lake(LakeConfig(root=str(tmp_path))).create(shop(2))
    make_labels_anew(shop(2), as_json=False)
    assert "no decisions yet" in capsys.readouterr().out

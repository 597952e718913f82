"""A lake that has lost files: which ones, which rows they held, and how to get them back."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.data.samples import DATA, VERSIONS

from tidemill.cli.app import main
from tidemill.errors import LakeError
from tidemill.features.lake.damage import damage, damage_told
from tidemill.features.lake.lake import Lake, LakeConfig

COMMANDS = (
    ["ledger", "offers"],
    ["sql", "SELECT d.state, f.state FROM offers.decision_states d, offers.feedback_states f"],
    ["audit", "offers"],
    ["trace", "any-id"],
)
Lose = Callable[[Path], str]


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A copy of a whole lake, which the environment names."""
    shutil.copytree(DATA / VERSIONS[0] / "lake", tmp_path / "lake")
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path / "lake"))
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    return Lake(LakeConfig(root=str(tmp_path / "lake")))


def lose_rows(table: str) -> Lose:
    """Return what removes a data file of a table, and returns its name."""

    def lose(folder: Path) -> str:
        lake = Lake(LakeConfig(root=str(folder.parent)))
        file = Path(lake.table("offers", table).uris()[-1])
        file.unlink()
        return f"offers/{table}/{file.parent.name}/{file.name} is gone, with "

    return lose


def cut_off(folder: Path) -> str:
    """Leave the beginning of a data file, and return its name."""
    lake = Lake(LakeConfig(root=str(folder.parent)))
    file = Path(lake.table("offers", "feedback").uris()[-1])
    file.write_bytes(file.read_bytes()[:100])
    return f"offers/feedback/{file.parent.name}/{file.name} is cut to 100 of "


def lose_commit(folder: Path) -> str:
    """Remove one commit of a log that has later ones, and return its name."""
    commits = sorted((folder / "examples" / "_delta_log").glob("*.json"))
    commits[-2].unlink()
    return f"offers/examples/_delta_log has lost {commits[-2].name}"


def lose_checkpoint(folder: Path) -> str:
    """Remove the checkpoints that a log begins with, and return the name of the table."""
    for file in (folder / "examples" / "_delta_log").glob("*.checkpoint.parquet"):
        file.unlink()
    return "offers/examples cannot be opened"


LOSSES = {
    "decisions": lose_rows("decisions"),
    "feedback": lose_rows("feedback"),
    "examples": lose_rows("examples"),
    "a part of a file": cut_off,
    "a commit": lose_commit,
    "a checkpoint": lose_checkpoint,
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("lose", LOSSES.values(), ids=[*LOSSES])
def test_a_command_names_what_is_lost_and_what_to_do(
    lose: Lose, command: list[str], lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback of a library names neither the rows nor a next step."""
    lost = lose(Path(lake.root) / "offers")
    status = main(command)
    error = capsys.readouterr().err
    assert status == 3, "it could not look"
    assert lost in error
    is_log = "_delta_log" in lost or "cannot be opened" in error
    assert ("tidemill lake replay offers" if is_log else "tidemill lake repair offers") in error
    assert "Traceback" not in error


def test_a_lost_file_is_told_with_the_places_of_its_rows(lake: Lake) -> None:
    """They are what a person looks for on the topics."""
    lose_rows("decisions")(Path(lake.root) / "offers")
    [line] = damage(lake, "offers")
    assert line.endswith(
        "with 205 rows: partitions 0 to 1, offsets 0 to 104, "
        "times 2026-01-01 00:00:00+00:00 to 2026-01-01 00:08:17.500000+00:00"
    )


def test_a_whole_lake_has_no_damage_and_its_errors_stay_as_they_are(lake: Lake) -> None:
    """Negative control: an error of another kind must not be called damage."""
    assert damage(lake, "offers") == []
    with pytest.raises(LakeError, match="as it was"), damage_told(lake):
        raise LakeError("as it was", hint="")

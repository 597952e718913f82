"""`tidemill try`, as a person types it."""

import json
from pathlib import Path

import pytest
from tests.schemas.loops import MINIMAL

from tidemill.cli.app import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a loop and a history of three decisions, one of them clicked."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "banner.yaml").write_text(MINIMAL)
    lines: list[dict[str, object]] = [
        {
            "id": f"d{number}",
            "at": f"2026-03-01T00:0{number}:00Z",
            "features": {"country": "PT", "visits": number},
        }
        for number in range(3)
    ]
    values = {"seconds": 1.0, "page": "home"}
    at = "2026-03-01T00:05:00Z"
    lines.append({"decision_id": "d1", "kind": "clicked", "at": at, "values": values})
    (tmp_path / "history.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def test_it_says_what_became_of_a_history(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No Kafka, no lake, no key: a loop file and a file of events are all it takes."""
    assert main(["try", "banner.yaml", "--events", "history.jsonl"]) == 0
    said = capsys.readouterr().out
    assert "3 decisions and 1 feedback" in said
    assert "3 labels with the mean 0.3333: no model was made" in said
    assert "1,000 at least" in said
    assert sorted(path.name for path in folder.iterdir()) == ["banner.yaml", "history.jsonl"]


def test_as_json_it_is_one_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pipeline compares two loop files on one history."""
    assert main(["try", "banner.yaml", "--events", "history.jsonl", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["states"] == {"labeled": 1, "no_feedback": 2}
    assert (found["labels"], found["live"], found["models"]) == (3, None, [])


def test_its_lake_can_be_kept_and_asked(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which rows were those?"""
    command = ["try", "banner.yaml", "--events", "history.jsonl", "--lake", "lake"]
    assert main(command) == 0
    monkeypatch.setenv("TIDEMILL_LAKE", "lake")
    assert main(["sql", "select count(*) as n from examples", "--json"]) == 0
    assert '"n": 3' in capsys.readouterr().out
    assert main(command) == 2
    assert "lake is not empty" in capsys.readouterr().err


def test_a_wrong_line_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rest of the file is not played."""
    (folder / "history.jsonl").write_text('\n{"id": "d1"}')
    assert main(["try", "banner.yaml", "--events", "history.jsonl"]) == 2
    error = capsys.readouterr().err
    assert "line 2: " in error
    assert "hint: " in error

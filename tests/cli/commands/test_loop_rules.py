"""What `tidemill rules` prints, and what it refuses."""

import json
from pathlib import Path

import pytest
from tests.deploy.rules.test_rule_changes import NO_BEER, Topic, changes, rules
from tests.schemas.rules.test_rule_file import LOOP, TEXT

from tidemill.cli.app import main
from tidemill.cli.tables.loops import told_effect
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.schemas.rules.rule_set import Rule


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A lake with the loop, named by the environment."""
    monkeypatch.setenv("TIDEMILL_LAKE", str(tmp_path / "lake"))
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    made = Lake(LakeConfig(root=str(tmp_path / "lake")))
    made.create(LOOP)
    return made


def test_rules_are_listed_with_who_has_set_them(
    lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    """At night nobody remembers what was changed in the afternoon."""
    assert main(["rules", "list", LOOP.loop]) == 0
    assert "has no rules" in capsys.readouterr().out
    made = changes(lake, Topic())
    made.set(rules(), who="ann", why="the law")
    made.set(rules(when="age < 21"), who="b\x1b[31mob", why="abroad")
    assert main(["rules", "list", LOOP.loop]) == 0
    out = capsys.readouterr().out
    for text in ("no-beer", "age < 21", "never beer", "ann", "the law", "abroad"):
        assert text in out
    assert "\x1b[31m" not in out, "a name from outside does not colour the terminal"
    assert main(["rules", "list", LOOP.loop, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["versions"][0]["who"] == "ann"
    assert document["versions"][1]["rules"][0]["rule"]["when"] == "age < 21"


def test_a_loop_that_is_not_there_is_told(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    """A typing error must not look like a loop without rules."""
    assert main(["rules", "list", "flights"]) != 0
    assert "flights" in capsys.readouterr().err
    assert lake.loops() == [LOOP.loop]


def test_a_wrong_file_of_rules_is_told_with_its_line(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is connected."""
    del lake
    path = tmp_path / "rules.yaml"
    path.write_text(TEXT.replace("forbid", "forbit"))
    assert main(["rules", "set", str(path), "--why", "the law"]) != 0
    assert "rules.yaml:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("effect", "words"),
    [
        ({"forbid": ["beer", "wine"]}, "never beer, wine"),
        ({"replace": True}, "do true"),
        ({"replace": ["a", "b"]}, "do a, b"),
        ({"boost": {"action": "beer", "share": 0.25}}, "do beer in 25% of the decisions"),
        ({"boost": {"action": "beer"}}, "do beer"),
        ({"cap": {"low": 1.0}}, "at least 1"),
        ({"cap": {"low": 1.0, "high": 2.5}}, "at least 1 and at most 2.5"),
    ],
)
def test_an_effect_is_told_in_words(effect: dict[str, object], words: str) -> None:
    """The table is for people who have not written the file."""
    plain = {name: NO_BEER[name] for name in ("name", "when")}
    assert told_effect(Rule.model_validate(plain | effect)) == words

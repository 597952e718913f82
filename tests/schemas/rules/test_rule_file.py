"""A file of rules becomes a record for workers, or is refused with its line."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.schemas.loops import minimal
from tests.schemas.rules.test_rule_set import CHOICE

from tidemill.errors import LoopError
from tidemill.schemas.rules.rule_file import read_rules, record_of
from tidemill.schemas.rules.rule_record import RuleRecord, conditions, loop_of_key, parse_rules

LOOP = minimal(
    features={"age": "int", "country": "category"}, decision=CHOICE, policy={"kind": "greedy"}
)
TEXT = f"""\
loop: {LOOP.loop}
rules:
  - name: no-beer-for-minors
    when: age < 18
    forbid: [beer]
  - name: cola-week
    when: country = 'CH' and action <> 'beer'
    boost: {{action: cola, share: 0.25}}
"""
SET = {"version": 3, "at": datetime(2026, 1, 1, tzinfo=UTC), "who": "ann", "why": "the law"}


def record(tmp_path: Path, text: str = TEXT) -> RuleRecord:
    """Return the record of a file with *text*."""
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    return record_of(read_rules(path), LOOP, **SET)  # type: ignore[arg-type]  # as they are


def test_a_record_survives_its_journey(tmp_path: Path) -> None:
    """What a worker reads is what a person has set."""
    made = record(tmp_path)
    found = parse_rules(made.key, made.to_json())
    assert found == made
    assert [each.rule.name for each in found.rules] == ["no-beer-for-minors", "cola-week"]
    assert [sorted(term.columns()) for term in conditions(found, LOOP)] == [
        ["age"],
        ["action", "country"],
    ]
    assert loop_of_key(made.key) == LOOP.loop
    assert loop_of_key(f"{LOOP.loop}/live".encode()) is None


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("age < 18", "ago < 18", "rule no-beer-for-minors: 'ago' is no column"),
        ("age < 18", "age", "its condition is a number"),
        ("age < 18", "lower(country) = 'ch'", "lower cannot be used"),
        ("[beer]", "[wine]", "'wine' is no action"),
        (f"loop: {LOOP.loop}", "loop: other", "rules of other"),
    ],
)
def test_a_rule_that_does_not_fit_the_loop_is_refused(
    before: str, after: str, told: str, tmp_path: Path
) -> None:
    """A worker would refuse it later, with nobody there to be told."""
    with pytest.raises(LoopError) as refused:
        record(tmp_path, TEXT.replace(before, after, 1))
    assert told in refused.value.what
    assert refused.value.hint


def test_a_wrong_file_is_told_with_its_line(tmp_path: Path) -> None:
    """Files grow, and people look for the line."""
    with pytest.raises(LoopError) as refused:
        record(tmp_path, TEXT.replace("forbid", "forbit"))
    assert refused.value.line is not None
    with pytest.raises(LoopError, match="cannot be read"):
        read_rules(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"", "no rules"),
        (b"{", "no rules"),
        (b"[" * 100_000, "no rules"),
        (b"{}", "no rules"),
        (b"x" * 1_000_000, "bytes"),
    ],
)
def test_what_is_no_record_is_refused(value: bytes, told: str) -> None:
    """Anybody who may write to the topic can write this."""
    with pytest.raises(LoopError, match=told):
        parse_rules(b"shop/rules", value)


def test_rules_under_another_key_are_refused(tmp_path: Path) -> None:
    """Signed rules of one loop must not become those of another."""
    made = record(tmp_path)
    with pytest.raises(LoopError, match="under another key"):
        parse_rules(b"other/rules", made.to_json())


def test_the_rules_of_the_page_are_legal(tmp_path: Path) -> None:
    """People copy them."""
    page = (Path(__file__).parents[3] / "docs/howto/set-rules.md").read_text()
    text = page.partition("```yaml\n")[2].partition("```")[0]
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    actions = {"type": "choice", "actions": ["beer", "cola", "water"], "default": "water"}
    drinks = minimal(
        loop="drinks",
        features={"age": "int", "country": "category"},
        decision=actions,
        policy={"kind": "greedy"},
    )
    assert len(record_of(read_rules(path), drinks, **SET).rules) == 2  # type: ignore[arg-type]  # as they are

"""Rules are set and taken back by people, and each version says who did it and why."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.schemas.rules.test_rule_file import LOOP

from tidemill.deploy.rules.rule_changes import RuleChanges
from tidemill.deploy.rules.rule_history import RuleHistory
from tidemill.errors import BrokerError, LoopError, RequestError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.kafka import Record
from tidemill.schemas import topics
from tidemill.schemas.models.signing import SigningKey, TrustedKeys
from tidemill.schemas.record_signature import RecordHeaders, is_signed
from tidemill.schemas.rules.rule_record import parse_rules, rules_key
from tidemill.schemas.rules.rule_set import RuleSet

KEY = SigningKey.generate()
AT = datetime(2026, 1, 1, tzinfo=UTC)
NO_BEER = {"name": "no-beer", "when": "age < 18", "forbid": ["beer"]}


class Topic:
    """A model topic that keeps what is written, or does not answer."""

    def __init__(self) -> None:
        self.records: list[tuple[bytes, bytes, RecordHeaders]] = []
        self.is_down = False

    def write(self, key: bytes, value: bytes, headers: RecordHeaders) -> None:
        """Keep a record."""
        if self.is_down:
            raise BrokerError("no broker answers", hint="start one")
        self.records.append((key, value, headers))

    def newest(self) -> dict[bytes, bytes]:
        """Return the newest values."""
        return {key: value for key, value, _ in self.records}


@pytest.fixture
def topic() -> Topic:
    """An empty topic."""
    return Topic()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake with the loop."""
    made = Lake(LakeConfig(root=str(tmp_path / "lake")))
    made.create(LOOP)
    return made


def changes(lake: Lake, topic: Topic) -> RuleChanges:
    """Return what a command would use."""
    return RuleChanges(
        LOOP, lake, on_topic=topic.newest(), write=topic.write, key=KEY, clock=lambda: AT
    )


def rules(**changed: object) -> RuleSet:
    """Return a set with one rule."""
    return RuleSet.model_validate({"loop": LOOP.loop, "rules": [NO_BEER | changed]})


def test_rules_are_set_and_taken_back(lake: Lake, topic: Topic) -> None:
    """What is on the topic is signed, and the lake has every version."""
    made = changes(lake, topic)
    made.set(rules(), who="ann", why="the law")
    made.set(rules(when="age < 21"), who="bob", why="abroad")
    made.revert(None, who="ann", why="a mistake")
    made.revert(0, who="ann", why="all of them")
    history = RuleHistory(lake, LOOP.loop).records()
    assert [(one.version, one.who, len(one.rules)) for one in history] == [
        (1, "ann", 1),
        (2, "bob", 1),
        (3, "ann", 1),
        (4, "ann", 0),
    ]
    assert history[2].rules == history[0].rules
    for key, value, headers in topic.records:
        record = Record(
            topic=topics.MODELS,
            partition=0,
            offset=0,
            key=key,
            value=value,
            timestamp_ms=0,
            headers=headers,
        )
        assert is_signed(record, TrustedKeys.of([KEY.public]))
    assert parse_rules(*topic.records[-1][:2]).version == 4


def test_rules_that_did_not_reach_the_topic_are_sent_by_the_next_command(
    lake: Lake, topic: Topic
) -> None:
    """The lake has them, so they are what a person has decided."""
    topic.is_down = True
    with pytest.raises(BrokerError):
        changes(lake, topic).set(rules(), who="ann", why="the law")
    topic.is_down = False
    assert changes(lake, topic).set(rules(), who="bob", why="once more").who == "ann"
    assert parse_rules(*topic.records[-1][:2]).version == 1
    changes(lake, topic).set(rules(), who="bob", why="once more")
    assert len(topic.records) == 1, "it is there already"


def test_two_people_do_not_overwrite_each_other(lake: Lake, topic: Topic) -> None:
    """The second one looks again."""
    first, second = changes(lake, topic), changes(lake, topic)
    record = first.set(rules(), who="ann", why="the law")
    with pytest.raises(RequestError, match="meanwhile"):
        second._history.add(record, None)
    assert second.set(rules(when="age < 21"), who="bob", why="again").version == 2


@pytest.mark.parametrize("version", [-1, 3])
def test_a_version_that_never_was_is_refused(version: int, lake: Lake, topic: Topic) -> None:
    """The error says which there are."""
    made = changes(lake, topic)
    made.set(rules(), who="ann", why="the law")
    made.set(rules(when="age < 21"), who="ann", why="the law")
    with pytest.raises(RequestError) as refused:
        made.revert(version, who="ann", why="?")
    assert "there are 1, 2" in str(refused.value)


def test_rules_that_do_not_fit_change_nothing(lake: Lake, topic: Topic) -> None:
    """Neither the lake nor the topic."""
    with pytest.raises(LoopError, match="'ago' is no column"):
        changes(lake, topic).set(rules(when="ago < 18"), who="ann", why="?")
    assert RuleHistory(lake, LOOP.loop).records() == []
    assert rules_key(LOOP.loop) not in topic.newest()


def test_a_lake_that_has_lost_its_history_goes_on_above_the_topic(
    lake: Lake, topic: Topic, tmp_path: Path
) -> None:
    """Workers take no version below the one that they follow."""
    for age in (18, 19, 20):
        changes(lake, topic).set(rules(when=f"age < {age}"), who="ann", why="the law")
    other = Lake(LakeConfig(root=str(tmp_path / "other")))
    other.create(LOOP)
    made = changes(other, topic)
    assert made.set(rules(when="age < 21"), who="bob", why="a new lake").version == 4
    assert made.revert(None, who="bob", why="none").version == 5
    assert RuleHistory(other, LOOP.loop).records()[-1].rules == []

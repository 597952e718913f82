"""Changes of rules: written to the lake first, then to the topic that workers follow.

A change that was killed in between takes effect when the same rules are set once more.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from tidemill.deploy.rules.rule_history import RuleHistory
from tidemill.errors import LoopError, RequestError
from tidemill.features.lake.lake import Lake
from tidemill.kafka import KafkaConfig, read_compacted, write_all
from tidemill.schemas import topics
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.manifest import utc_now
from tidemill.schemas.models.signing import SigningKey
from tidemill.schemas.record_signature import RecordHeaders, signed_headers
from tidemill.schemas.rules.rule_file import record_of
from tidemill.schemas.rules.rule_record import (
    ConditionedRule,
    RuleRecord,
    conditions,
    parse_rules,
    rules_key,
)
from tidemill.schemas.rules.rule_set import RuleSet

WriteRules = Callable[[bytes, bytes, RecordHeaders], None]
"""Writes key, value and headers to the model topic; returns once it is durable."""


class RuleChanges:
    """Sets the rules of one loop, and takes them back.

    Args:
        loop: the newest version of the loop.
        lake: has the history.
        on_topic: the newest record of each key of the model topic.
        write: writes to it.
        key: signs the records.
        clock: the present time, which is only recorded.
    """

    def __init__(
        self,
        loop: Loop,
        lake: Lake,
        *,
        on_topic: Mapping[bytes, bytes],
        write: WriteRules,
        key: SigningKey,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._loop = loop
        self._history = RuleHistory(lake, loop.loop)
        self._on_topic, self._write = dict(on_topic), write
        self._key, self._clock = key, clock

    def set(self, rules: RuleSet, *, who: str, why: str) -> RuleRecord:
        """Put *rules* in force and return their version; the newest one if it has the same rules.

        Raises:
            LoopError: a rule does not fit the loop.
            RequestError: somebody else has changed the rules meanwhile.
            BrokerError: no broker answers; the rules are in the lake.
        """
        records = self._history.records()
        record = record_of(
            rules, self._loop, version=self._next(records), at=self._clock(), who=who, why=why
        )
        if records and records[-1].rules == record.rules:
            return self._sent(records[-1])
        return self._changed(record, records)

    def revert(self, version: int | None, *, who: str, why: str) -> RuleRecord:
        """Put the rules of *version* in force again; by default those before the newest.

        Raises:
            RequestError: there is no such version, or somebody else has changed them meanwhile.
            LoopError: a rule of it does not fit the loop any more.
            BrokerError: no broker answers; the rules are in the lake.
        """
        records = self._history.records()
        known = {0: list[ConditionedRule](), **{one.version: one.rules for one in records}}
        before = list(known)[-2:][0]
        wanted = before if version is None else version
        if not records or wanted not in known:
            listed = ", ".join(str(one.version) for one in records[-20:]) or "none"
            raise RequestError(
                f"{self._loop.loop} has no version {wanted} of rules",
                hint=f"there are {listed}; 0 stands for no rules",
            )
        record = RuleRecord(
            loop=self._loop.loop,
            version=self._next(records),
            at=self._clock(),
            who=who,
            why=why,
            rules=known[wanted],
        )
        conditions(record, self._loop)
        return self._changed(record, records)

    def is_on_topic(self, record: RuleRecord) -> bool:
        """Return whether workers can read *record*."""
        return self._on_topic.get(record.key) == record.to_json()

    def _next(self, records: Sequence[RuleRecord]) -> int:
        """Return the next version: above all in the lake, and above that on the topic.

        Workers take no older one, also where a lake has lost its history.
        """
        versions = [one.version for one in records]
        value = self._on_topic.get(rules_key(self._loop.loop))
        if value is not None:
            with suppress(LoopError):  # no rules: anybody may write to the topic
                versions.append(parse_rules(rules_key(self._loop.loop), value).version)
        return max(versions, default=0) + 1

    def _changed(self, record: RuleRecord, records: Sequence[RuleRecord]) -> RuleRecord:
        self._history.add(record, records[-1].version if records else None)
        return self._sent(record)

    def _sent(self, record: RuleRecord) -> RuleRecord:
        """Write *record* to the topic unless it is there."""
        value = record.to_json()
        if not self.is_on_topic(record):
            headers = signed_headers(self._key, topics.MODELS, record.key, value)
            self._write(record.key, value, headers)
            self._on_topic[record.key] = value
        return record


def changes_on_kafka(loop: Loop, lake: Lake, kafka: KafkaConfig, key: SigningKey) -> RuleChanges:
    """Return the changes of the rules of *loop* on a real topic.

    Raises:
        BrokerError: no broker answers.
    """

    def write(name: bytes, value: bytes, headers: RecordHeaders) -> None:
        write_all(kafka, topics.MODELS, [(name, value)], headers=headers)

    on_topic = read_compacted(kafka, topics.MODELS)
    return RuleChanges(loop, lake, on_topic=on_topic, write=write, key=key)

"""The rules in force, as workers get them: a record of the model topic, signed in a header.

Its key is ``<loop>/rules``. Conditions are terms, since workers have no parser; the SQL stands
beside each for people. A version is never lower than the one before.
"""

import re
from datetime import datetime
from typing import Any

from pydantic import Field, ValidationError

from tidemill.errors import LoopError
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.fields import NAME, Value
from tidemill.schemas.loop.scalar.terms import Term, from_json
from tidemill.schemas.rules.rule_set import MAX_RULES, Rule, check_effects, readable

MAX_RECORD_BYTES = 900_000


class ConditionedRule(Value):
    """A rule with its condition as the JSON of a term."""

    rule: Rule
    term: list[Any]


class RuleRecord(Value):
    """One version of the rules of a loop.

    Attributes:
        loop: whose rules.
        version: counts the versions, from 1.
        at: when it was set.
        who: who set it.
        why: what for.
        rules: the rules in force; none where all were taken back.
    """

    loop: str = Field(pattern=NAME, max_length=80)
    version: int = Field(ge=1, lt=2**31)
    at: datetime
    who: str = Field(max_length=200)
    why: str = Field(max_length=2_000)
    rules: list[ConditionedRule] = Field(max_length=MAX_RULES)

    @property
    def key(self) -> bytes:
        """The key of its record."""
        return rules_key(self.loop)

    def to_json(self) -> bytes:
        """Return the record's value."""
        return self.model_dump_json(exclude_none=True).encode()


def rules_key(loop: str) -> bytes:
    """Return the key of the rules of *loop*."""
    return f"{loop}/rules".encode()


def loop_of_key(key: bytes | None) -> str | None:
    """Return the loop whose rules a record with *key* has; None for any other key."""
    match = re.fullmatch(rb"([a-z0-9-]+)/rules", key or b"")
    return match[1].decode() if match else None


def parse_rules(key: bytes | None, value: bytes) -> RuleRecord:
    """Return what a record says; its signature is checked elsewhere.

    Raises:
        LoopError: it has no rules, or those of another loop than its key says.
    """
    if len(value) > MAX_RECORD_BYTES:
        raise LoopError(f"rules of {len(value):,} bytes", hint="write fewer or shorter rules")
    try:
        record = RuleRecord.model_validate_json(value, strict=False)
    except ValidationError as error:
        first = str(error).splitlines()[0][:200]
        raise LoopError(
            f"no rules: {first}", hint="was it written by a newer tidemill? set the rules again"
        ) from error
    if record.key != key:
        raise LoopError(
            f"rules of {record.loop} under another key", hint="set them with tidemill rules set"
        )
    return record


def conditions(record: RuleRecord, loop: Loop) -> list[Term]:
    """Return the condition of each rule of *record*, checked against this version of *loop*.

    Raises:
        LoopError: a rule does not fit: its condition reads what is not there, or its effect names
            an action that there is not.
    """
    check_effects([each.rule for each in record.rules], loop)
    columns, found = readable(loop), []
    for each in record.rules:
        try:
            term = from_json(each.term, columns)
        except LoopError as error:
            raise LoopError(f"rule {each.rule.name}: {error.what}", hint=error.hint) from error
        if term.kind not in ("bool", None):
            raise LoopError(
                f"rule {each.rule.name}: its condition is a {term.kind}",
                hint="compare it with a value",
            )
        found.append(term)
    return found

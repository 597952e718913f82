"""Rule files: YAML with the rules of one loop, read, checked and made into a record.

DuckDB parses the conditions, so this module is not for workers.
"""

from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from tidemill.errors import LoopError
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.diagnostics import diagnostics
from tidemill.schemas.loop.labels import connect
from tidemill.schemas.loop.scalar.from_sql import parse_scalar
from tidemill.schemas.loop.scalar.terms import to_json
from tidemill.schemas.loop.yaml_subset import read_tree
from tidemill.schemas.rules.rule_record import ConditionedRule, RuleRecord, conditions
from tidemill.schemas.rules.rule_set import RuleSet, readable

MAX_BYTES = 256 * 1024


def read_rules(path: Path) -> RuleSet:
    """Return the rules of the file at *path*.

    Raises:
        LoopError: it cannot be read, or a part of it is wrong; with its line.
    """
    file = str(path)
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_BYTES + 1).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LoopError(
            f"cannot be read: {error}", hint="name a file of rules in UTF-8", file=file
        ) from error
    if len(text) > MAX_BYTES:
        raise LoopError(
            f"is larger than {MAX_BYTES // 1024} kB", hint="write fewer rules", file=file
        )
    tree = read_tree(text, file=file)
    try:
        return RuleSet.model_validate(tree.value)
    except ValidationError as error:
        first = next(iter(diagnostics(error, tree.value)))
        raise LoopError(
            first.what, hint=first.hint, file=file, line=tree.line(first.path)
        ) from error


def record_of(
    rules: RuleSet, loop: Loop, *, version: int, at: datetime, who: str, why: str
) -> RuleRecord:
    """Return *rules* as a record for workers.

    Raises:
        LoopError: a rule does not fit *loop*, or its condition cannot be computed by workers.
    """
    if rules.loop != loop.loop:
        raise LoopError(f"rules of {rules.loop}, not of {loop.loop}", hint="name the right loop")
    columns = readable(loop)
    found = []
    with connect() as connection:
        for rule in rules.rules:
            try:
                term = parse_scalar(connection, rule.when, columns, "condition")
            except LoopError as error:
                raise LoopError(f"rule {rule.name}: {error.what}", hint=error.hint) from error
            found.append(ConditionedRule(rule=rule, term=list(to_json(term))))  # type: ignore[call-overload]  # a list
    record = RuleRecord(loop=loop.loop, version=version, at=at, who=who, why=why, rules=found)
    conditions(record, loop)
    return record

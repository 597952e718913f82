"""What a loop file defines, its mistakes, what changed between two versions, and its rules."""

from collections.abc import Iterator, Sequence

from tidemill.cli.notes import notes, warnings
from tidemill.cli.terminal import (
    add_row,
    new_table,
    print_error,
    print_json,
    print_table,
    print_text,
    shown,
)
from tidemill.errors import LoopError
from tidemill.schemas.loop.definition import Decision, Feedback, Items, Loop
from tidemill.schemas.loop.diff import Change
from tidemill.schemas.loop.durations import told_duration
from tidemill.schemas.loop.labels import compile_label
from tidemill.schemas.published import produced_topics
from tidemill.schemas.rules.rule_record import RuleRecord
from tidemill.schemas.rules.rule_set import Rule


def print_mistakes(mistakes: Sequence[LoopError], *, as_json: bool) -> None:
    """Print each of *mistakes* with its place and hint: on stderr, or as one JSON document."""
    if as_json:
        rows = [{"file": e.file, "line": e.line, "what": e.what, "hint": e.hint} for e in mistakes]
        print_json({"ok": False, "mistakes": rows}, indent=2)
        return
    for mistake in mistakes:
        print_error(mistake)


def print_loop(loop: Loop, *, as_json: bool) -> None:
    """Print what *loop* defines, for a person to compare with what was meant."""
    if as_json:
        document = {"ok": True, "loop": loop.loop, "version": loop.version, "digest": loop.digest}
        label = {"label": compile_label(loop).plain, "depends_on": loop.depends_on}
        told = [{"what": one.what, "hint": one.hint} for one in warnings(loop)]
        print_json(document | label | {"notes": notes(loop), "warnings": told}, indent=2)
        return
    print_text(f"{loop.loop} version {loop.version} is legal  (digest {loop.digest[:12]})")
    for name, text in _definition(loop):
        print_text(f"  {name:<10} {text}")
    for note in notes(loop):
        print_text(f"note: {note}")
    print_warnings(loop)


def print_warnings(loop: Loop) -> None:
    """Print why *loop* cannot learn, on standard error, each with the line to write."""
    for warning in warnings(loop):
        print_error(f"warning: {warning.what}\n  hint: {warning.hint}")


def _definition(loop: Loop) -> Iterator[tuple[str, str]]:
    yield "decides", _decides(loop.decision)
    if loop.decision.items is not None:
        yield "items", _items(loop.decision.items)
    nullable = sum(feature.nullable for feature in loop.features.values())
    yield "features", f"{len(loop.features)}, of which {nullable} may be null"
    yield "feedback", ", ".join(_kind(name, kind) for name, kind in loop.feedback.items())
    first, *more = [line.strip() for line in loop.label.sql.strip().splitlines()]
    ending = f"  ({loop.label.type})"
    yield "label", first + ("" if more else ending)
    for number, line in enumerate(more, start=1):
        yield "", line + (ending if number == len(more) else "")
    yield "no label", loop.label.missing
    yield "depends on", f"the {loop.depends_on}"
    if loop.gate.reward is not None:
        yield "reward", loop.gate.reward
    yield "counts", f"once there is {loop.activation} feedback" if loop.activation else "always"
    yield "closes", _closes(loop)
    learners = [m.learner for m in (loop.models.batch, loop.models.online) if m is not None]
    yield "models", f"{', '.join(learners) or 'none'}; gate on {loop.gate.metric}"
    yield "topics", ", ".join(produced_topics(loop).values())


def _decides(decision: Decision) -> str:
    if decision.items is None:
        actions = " | ".join(decision.actions) or decision.type
        return f"{actions}, by default {decision.default}"
    first = "their order" if decision.type == "ranking" else "the first"
    return f"{decision.type} of items of the request, by default {first}"


def _items(items: Items) -> str:
    logged = "all are logged" if items.log == "all" else "those that were shown are logged"
    return f"at most {items.max}, with {', '.join(items.features)}; {logged}"


def _kind(name: str, kind: Feedback) -> str:
    by = "" if kind.stream is None else f" by stream {kind.stream}"
    return f"{name} within {told_duration(kind.within)}{by}"


def _closes(loop: Loop) -> str:
    text = f"{told_duration(loop.wait + loop.grace)} of event time after each decision"
    if loop.corrections:
        text += f", corrected up to {told_duration(loop.corrections)} later"
    return text


def print_changes(
    old: Loop, new: Loop, changes: Sequence[Change], happens: Sequence[str], *, as_json: bool
) -> None:
    """Print *changes*, with a ``!`` and a hint at those that make *new* incompatible with *old*.

    *happens* says what that does to models and rows.
    """
    if as_json:
        document = {"old": old.version, "new": new.version}
        rows = [_document(change) for change in changes]
        print_json(document | {"changes": rows, "happens": list(happens)}, indent=2)
        return
    for change in changes:
        print_text(_line(change))
        if not change.is_compatible:
            print_text(f"    {change.problem}")
            print_text(f"    hint: {change.hint}")
    if not changes:
        print_text(f"{old.loop}: no difference")
    print_happens(new, happens)


def print_happens(new: Loop, happens: Sequence[str]) -> None:
    """Print what version *new* does to models and rows; nothing if it does nothing."""
    if happens:
        print_text(f"with version {new.version} of {new.loop}:")
    for sentence in happens:
        print_text(f"  {sentence}")


def _document(change: Change) -> dict[str, object]:
    return {
        "path": change.path,
        "old": _plain(change.old),
        "new": _plain(change.new),
        "compatible": change.is_compatible,
        "problem": change.problem,
        "hint": change.hint,
    }


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | bool | list | None) else str(value)


def _line(change: Change) -> str:
    sign = " " if change.is_compatible else "!"
    if change.old is None:
        return f"{sign} + {change.path}: {change.new}"
    if change.new is None:
        return f"{sign} - {change.path}: {change.old}"
    return f"{sign} ~ {change.path}: {change.old} -> {change.new}"


def print_set(record: RuleRecord) -> None:
    """Print what is in force now."""
    count = len(record.rules)
    rules = "no rules" if not count else f"{count} rule{'s' if count > 1 else ''}"
    print_text(f"{record.loop}: version {record.version}, {rules}, set by {shown(record.who)}")


def print_rules(loop: str, records: Sequence[RuleRecord], *, as_json: bool) -> None:
    """Print the rules in force, then all versions; with *as_json* one document."""
    if as_json:
        versions = [record.model_dump(mode="json", exclude_none=True) for record in records]
        print_json({"loop": loop, "versions": versions}, indent=2)
        return
    if not records:
        print_text(f"{loop} has no rules; set some with: tidemill rules set RULES.yaml --why ...")
        return
    _print_in_force(records[-1])
    table = new_table("version", "set", "by", "rules", "why", numbers=["version", "rules"])
    for record in reversed(records):
        at = f"{record.at:%Y-%m-%d %H:%M:%S}"
        add_row(table, str(record.version), at, record.who, str(len(record.rules)), record.why)
    print_table(table)


def _print_in_force(record: RuleRecord) -> None:
    if not record.rules:
        print_text(f"no rules are in force since version {record.version}")
        return
    table = new_table("rule", "when", "then")
    for each in record.rules:
        add_row(table, each.rule.name, each.rule.when, told_effect(each.rule))
    print_table(table)


def told_effect(rule: Rule) -> str:
    """Return the effect of *rule* in words."""
    if rule.replace is not None:
        return f"do {_told(rule.replace)}"
    if rule.forbid is not None:
        return f"never {', '.join(map(_told, rule.forbid))}"
    if rule.boost is not None:
        share = "" if rule.boost.share == 1.0 else f" in {rule.boost.share:.0%} of the decisions"
        return f"do {_told(rule.boost.action)}{share}"
    cap = rule.cap
    low = "" if cap is None or cap.low is None else f"at least {cap.low:g}"
    high = "" if cap is None or cap.high is None else f"at most {cap.high:g}"
    return " and ".join(filter(None, (low, high)))


def _told(action: object) -> str:
    if isinstance(action, bool):
        return str(action).lower()
    return ", ".join(action) if isinstance(action, list) else str(action)

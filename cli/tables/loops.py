"""What a loop file defines, its mistakes, and what changed between two versions."""

from collections.abc import Iterator, Sequence

from tidemill.cli.notes import notes, warnings
from tidemill.cli.terminal import print_error, print_json, print_text
from tidemill.errors import LoopError
from tidemill.schemas.loop.definition import Decision, Feedback, Items, Loop
from tidemill.schemas.loop.diff import Change
from tidemill.schemas.loop.durations import told_duration
from tidemill.schemas.loop.labels import compile_label
from tidemill.schemas.published import produced_topics


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

"""What changed between two versions of a loop, and whether logged events stay readable.

A change affects older events, which are read as the newer version, and models trained on the older
version. The first decides whether the change is compatible; the second is only noted.

All versions of a loop share the columns of one lake, and a column never changes its type. Avro
could read an int as a float, but the column could not change, so that is refused too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tidemill.errors import ContractError
from tidemill.schemas.logs import stream_of, topic_of
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.fields import Feature

RETRAINS = ("label", "policy", "models", "gate")
"""Parts that no event contains: a change of them takes effect from now on."""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference: *path* changes from *old* to *new*; a *problem* if that is refused."""

    path: str
    old: object
    new: object
    problem: str = ""
    hint: str = ""

    @property
    def is_compatible(self) -> bool:
        """Whether events of the older version can be read as the newer one."""
        return not self.problem


def diff_loops(old: Loop, new: Loop) -> list[Change]:
    """Return the differences in the order of a loop file; empty if the definitions are equal.

    Values of feedback are compared by name across kinds, because kinds share one namespace.
    """
    if old.loop != new.loop:
        return [
            Change(
                "loop",
                old.loop,
                new.loop,
                problem=f"{old.loop} and {new.loop} are two loops, not two versions of one",
                hint="compare files that have the same name after loop:",
            )
        ]
    changes = [*_decision(old, new)]
    changes += _fields("features", old.features, new.features, old.features)
    for kind in dict.fromkeys([*old.feedback, *new.feedback]):
        changes += _feedback(old, new, kind)
    for name in ("label", "policy", "models", "gate"):
        changes += _plain(name, getattr(old, name).model_dump(), getattr(new, name).model_dump())
    rest = {"version", "loop", "decision", "features", "feedback", *RETRAINS, "partitions", "rekey"}
    changes += _plain("", old.model_dump(exclude=rest), new.model_dump(exclude=rest))
    changes += [*_logs(old, new), *_partitions(old, new), *_rekey(old, new)]
    return changes


def check_successor(known: Mapping[int, Loop], new: Loop) -> bool:
    """Check that *new* may be published beside the *known* versions of its loop.

    Returns:
        Whether it has to be published; False if the same definition is published already.

    Raises:
        ContractError: its version is published with another content, or is older than the newest;
            or events of a known version could not be read, or stored in the lake, as this one.
    """
    same = known.get(new.version)
    if same is not None and same.digest == new.digest:
        return False
    newest = max(known, default=0)
    name = f"{new.loop} version {new.version}"
    if same is not None:
        changes = diff_loops(same, new)
        what = ", ".join(change.path for change in changes)
        raise ContractError(
            f"{name} is published and never changes, but this file differs in {what}",
            hint=f"write version: {newest + 1}, or undo the changes",
        )
    if new.version < newest:
        raise ContractError(
            f"{name} is older than version {newest}, which is published",
            hint=f"write version: {newest + 1}",
        )
    for version in sorted(known, reverse=True):
        beside = name if version == newest else f"{name} beside version {version}"
        for change in diff_loops(known[version], new):
            if not change.is_compatible:
                raise ContractError(f"{beside}: {change.problem}", hint=change.hint)
    return True


def _decision(old: Loop, new: Loop) -> Iterator[Change]:
    before, after = old.decision, new.decision
    if before.type != after.type:
        yield Change(
            "decision.type",
            before.type,
            after.type,
            problem=f"the decision was a {before.type} and becomes a {after.type}",
            hint="that is another decision: give the loop another name",
        )
    if (before.items is None) != (after.items is None):
        yield Change(
            "decision.items",
            _presence(before.items is not None),
            _presence(after.items is not None),
            problem="fixed actions and items of the request are two kinds of examples",
            hint="that is another decision: give the loop another name",
        )
    elif before.items is not None and after.items is not None:
        was, now = before.items.features, after.items.features
        yield from _fields("decision.items.features", was, now, was)
        others = {"features"}
        plain = (each.model_dump(exclude=others) for each in (before.items, after.items))
        yield from _plain("decision.items", *plain)
    for name in ("actions", "default"):
        if getattr(before, name) != getattr(after, name):
            yield Change(f"decision.{name}", getattr(before, name), getattr(after, name))


def _feedback(old: Loop, new: Loop, kind: str) -> Iterator[Change]:
    path = f"feedback.{kind}"
    elsewhere = {
        name: value for each in old.feedback.values() for name, value in each.values.items()
    }
    if kind not in old.feedback or kind not in new.feedback:
        yield Change(path, _presence(kind in old.feedback), _presence(kind in new.feedback))
        values = new.feedback[kind].values if kind in new.feedback else {}
        for name, value in values.items():
            if name in elsewhere and elsewhere[name].type != value.type:
                yield _clash(f"{path}.values.{name}", name, elsewhere[name], value)
        return
    before, after = old.feedback[kind], new.feedback[kind]
    was, now = (each.model_dump(exclude={"values"}) for each in (before, after))
    yield from _plain(path, was, now)
    yield from _fields(f"{path}.values", before.values, after.values, elsewhere)


def _fields(
    path: str,
    old: Mapping[str, Feature],
    new: Mapping[str, Feature],
    elsewhere: Mapping[str, Feature],
) -> Iterator[Change]:
    """Yield the differences; *elsewhere* are the fields that share a column with those of *new*."""
    for name in dict.fromkeys([*old, *new]):
        place = f"{path}.{name}"
        if name not in new:
            yield Change(place, str(old[name].type), None)
        elif name not in old and name in elsewhere and elsewhere[name].type != new[name].type:
            yield _clash(place, name, elsewhere[name], new[name])
        elif name not in old:
            yield _added(place, name, new[name])
        elif old[name] != new[name]:
            yield _changed(place, name, old[name], new[name])
    if [name for name in old if name in new] != [name for name in new if name in old]:
        yield Change(f"{path} (order)", list(old), list(new))


def _added(place: str, name: str, field: Feature) -> Change:
    if field.nullable or field.default is not None:
        return Change(place, None, str(field.type))
    return Change(
        place,
        None,
        str(field.type),
        problem=f"{place} is new and must be there, but older events do not have it",
        hint=f"write {name}: {{type: {field.type}, nullable: true}}, or give it a default",
    )


def _clash(place: str, name: str, old: Feature, new: Feature) -> Change:
    return Change(
        place,
        None,
        _told(new),
        problem=f"{place} is {new.type}, but {name} was {old.type} in another kind of feedback, "
        "and the lake has one column for both",
        hint=f"give it a new name, say {name}_{new.type}",
    )


def _changed(place: str, name: str, old: Feature, new: Feature) -> Change:
    before, after = _told(old), _told(new)
    if old.type != new.type:
        return Change(
            place,
            before,
            after,
            problem=f"{place} was {old.type} and becomes {new.type}; its column in the lake stays "
            f"{old.type}",
            hint=f"give it a new name, say {name}_{new.type}, nullable; {name} may stay or go",
        )
    if old.nullable and not new.nullable:
        return Change(
            place,
            before,
            after,
            problem=f"{place} may be null in older events and must not be from now on",
            hint=f"leave {name} nullable, and let the service send it always",
        )
    return Change(place, before, after)


def _logs(old: Loop, new: Loop) -> Iterator[Change]:
    """Yield the topics of feedback that are added or removed; a topic with records must stay."""
    for log in new.logs:
        if log not in old.logs:
            yield Change("topics", None, topic_of(new.loop, log))
    for log in old.logs:
        if log not in new.logs:
            topic, stream = topic_of(old.loop, log), stream_of(log)
            by = "" if stream is None else f", stream: {stream}"
            yield Change(
                "topics",
                topic,
                None,
                problem=f"no kind of feedback is produced to {topic} any more, and what is unread "
                "there would be lost",
                hint="leave a kind of feedback there, if only one that nobody sends, say "
                f"never: {{within: 1s{by}}}",
            )


def _partitions(old: Loop, new: Loop) -> Iterator[Change]:
    if old.partitions != new.partitions:
        yield Change(
            "partitions",
            old.partitions,
            new.partitions,
            problem=f"the topics have {old.partitions} partitions, and keys are bound to them",
            hint=f"write partitions: {old.partitions}, or give the loop another name",
        )


def _rekey(old: Loop, new: Loop) -> Iterator[Change]:
    if old.rekey != new.rekey:
        yield Change(
            "rekey",
            old.rekey,
            new.rekey,
            problem="the join would read its feedback from another topic, where offsets mean other "
            "records than those the lake knows",
            hint="give the loop another name",
        )


def _plain(path: str, old: object, new: object) -> Iterator[Change]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            yield from _plain(f"{path}.{name}".lstrip("."), old.get(name), new.get(name))
    elif old != new:
        yield Change(path, old, new)


def _presence(is_there: bool) -> str | None:
    return "declared" if is_there else None


def _told(field: Feature) -> str:
    text = str(field.type) + (", nullable" if field.nullable else "")
    return text if field.default is None else f"{text}, default {field.default!r}"

"""A history: decisions and feedback of the past, a JSON object in each line of a file.

A line with ``features`` is a decision: ``id``, ``at``, ``features``, and if known ``entity``,
``action``, ``propensity``, ``score``, ``source`` and ``baseline``; where requests bring ``items``,
these too, each with its ``propensity`` if that is known. A line with ``decision_id`` is a feedback:
``decision_id``, ``kind``, ``at``, and if any ``values``, ``id`` and ``item``. What serving would
refuse is refused here, by the same readers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from tidemill.deploy.sandbox.past_items import logged_items, shown_action, split_propensities
from tidemill.errors import ConfigError, RequestError
from tidemill.schemas.logs import DECISIONS, Log
from tidemill.schemas.loop.definition import Decision, Loop
from tidemill.serving.decision.baselines import answer_of
from tidemill.serving.decision.requests import DecisionReader, DecisionRequest, FeedbackReader

MAX_LINE_BYTES = 1_000_000
SOURCE = "history"
"""The source of a decision whose line names none."""


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """What a line may have."""

    at: datetime | None = None
    id: str | None = None
    features: dict[str, object] | None = None
    entity: str | None = None
    action: bool | float | str | list[str] | None = None
    propensity: float | None = None
    score: float | None = None
    source: str | None = None
    baseline: bool | float | str | list[str] | None = None
    items: list[dict[str, object]] | None = None
    decision_id: str | None = None
    kind: str | None = None
    values: dict[str, object] = {}
    item: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PastEvent:
    """One decision or feedback; *fields* are those of its Avro record, *kind* is the feedback's."""

    at: datetime
    log: Log
    key: str
    fields: Mapping[str, object]
    kind: str | None = None


def read_history(
    path: Path, loop: Loop, on_progress: Callable[[int, int], object] = lambda _done, _of: None
) -> list[PastEvent]:
    """Return the events of the file at *path* in the order of their times.

    Args:
        path: the file; its lines may have any order.
        loop: the loop that the events belong to.
        on_progress: called with the bytes read, and with all of them.

    Raises:
        RequestError: a line is no event of *loop*; the error names the line.
        ConfigError: the file cannot be read, or has no decision.
    """
    reader = HistoryReader(loop)
    try:
        with path.open("rb") as file:
            events = [
                reader.event(number, line) for number, line in _lines(path, file, on_progress)
            ]
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", hint="name a file of JSON lines"
        ) from error
    if not any(event.log == DECISIONS for event in events):
        raise ConfigError(
            f"{path} has no decision",
            hint='write one in each line: {"id": "d1", "at": "2026-01-02T03:04:05Z", '
            '"features": {...}}',
        )
    return sorted(events, key=lambda event: event.at)


def _lines(
    path: Path, file: BinaryIO, on_progress: Callable[[int, int], object]
) -> Iterator[tuple[int, bytes]]:
    total, done = path.stat().st_size, 0
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), start=1):
        if len(line) > MAX_LINE_BYTES:
            raise RequestError(
                f"line {number} has more than {MAX_LINE_BYTES:,} bytes",
                hint="write one event in each line",
            )
        done += len(line)
        if line.strip():
            yield number, line
        if number % 1_000 == 0:
            on_progress(done, total)
    on_progress(total, total)


class HistoryReader:
    """Reads the lines of a history of one loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._decisions, self._feedback = DecisionReader(loop), FeedbackReader(loop)
        self._decode = msgspec.json.Decoder(_Line).decode

    def event(self, number: int, line: bytes) -> PastEvent:
        """Return the event in *line*, the *number*-th of its file.

        Raises:
            RequestError: it is no event of the loop.
        """
        try:
            found = self._decode(line)
            if found.at is None or found.at.tzinfo is None:
                raise RequestError(
                    "it has no time `at` with a zone", hint="write it as 2026-01-02T03:04:05Z"
                )
            if (found.features is None) == (found.decision_id is None):
                raise RequestError(
                    "it is neither a decision nor a feedback",
                    hint="a decision has features, a feedback has decision_id and kind",
                )
            make = self._decision if found.features is not None else self._given
            return make(found, found.at, number)
        except msgspec.DecodeError as error:
            hint = "a decision has id, at and features; a feedback decision_id, kind and at"
            raise RequestError(f"line {number}: {error}", hint=hint) from error
        except RequestError as error:
            raise RequestError(f"line {number}: {error.what}", hint=error.hint) from error

    def _decision(self, line: _Line, at: datetime, _number: int) -> PastEvent:
        if line.id is None:
            raise RequestError("the decision has no id", hint="its feedback names it")
        items, known = split_propensities(line.items)
        request = self._decisions.check(
            line.features or {}, line.entity, line.id, at, line.baseline, items
        )
        action = self._action(request, line.action)
        fields: dict[str, object] = {
            "id": line.id,
            "at": at,
            "entity": line.entity,
            "action": action,
            "score": line.score,
            "propensity": _checked_propensity(line.propensity),
            "source": line.source or SOURCE,
            "policy_version": self._loop.policy.version,
            "loop_version": self._loop.version,
            "features": dict(zip(self._loop.features, request.features, strict=True)),
            "baseline": request.baseline,
        }
        if request.items is not None:
            fields["items"] = logged_items(
                self._loop, request.items, action, known, line.propensity
            )
        return PastEvent(at=at, log=DECISIONS, key=line.id, fields=fields)

    def _action(self, request: DecisionRequest, action: object) -> object:
        """Return what was done, as the line says; the default if it does not."""
        decision = self._loop.decision
        if request.items is not None:
            is_ranking = decision.type == "ranking"
            return shown_action(request.items, action, is_ranking=is_ranking)
        return decision.default if action is None else checked_action(decision, action)

    def _given(self, line: _Line, at: datetime, number: int) -> PastEvent:
        decision_id, kind = line.decision_id or "", line.kind
        if kind is None:
            kinds = ", ".join(self._loop.feedback)
            raise RequestError("the feedback has no kind", hint=f"the loop has {kinds}")
        given = self._feedback.check(decision_id, kind, line.values, line.id, at, line.item)
        fields: dict[str, object] = {
            "id": line.id or f"{decision_id}/{kind}/{number}",
            "decision_id": decision_id,
            "at": at,
            "values": given.values,
        }
        if given.item is not None:
            fields["item"] = given.item
        log = self._loop.feedback[kind].log
        return PastEvent(at=at, log=log, key=decision_id, fields=fields, kind=kind)


def checked_action(decision: Decision, action: object) -> object:
    """Return *action* if it is one of *decision*.

    Raises:
        RequestError: it is not.
    """
    found = answer_of(decision, action)
    if found is not None:
        return found
    known: Sequence[str] = decision.actions
    hint = f"take {', '.join(known)}" if known else f"write a {decision.type}"
    raise RequestError(f"action {action!r:.100} is no {decision.type} of the loop", hint=hint)


def _checked_propensity(propensity: float | None) -> float | None:
    if propensity is not None and not propensity > 0.0:
        raise RequestError(
            f"propensity is {propensity}, which cannot be of an action that was taken",
            hint="write the probability of the action, above 0, or leave it out",
        )
    return propensity

"""An oracle for the records of one partition: the rules in words, written with dictionaries.

It reads whole logs, one record after the other, and shares no code with the join. Times are whole
seconds.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from tidemill.schemas.logs import Log, offset_of, position_of
from tidemill.streams.join.rules import JoinRules

SKEW = 5  # how far an event time may be ahead of its arrival


class Event(NamedTuple):
    """A record: *id* is the decision's; *own*, *kind* and *value* are there for feedback alone.

    Where decisions bring items, *items* are those of a decision and *item* is that of a feedback.
    """

    log: Log
    id: str
    at: int
    arrived: int
    own: str = ""
    kind: str = "click"
    value: float = 0.0
    is_broken: bool = False
    items: tuple[tuple[str, int | None], ...] = ()
    item: str | None = None


class Jump(NamedTuple):
    """Before the record at *offset* was read, its idle *log* was advanced to *to*."""

    log: Log
    offset: int
    to: float


class Expected(NamedTuple):
    """The result of the rules for some logs; *verdicts* by table and log position.

    *examples* are by the offset of the decision and the position of the item, None without one.
    """

    dead: Counter[Log]
    verdicts: dict[str, dict[int, str | None]]
    examples: dict[tuple[int, int | None], tuple[str, float | None, list[int], int]]
    ended: Counter[str]
    open: Counter[str]


WITHOUT = {"negative": ("no_feedback", 0.0), "censored": ("censored", None)}
WITHOUT_LABEL: dict[str, tuple[str, float | None]] = {**WITHOUT, "dropped": ("no_feedback", None)}


def places(rules: JoinRules, d: Event, f: Event | None = None) -> Collection[int | None]:
    """Return the positions of the examples of *d*, or of those that *f* falls on."""
    if not rules.has_items:
        return [None]
    shown: dict[int, str] = {}
    for item, position in d.items:
        if position is not None:
            shown.setdefault(position, item)
    if f is None:
        return list(shown) or [None]
    return [position for position, item in shown.items() if f.item is None or f.item == item]


Logs = dict[Log, Sequence[Event]]
Jumps = Collection[Jump]
Ends = Mapping[Log, int] | None


def times_before(logs: Logs, jumps: Jumps) -> dict[tuple[Log, int], float]:
    """Return the stream time of its log before each record that can be read."""
    before: dict[tuple[Log, int], float] = {}
    for log in logs:
        time = -math.inf
        for offset, event in enumerate(logs[log]):
            time = max([time, *(jump.to for jump in jumps if jump[:2] == (log, offset))])
            if event.is_broken or event.at > event.arrived + SKEW:
                continue
            before[log, offset] = time
            time = max(time, event.at)
    return before


def oracle(rules: JoinRules, logs: Logs, frontier: float, jumps: Jumps, examined: Ends) -> Expected:
    """Return the result for *logs* when all decisions earlier than *frontier* are closed.

    Feedback before the offsets *examined*, or any if that is None, may have corrected them.
    """
    spans = (rules.grace, rules.wait, rules.ahead, rules.memory, rules.corrections)
    grace, wait, ahead, memory, more = (span.total_seconds() for span in spans)
    expected = Expected(Counter(), {"decisions": {}, "feedback": {}}, {}, Counter(), Counter())
    before = times_before(logs, jumps)
    expected.dead.update(
        {log: len(logs[log]) - [of for of, _ in before].count(log) for log in logs}
    )
    on_time: list[tuple[int, Event]] = []  # decisions, copies too
    first: list[tuple[int, Event]] = []
    for (log, offset), time in before.items():
        if log == "decisions":
            event = logs[log][offset]
            same = [d for _, d in on_time if d.id == event.id and d.at + memory >= time]
            late = time > event.at + grace
            expected.verdicts[log][offset] = "late" if late else "duplicate" if same else None
            on_time += [] if late else [(offset, event)]
            first += [] if late or same else [(offset, event)]
    fits: dict[int, list[tuple[int, Event]]] = {offset: [] for offset, _ in first}
    outcomes: dict[int, str] = {}
    for (log, offset), time in before.items():
        if log != "decisions":
            f, position = logs[log][offset], position_of(log, offset)
            is_examined = examined is None or offset < examined[log]
            early, within = (each[f.kind].total_seconds() for each in (rules.early, rules.within))
            close = wait + grace + (more if is_examined else 0)
            takers = [(o, d) for o, d in first if d.id == f.id
                      and -early <= f.at - d.at <= within and time <= d.at + close]  # fmt: skip
            fitting = [o for o, d in takers if places(rules, d, f)]
            known = any(d.id == f.id and -early <= f.at - d.at <= memory for _, d in on_time)
            past_all = time > f.at + ahead + wait + grace + more
            expected.verdicts["feedback"][position] = "late" if past_all else None
            if (f.at + ahead >= frontier or not is_examined) and not past_all:
                outcomes[position] = "open"
            elif not past_all:
                outcomes[position] = "late" if known else "unmatched"
                if takers:
                    outcomes[position] = "duplicate" if fitting else "unknown_item"
            for taker in fitting:
                if (log, f.own) not in [(copy.log, copy.own) for _, copy in fits[taker]]:
                    fits[taker].append((position, f))
    for offset, d in [(offset, d) for offset, d in first if d.at < frontier]:
        outcomes |= dict.fromkeys([o for o, _ in fits[offset]], "joined")
        for place in places(rules, d):
            joined = [(o, f) for o, f in fits[offset] if place in places(rules, d, f)]
            joined.sort(key=lambda pair: (pair[1].at, pair[0]))
            values = [f.value for _, f in joined]
            labeled = ("labeled", sum(values) + 1000 * values[0]) if values else None
            revision = sum(before[f.log, offset_of(o)] > d.at + wait + grace for o, f in joined)
            result = labeled or WITHOUT_LABEL[rules.missing]
            expected.examples[offset, place] = *result, [o for o, _ in joined], revision
    expected.ended.update(each for each in outcomes.values() if each not in ("open", "joined"))
    expected.open["feedback"] = list(outcomes.values()).count("open")
    expected.open["decisions"] = len(first) - len({offset for offset, _ in expected.examples})
    return expected

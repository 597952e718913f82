"""Logs for tests of the join: a short notation, an oracle of dictionaries, and a small shell.

The oracle reads whole logs and was written from the rules, not from the product. Times are whole
seconds from a small range, so that equal times and window ends are common.
"""

import io
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import NamedTuple

import polars as pl

from tidemill.schemas.events.schemas import CIRCUMSTANCES
from tidemill.schemas.logs import (
    DECISIONS,
    FEEDBACK,
    OFFSET_BITS,
    Log,
    first_position,
    is_feedback,
    position_of,
)
from tidemill.schemas.loop.definition import Decision, Feedback, Label, Loop, Policy
from tidemill.schemas.loop.fields import Feature, FieldType
from tidemill.schemas.loop.labels import compile_label
from tidemill.schemas.loop.sql.label_query import LabelQuery
from tidemill.streams.join.corrections import Recall, Recalled
from tidemill.streams.join.labels import Labels
from tidemill.streams.join.partition_join import Advance, Closed, Counts, PartitionJoin, Resume
from tidemill.streams.join.rules import JoinRules, read_back

START = datetime(2026, 3, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LOGS: tuple[Log, Log] = (DECISIONS, FEEDBACK)
ORDERS: Log = Log("feedback.orders")
THREE: tuple[Log, ...] = (*LOGS, ORDERS)


class D(NamedTuple):
    """A decision: its id, seconds after START, and its items with their positions, if it has any.

    The position of an item that was not shown is None.
    """

    id: str
    at: int
    items: tuple[tuple[str, int | None], ...] = ()

    @property
    def shown(self) -> dict[int, str]:
        """The item at each position; of several, the first."""
        return {position: item for item, position in reversed(self.items) if position is not None}


class F(NamedTuple):
    """A feedback: its id, its decision's id, seconds after START, kind, value; perhaps an item."""

    id: str
    of: str
    at: int
    kind: str = "click"
    value: float = 1.0
    item: str | None = None


class Logs(NamedTuple):
    """The logs of one partition, in the order of their offsets; most tests need no *orders*."""

    decisions: Sequence[D]
    feedback: Sequence[F]
    orders: Sequence[F] = ()

    def answers(self, log: Log) -> Sequence[F]:
        """Return a log of feedback."""
        return self.orders if log == ORDERS else self.feedback


def with_shared_labels(
    rules: JoinRules, resume: Resume | None, recall: Recall | None = None
) -> PartitionJoin:
    """Return a join; opening a DuckDB for each would take most of the time of a test."""
    return PartitionJoin(rules, resume, labels=shared_labels(rules), recall=recall)


@cache
def _labels(query: LabelQuery) -> Labels:
    return Labels(query)


def shared_labels(rules: JoinRules) -> Labels:
    """Return the same labels for the same expression."""
    return _labels(rules.label)


@cache
def label_of(sql: str) -> LabelQuery:
    """Return the float label *sql* over the feedback of LOOP."""
    return compile_label(LOOP.model_copy(update={"label": Label(sql=sql, type="float")}))


def number() -> Feature:
    """Return a float that may be missing."""
    return Feature(type=FieldType.FLOAT, nullable=True)


LOOP = Loop(
    loop="shop",
    decision=Decision(type="bool", default=False),
    features={"price": number()},
    feedback={
        "click": Feedback(within=3 * SECOND, early=2 * SECOND, values={"weight": number()}),
        "buy": Feedback(within=8 * SECOND, values={"amount": number()}),
    },
    # Depends on every joined row and on which comes first.
    label=Label(
        sql="sum(coalesce(weight, amount)) + 1000 * first(coalesce(weight, amount))", type="float"
    ),
    grace=2 * SECOND,
    remember=15 * SECOND,
    policy=Policy(kind="threshold"),
)
RULES = JoinRules.of(LOOP)
WITH_ITEMS = Loop.model_validate(
    {
        **LOOP.model_dump(exclude={"decision", "policy"}),
        "loop": "shop-items",
        "decision": {"type": "ranking", "items": {"features": {"size": "float"}}},
        "policy": {"kind": "greedy"},
    }
)
ITEM_RULES = JoinRules.of(WITH_ITEMS)


def rules(**changes: object) -> JoinRules:
    """Return RULES with *changes*."""
    return replace(RULES, **changes)  # type: ignore[arg-type]  # tests pass fields of JoinRules


def item_rules(**changes: object) -> JoinRules:
    """Return ITEM_RULES with *changes*."""
    return replace(ITEM_RULES, **changes)  # type: ignore[arg-type]  # as above


def decision_frame(
    rows: Sequence[D], first_offset: int = 0, schema: pl.Schema = RULES.decisions
) -> pl.DataFrame:
    """Return *rows* as decoded columns, at offsets from *first_offset* on."""
    columns: dict[str, object] = {
        "id": [row.id for row in rows],
        "at": [START + row.at * SECOND for row in rows],
        "entity": [None] * len(rows),
        "action": _actions(rows) if "items" in schema else [False] * len(rows),
        "score": [None] * len(rows),
        "propensity": [1.0] * len(rows),
        "source": ["default"] * len(rows),
        "model_version": [None] * len(rows),
        "policy_version": [1] * len(rows),
        "loop_version": [1] * len(rows),
        "features": [{"price": float(len(row.id))} for row in rows],
        **{name: [None] * len(rows) for name in CIRCUMSTANCES},
    }
    if "items" in schema:
        columns["items"] = [[_item(*each) for each in row.items] for row in rows]
    return _with_offsets(pl.DataFrame(columns, schema=schema), first_offset)


def _actions(rows: Sequence[D]) -> list[list[str]]:
    """Return the order that each of *rows* has shown."""
    return [[name for name, place in row.items if place is not None] for row in rows]


def _item(name: str, position: int | None) -> dict[str, object]:
    features = {"size": float(len(name))}
    return {"id": name, "propensity": 0.5, "position": position, "features": features}


def feedback_frame(
    rows: Sequence[F], first_offset: int = 0, schema: pl.Schema = RULES.feedback
) -> pl.DataFrame:
    """Return *rows* as decoded columns, at offsets from *first_offset* on."""
    columns: dict[str, object] = {
        "id": [row.id for row in rows],
        "decision_id": [row.of for row in rows],
        "kind": [row.kind for row in rows],
        "at": [START + row.at * SECOND for row in rows],
        "values": [
            {"weight": row.value, "amount": None}
            if row.kind == "click"
            else {"weight": None, "amount": row.value}
            for row in rows
        ],
    }
    if "item" in schema:
        columns["item"] = [row.item for row in rows]
    return _with_offsets(pl.DataFrame(columns, schema=schema), first_offset)


def _with_offsets(frame: pl.DataFrame, first: int) -> pl.DataFrame:
    offsets = pl.Series("offset", range(first, first + len(frame)), dtype=pl.Int64)
    return frame.with_columns(offsets)


Example = tuple[float | None, tuple[int, ...]]
Key = int | tuple[int, int | None]
"""An example: the offset of its decision and, of several items, the position of its own."""


class Outcome(NamedTuple):
    """The result of the rules for some logs: one entry for each decision and feedback, by offset.

    *examples* are the newest revisions; *revisions* has all of them by key and number, with their
    states. A closed decision with items is 'closed': each of its examples has a state.
    """

    decisions: dict[int, str]
    examples: dict[Key, Example]
    feedback: dict[int, str]
    revisions: dict[tuple[Key, int], tuple[str, Example]]


def naive(
    rules: JoinRules,
    logs: Logs,
    frontier: float = math.inf,
    advances: Iterable[Advance] = (),
    examined: Mapping[Log, int] | None = None,
) -> Outcome:
    """Return the result of *logs*, computed with dictionaries; feedback by its log position.

    Decisions at *frontier* or later are open; feedback at an offset of *examined* or later corrects
    none.
    """

    def befores(log: Log, times: Sequence[int]) -> list[float]:
        before, time = [], -math.inf
        for offset, at in enumerate(times):
            jumps = [seconds(a.to) for a in advances if (a.log, a.offset) == (log, offset)]
            time = max([time, *jumps])
            before.append(time)
            time = max(time, at)
        return before

    grace, wait = rules.grace / SECOND, rules.wait / SECOND
    ahead, memory = rules.ahead / SECOND, rules.memory / SECOND
    late = rules.corrections / SECOND
    on_time_at: dict[str, list[int]] = {}  # times of on-time decisions by id
    first: dict[int, D] = {}
    states: dict[int, str] = {}
    examples: dict[Key, Example] = {}
    outcomes: dict[int, str] = {}
    revisions: dict[tuple[Key, int], tuple[str, Example]] = {}
    for offset, before in enumerate(befores(DECISIONS, [d.at for d in logs.decisions])):
        d = logs.decisions[offset]
        if before > d.at + grace:
            states[offset] = "late"
            continue
        if any(at + memory >= before for at in on_time_at.get(d.id, [])):
            states[offset] = "duplicate"
        else:
            first[offset], states[offset] = d, "open"
        on_time_at.setdefault(d.id, []).append(d.at)
    could: dict[int, list[int]] = {}  # the decisions that could take each feedback
    answers: dict[int, F] = {}  # all feedback by log position
    before_feedback: dict[int, float] = {}
    unexamined: set[int] = set()
    for log in filter(is_feedback, rules.logs):
        times = befores(log, [f.at for f in logs.answers(log)])
        for offset, f in enumerate(logs.answers(log)):
            position = position_of(log, offset)
            answers[position], before_feedback[position] = f, times[offset]
            if offset >= (examined or {}).get(log, math.inf):
                unexamined.add(position)
    for offset, f in answers.items():
        early, within = rules.early[f.kind] / SECOND, rules.within[f.kind] / SECOND
        could[offset] = [
            o for o, d in first.items()
            if d.id == f.of and d.at - early <= f.at <= d.at + within
            and before_feedback[offset] <= d.at + wait + grace + late
        ]  # fmt: skip
        known = any(f.at - memory <= at <= f.at + early for at in on_time_at.get(f.of, []))
        outcomes[offset] = "duplicate" if could[offset] else "late" if known else "unmatched"
        if could[offset] and not any(_keys(rules, o, first[o], f) for o in could[offset]):
            outcomes[offset] = "unknown_item"
        if before_feedback[offset] > f.at + ahead + wait + grace + late:
            outcomes[offset] = "late"
        elif f.at + ahead >= frontier or (late and offset in unexamined):
            outcomes[offset] = "open"
    for o, d in first.items():
        if d.at < frontier:
            once: dict[tuple[int, str], int] = {}  # an id is one of its stream
            for offset, f in answers.items():
                if o in could[offset] and _keys(rules, o, d, f):
                    once.setdefault((offset >> OFFSET_BITS, f.id), offset)
            on_time = {at for at in once.values() if before_feedback[at] <= d.at + wait + grace}
            late_copies = [at for at in once.values() if at not in on_time | unexamined]
            for key in _keys(rules, o, d):
                its = {each for each in once.values() if key in _keys(rules, o, d, answers[each])}
                its_late = [each for each in late_copies if each in its]
                for number in range(len(its_late) + 1):
                    taken = (on_time & its) | set(its_late[:number])
                    joined = sorted(taken, key=lambda offset: (answers[offset].at, offset))
                    state, label = _state_and_label(rules, [answers[each] for each in joined])
                    examples[key] = label, tuple(joined)
                    revisions[key, number] = state, examples[key]
                    states[o] = "closed" if rules.has_items else state
            outcomes |= dict.fromkeys(on_time, "joined") | dict.fromkeys(late_copies, "corrected")
    return Outcome(states, examples, outcomes, revisions)


def _keys(rules: JoinRules, offset: int, d: D, f: F | None = None) -> list[Key]:
    """Return the examples of *d*, or those of them that *f* falls on."""
    if not rules.has_items:
        return [offset]
    if f is None:
        return [(offset, position) for position in d.shown or (None,)]
    return [(offset, at) for at, item in d.shown.items() if f.item in (None, item)]


def _state_and_label(rules: JoinRules, joined: Sequence[F]) -> tuple[str, float | None]:
    """Return state and label of a decision with *joined* feedback, in order."""
    if rules.activation is not None and rules.activation not in {f.kind for f in joined}:
        return "not_activated", None
    values = [f.value for f in joined if f.kind != rules.activation]
    return ("labeled", sum(values) + 1000 * values[0]) if values else _WITHOUT[rules.missing]


_WITHOUT: dict[str, tuple[str, float | None]] = {
    "negative": ("no_feedback", 0.0),
    "censored": ("censored", None),
    "dropped": ("no_feedback", None),
}


def seconds(time: datetime) -> int:
    """Return *time* as seconds after START."""
    return (time - START) // SECOND


def random_logs(
    rng: random.Random, size: int = 30, *, streams: bool = False, items: bool = False
) -> Logs:
    """Return logs with everything that goes wrong in them; with *streams*, three of them."""
    logs = _random_logs(rng, size, streams=streams)
    return with_items(rng, logs) if items else logs


def with_items(rng: random.Random, logs: Logs) -> Logs:
    """Return *logs* whose decisions have items, of which feedback names some, or others."""
    return Logs(
        [d._replace(items=_random_items(rng)) for d in logs.decisions],
        *([f._replace(item=_random_item(rng)) for f in answers] for answers in logs[1:]),
    )


def _random_items(rng: random.Random) -> tuple[tuple[str, int | None], ...]:
    """Return some items: none, not shown, shown twice or at one position, in any order."""
    named = [
        (rng.choice("pqrst"), rng.choice((None, 0, 1, 2, 3))) for _ in range(rng.randint(0, 5))
    ]
    return tuple(named)


def _random_item(rng: random.Random) -> str | None:
    names: tuple[str | None, ...] = (None, None, *"pqrst", "unheard-of")
    return rng.choice(names)


def _random_logs(rng: random.Random, size: int, *, streams: bool) -> Logs:
    span, decisions, feedback = rng.choice((10, 30, 100)), list[D](), list[F]()
    ids = [f"d{number}" for number in range(rng.randint(1, size))]
    for _ in range(rng.randint(0, size)):
        if decisions and rng.random() < 0.1:
            decisions.append(rng.choice(decisions))
            continue
        decisions.append(D(rng.choice(ids), rng.randint(0, span)))
    for _ in range(rng.randint(0, size)):
        if feedback and rng.random() < 0.15:
            copy = rng.choice(feedback)
            feedback.append(copy._replace(at=copy.at + rng.choice((0, 0, 0, -3, 1, 4))))
            continue
        d = rng.choice(decisions) if decisions and rng.random() < 0.9 else D("nobody", 5)
        kind = rng.choice(("click", "buy"))
        at = d.at + rng.choice((-3, -2, -1, 0, 1, 3, 4, 8, 9, 20))
        value = float(rng.randint(-5, 9))
        feedback.append(F(f"f{rng.randint(0, 3 * size)}", d.id, at, kind, value))
    disorder = rng.choice((0, 1, 3, 8, 1000))
    decisions.sort(key=lambda d: d.at + rng.uniform(-disorder, disorder))
    feedback.sort(key=lambda f: f.at + rng.uniform(-disorder, disorder))
    if not streams:
        return Logs(decisions, feedback)
    ordered = [rng.random() < (0.8 if f.kind == "buy" else 0.1) for f in feedback]
    orders = [f for f, is_order in zip(feedback, ordered, strict=True) if is_order]
    rest = [f for f, is_order in zip(feedback, ordered, strict=True) if not is_order]
    if rest and orders:  # the same id in two streams is two feedback
        orders.append(rng.choice(rest))
    return Logs(decisions, rest, orders)


@dataclass
class Shell:
    """The work of a streams worker around a join, with lists for the lake and for Kafka."""

    logs: Logs
    rules: JoinRules = RULES
    new_join: Callable[[JoinRules, Resume | None, Recall], PartitionJoin] = with_shared_labels
    raw: dict[Log, list[pl.DataFrame]] = field(default_factory=dict)
    offsets: dict[Log, int] = field(default_factory=dict)
    times: dict[Log, datetime | None] = field(default_factory=dict)
    closed: list[Closed] = field(default_factory=list)
    advances: list[Advance] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.raw = {log: [] for log in self.rules.logs}
        self.offsets = dict.fromkeys(self.rules.logs, 0)
        self.times = dict.fromkeys(self.rules.logs)
        self.start()

    def start(self) -> None:
        """Continue from what is committed."""
        self.join = self.new_join(self.rules, self._resume(), self._recall)
        self.positions = dict(self.offsets)
        self.taken: dict[Log, list[pl.DataFrame]] = {log: [] for log in self.rules.logs}
        self.pending_advances: list[Advance] = []

    def poll(self, log: Log, count: int) -> None:
        """Take the next *count* records of *log*, or what is left."""
        start = self.positions[log]
        if log == "decisions":
            rows = self.logs.decisions[start : start + count]
            frame = decision_frame(rows, start, self.rules.decisions)
            taken = self.join.take_decisions(frame)
        else:
            answers = self.logs.answers(log)[start : start + count]
            frame = feedback_frame(answers, first_position(log) + start, self.rules.feedback)
            taken = self.join.take_feedback(frame, log)
        self.taken[log].append(taken)
        self.positions[log] += len(taken)

    def advance(self, log: Log, to: int) -> None:
        """Advance idle *log* to *to* seconds."""
        self.join.advance(log, START + to * SECOND)
        self.pending_advances.append(Advance(log, self.positions[log], START + to * SECOND))

    def commit(self, crash_after: int = 3) -> None:
        """Commit decisions, feedback, examples; stop and start again after *crash_after* of 3."""
        closed = self.close()
        # All feedback is one commit.
        for log in self.rules.logs[: (0, 1, None, None)[crash_after]]:
            self.raw[log] += self.taken[log]
            self.offsets[log] = self.positions[log]
            self.times[log] = self.join.stream_time(log)
            self.advances += [each for each in self.pending_advances if each.log == log]
            self.pending_advances = [each for each in self.pending_advances if each.log != log]
            self.taken[log] = []
        if closed is not None and crash_after == 3:
            self.closed.append(closed)
        if crash_after < 3:
            self.start()

    def close(self) -> Closed | None:
        """Close what is due."""
        return self.join.close()

    def finish(self) -> None:
        """Read all logs to their ends and let stream time pass everything."""
        for log in self.rules.logs:
            self.poll(log, 10**9)
        for log in self.rules.logs:
            self.advance(log, 10**7)
        self.commit()

    def rows(self, log: Log) -> pl.DataFrame:
        """Return the committed raw rows of *log*."""
        return pl.concat(self.raw[log]) if self.raw[log] else pl.DataFrame()

    def answers(self) -> pl.DataFrame:
        """Return the committed raw rows of all feedback."""
        frames = [frame for log in self.rules.logs if is_feedback(log) for frame in self.raw[log]]
        return pl.concat(frames) if frames else pl.DataFrame()

    def examples(self) -> pl.DataFrame:
        """Return the newest revision of all examples, by offset."""
        all_of_them = self.revisions()
        if not len(all_of_them):
            return all_of_them
        return all_of_them.unique(self.rules.key, keep="last", maintain_order=True)

    def revisions(self) -> pl.DataFrame:
        """Return all examples by offset, position if there is one, and revision."""
        frames = [closed.examples for closed in self.closed]
        by = [*self.rules.key, "revision"]
        return pl.concat(frames).sort(by, maintain_order=True) if frames else pl.DataFrame()

    def outcome(self) -> tuple[Outcome, Counts]:
        """Return what was committed, in the oracle's terms, and the counts of feedback."""
        states: dict[int, str] = {}
        examples: dict[Key, Example] = {}
        outcomes: dict[int, str] = {}
        revisions: dict[tuple[Key, int], tuple[str, Example]] = {}
        for offset, verdict in _verdicts(self.rows(DECISIONS)):
            states[offset] = verdict or "open"
        for offset, verdict in _verdicts(self.answers()):
            outcomes[offset] = verdict or "unjoined"
        for row in self.revisions().iter_rows(named=True):
            offset, number, joined = row["offset"], row["revision"], row["feedback_offsets"]
            has_items = self.rules.has_items
            key = (offset, row["position"]) if has_items else offset
            assert (key, number) not in revisions
            examples[key] = row["label"], tuple(joined)
            states[offset] = "closed" if has_items else row["state"]
            revisions[key, number] = row["state"], examples[key]
            how = "corrected" if number else "joined"
            outcomes |= {
                at: how for at in joined if outcomes.get(at) not in ("joined", "corrected")
            }
        counts = self.closed[-1].counts if self.closed else Counts()
        return Outcome(states, examples, outcomes, revisions), counts

    def _recall(self, wanted: pl.DataFrame) -> Recalled:
        examples = self.examples().join(wanted, on=["decision_id", "at"], how="semi")
        joined = examples.select(offset=pl.col("feedback_offsets").explode())
        none = feedback_frame([], schema=self.rules.feedback)
        feedback = self.answers() if len(self.answers()) else none
        return Recalled(examples=examples, feedback=feedback.join(joined, on="offset", how="semi"))

    def _resume(self) -> Resume:
        last = self.closed[-1] if self.closed else None
        since = read_back(self.rules, last.frontier if last else None)
        examples = self.revisions()
        joined = pl.Series("joined", [], dtype=pl.Int64)
        if len(examples) and since.examples:
            recent = examples.filter(pl.col("at") >= since.examples)
            joined = recent["feedback_offsets"].explode().drop_nulls()
        feedback = filter(is_feedback, self.rules.logs)
        begun: Mapping[Log, int] = dict.fromkeys(feedback, 0) if self.rules.corrections else {}
        examined = last.examined if last else begun
        decisions = self.rows(DECISIONS)
        ids = _since(decisions, since.decisions, (None, "duplicate"))
        times: dict[Log, datetime | None] = {}
        for log in self.rules.logs:
            known = [self.times[log], last.stream_times.get(log) if last else None]
            times[log] = max((time for time in known if time is not None), default=None)
        return Resume(
            frontier=last.frontier if last else None,
            stream_times=times,
            offsets=self.offsets,
            counts=last.counts if last else Counts(),
            decisions=_since(decisions, last.frontier if last else None, (None, "duplicate")),
            remembered=ids.filter(pl.col("at") < last.frontier)
            if last and ids is not None
            else None,
            feedback=_since(self.answers(), since.feedback, (None,), examined),
            joined=joined,
            examined=examined,
            revised=last.revised if last else 0,
        )


def _verdicts(frame: pl.DataFrame) -> Iterable[tuple[int, str | None]]:
    return frame.select("offset", "verdict").iter_rows() if len(frame) else []


def _since(
    frame: pl.DataFrame,
    since: datetime | None,
    verdicts: tuple[str | None, ...],
    examined: Mapping[Log, int] | None = None,
) -> pl.DataFrame | None:
    if not len(frame):
        return None
    rows = frame.filter(pl.col("verdict").is_in(list(verdicts), nulls_equal=True))
    if since is None:
        return rows
    fresh = pl.lit(value=False)
    for log, offset in (examined or {}).items():
        end = first_position(log) + 2**OFFSET_BITS
        fresh |= pl.col("offset").is_between(position_of(log, offset), end, closed="left")
    return rows.filter((pl.col("at") >= since) | fresh)


def assert_agrees(shell: Shell) -> None:
    """Compare what *shell* committed with the oracle, and check that nothing is lost or doubled."""
    frontier = seconds(shell.closed[-1].frontier) if shell.closed else -math.inf
    end = shell.logs._replace(
        decisions=shell.logs.decisions[: shell.offsets[DECISIONS]],
        feedback=shell.logs.feedback[: shell.offsets.get(FEEDBACK, 0)],
        orders=shell.logs.orders[: shell.offsets.get(ORDERS, 0)],
    )
    begun = dict.fromkeys(filter(is_feedback, shell.rules.logs), 0)
    examined = shell.closed[-1].examined if shell.closed else begun
    expected = naive(shell.rules, end, frontier, shell.advances, examined)
    actual, counts = shell.outcome()
    assert actual.decisions == expected.decisions
    assert actual.examples == expected.examples
    assert {
        position for position in expected.revisions if not position[1]
    } <= actual.revisions.keys()
    for position, revision in actual.revisions.items():
        if (
            len(shell.rules.logs) == 2
            or not position[1]
            or revision[1] == actual.examples[position[0]]
        ):
            assert revision == expected.revisions[position], position
    if shell.closed:
        assert shell.closed[-1].revised == sum(number > 0 for _, number in actual.revisions)
    for offset, outcome in actual.feedback.items():
        wanted = expected.feedback[offset]
        assert outcome in (wanted, "unjoined"), (offset, outcome, wanted)
    late = sum(outcome == "late" for outcome in actual.feedback.values())
    every = list(expected.feedback.values())
    assert counts == Counts(
        late=every.count("late") - late,
        duplicate=every.count("duplicate"),
        unmatched=every.count("unmatched"),
        unknown_item=every.count("unknown_item"),
    )
    assert_shown(shell)


def assert_shown(shell: Shell) -> None:
    """Check that each example of a loop with items has the item of its position."""
    if not shell.rules.has_items:
        return
    for row in shell.examples().iter_rows(named=True):
        item = shell.logs.decisions[row["offset"]].shown.get(row["position"])
        size = None if item is None else {"size": float(len(item))}
        assert (row["item"], row["item_features"]) == (item, size), row
        assert row["item_propensity"] == (None if item is None else 0.5)


def assert_conserved(shell: Shell) -> None:
    """Check that every record read is terminal or open, for all logs, at any time."""
    states = [verdict for frame in shell.raw[DECISIONS] for verdict in frame["verdict"]]
    states += [verdict for frame in shell.taken[DECISIONS] for verdict in frame["verdict"]]
    firsts = [closed.examples.filter(revision=0) for closed in shell.closed]
    closed = sum(first["offset"].n_unique() for first in firsts)
    judged = len(states) - states.count(None)
    assert len(states) == judged + closed + shell.join.open_decisions
    outcomes = []
    for log in filter(is_feedback, shell.rules.logs):
        frames = [*shell.raw[log], *shell.taken[log]]
        outcomes += [verdict for frame in frames for verdict in frame["verdict"]]
    examples = shell.examples()
    offsets = examples["feedback_offsets"].explode() if len(examples) else pl.Series()
    joined = offsets.drop_nulls().n_unique()
    counts = shell.join.counts
    ended = counts.late + counts.duplicate + counts.unmatched + counts.unknown_item
    assert len(outcomes) == outcomes.count("late") + joined + ended + shell.join.open_feedback


def played(
    decisions: list[D], feedback: list[F], join_rules: JoinRules = RULES, orders: Sequence[F] = ()
) -> Shell:
    """Read all logs whole, close everything, and compare the result with the oracle."""
    shell = Shell(Logs(decisions, feedback, orders), join_rules)
    shell.finish()
    assert_agrees(shell)
    assert_conserved(shell)
    return shell


def states(shell: Shell) -> dict[str, str]:
    """Return the state of each example by decision id."""
    examples = shell.examples()
    return dict(zip(examples["decision_id"], examples["state"], strict=True))


def joined(shell: Shell) -> dict[str, list[int]]:
    """Return the offsets of the joined feedback of each example by decision id."""
    examples = shell.examples()
    return dict(zip(examples["decision_id"], examples["feedback_offsets"].to_list(), strict=True))


def as_bytes(shell: Shell) -> bytes:
    """Return the examples of *shell* as text, by decision id; bits of padding do not count."""
    file = io.BytesIO()
    examples = shell.examples()
    if len(examples):
        examples.sort("decision_id", "offset").write_ndjson(file)
    return file.getvalue()


def play(shell: Shell, rng: random.Random, *, idles: bool = True) -> None:
    """Poll, idle (if *idles*), commit and crash at random, then finish."""
    for _ in range(25):
        log, chance = rng.choice(shell.rules.logs), rng.random()
        if chance < 0.6:
            shell.poll(log, rng.choice((1, 3, 10)))
        elif chance < 0.65 and idles:
            time = shell.join.stream_time(log)
            shell.advance(log, (seconds(time) if time else 0) + 20)
        else:
            shell.commit(crash_after=rng.choice((0, 1, 2, 3, 3, 3)))
    shell.finish()

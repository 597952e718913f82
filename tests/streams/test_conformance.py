"""The twenty cases of the join, each a bug of a real system, found here by number and name.

All of them over the pure core. What is about delivery, memory or a broker is proved once more where
those are, in the tests of the worker.
"""

import random
import re
from datetime import timedelta
from pathlib import Path

import pytest
from tests.schemas.loops import minimal
from tests.streams.forms import FORMS, Form
from tests.streams.join_logs import (
    LOGS,
    LOOP,
    ORDERS,
    THREE,
    D,
    F,
    Logs,
    as_bytes,
    assert_agrees,
    assert_conserved,
    joined,
    label_of,
    play,
    random_logs,
    rules,
    states,
)

from tidemill.errors import ContractError
from tidemill.schemas.logs import DECISIONS, FEEDBACK, position_of
from tidemill.schemas.loop.definition import Label
from tidemill.schemas.loop.diff import check_successor
from tidemill.streams.join.partition_join import Counts
from tidemill.streams.join.rules import JoinRules

pytestmark = pytest.mark.slow  # each case computes its labels in DuckDB

MINUTE, DAY = 60, 86_400
KINDS = ("click", "buy")
CLICK_AND_BUY = {"click": timedelta(minutes=10), "buy": timedelta(days=7)}
WEEK = rules(
    within=CLICK_AND_BUY,
    early=dict.fromkeys(KINDS, timedelta(0)),
    grace=timedelta(minutes=1),
    remember=timedelta(hours=1),
    bucket=timedelta(minutes=10),
)
"""A click counts for ten minutes and a purchase for a week."""
STREAMS = rules(logs=THREE)
"""Clicks and purchases of two teams, each on a topic of their own."""
AWAY_NONE = dict.fromkeys(LOGS, 0)


@pytest.fixture(params=FORMS, ids=lambda form: form.name)
def form(request: pytest.FixtureRequest) -> Form:
    """Every case holds for loops with actions, and for loops whose decisions bring items."""
    chosen: Form = request.param
    return chosen


def labelled_by(sql: str, kind: str = "float") -> JoinRules:
    """Return the rules with the label *sql* as a loop would compile it."""
    label = Label.model_validate({"sql": sql, "type": kind})
    return JoinRules.of(LOOP.model_copy(update={"label": label}))


def test_each_of_the_twenty_cases_has_a_test_of_its_number() -> None:
    """A case without a test is a promise without a proof."""
    found = re.findall(r"^def test_case_(\d+)_", Path(__file__).read_text(), re.MULTILINE)
    assert {int(number) for number in found} == set(range(1, 21))


def test_case_1_no_no_feedback_for_a_decision_that_was_matched(form: Form) -> None:
    """A decision with feedback must not be counted as one without as well."""
    shell = form.played([D("a", 0), D("b", 0)], [F("x", "a", 1)])
    assert shell.examples()["decision_id"].to_list() == ["a", "b"]
    assert states(shell) == {"a": "labeled", "b": "no_feedback"}


def test_case_2_no_early_no_feedback_for_an_out_of_order_decision_inside_grace(form: Form) -> None:
    """A decision that comes a little late, after its successors, still waits its whole window."""
    shell = form.shell(Logs([D("b", 2), D("a", 0)], [F("y", "b", 5), F("x", "a", 8, "buy")]))
    shell.poll(DECISIONS, 2)
    shell.poll(FEEDBACK, 1)
    shell.commit()
    assert shell.examples().is_empty()
    shell.finish()
    assert states(shell) == {"a": "labeled", "b": "labeled"}


def test_case_3_exactly_one_result_per_decision_at_close(form: Form) -> None:
    """Nothing before close, one row at close, and never a second one."""
    shell = form.shell(Logs([D("a", 0), D("end", 12)], [F("x", "a", 1), F("z", "end", 12)]))
    for log in LOGS:
        shell.poll(log, 1)
        shell.commit()
    assert shell.examples().is_empty()
    for log in LOGS:
        shell.poll(log, 1)
        shell.commit()
    assert joined(shell) == {"a": [0]}
    shell.finish()
    assert joined(shell) == {"a": [0], "end": [1]}


def test_case_4_feedback_read_before_its_decision_joins(form: Form) -> None:
    """Which log is polled first is the network's choice."""
    shell = form.shell(Logs([D("a", 0)], [F("x", "a", 1)]))
    shell.poll(FEEDBACK, 1)
    shell.commit()
    assert shell.join.open_feedback == 1
    shell.poll(DECISIONS, 1)
    shell.finish()
    assert states(shell) == {"a": "labeled"}


def test_case_5_an_idle_log_beside_a_busy_one_closes(form: Form) -> None:
    """A loop without any feedback yet must still produce examples."""
    shell = form.shell(Logs([D("a", 0), D("b", 60)], []))
    shell.poll(DECISIONS, 2)
    shell.commit()
    assert not shell.closed, "nobody has said that no answers are on their way"
    shell.advance(FEEDBACK, 60)
    shell.commit()
    assert states(shell) == {"a": "no_feedback"}
    assert_agrees(shell)


def test_case_5_two_idle_logs_close_by_the_clock(form: Form) -> None:
    """The last window of a quiet topic closes without a next event."""
    shell = form.shell(Logs([D("a", 0)], [F("x", "a", 1)]))
    shell.poll(DECISIONS, 1)
    shell.poll(FEEDBACK, 1)
    shell.commit()
    assert shell.examples().is_empty()
    for log in LOGS:
        shell.advance(log, 12)
    shell.commit()
    assert joined(shell) == {"a": [0]}
    assert (shell.join.open_decisions, shell.join.open_feedback) == (0, 0)


def test_case_5_an_advance_is_remembered_by_a_restart(form: Form) -> None:
    """Records after an idle advance are judged by it, by the next process too."""
    shell = form.shell(
        Logs([D("a", 0), D("b", 9)], [F("x", "a", 1), F("y", "a", 2), F("z", "b", 9)])
    )
    shell.poll(DECISIONS, 1)
    shell.poll(FEEDBACK, 1)
    for log in LOGS:
        shell.advance(log, 30)
    shell.commit()
    shell.start()
    shell.finish()
    assert shell.rows(DECISIONS)["verdict"].to_list() == [None, "late"]
    assert shell.rows(FEEDBACK)["verdict"].to_list() == [None, "late", "late"]
    assert_agrees(shell)


def test_case_6_catching_up_after_an_outage_skips_no_join(form: Form) -> None:
    """Hours of records in one poll join as they would have one by one."""
    decisions = [D(f"d{hour}", hour * 3600) for hour in range(50)]
    feedback = [F(f"f{hour}", f"d{hour}", hour * 3600 + 3) for hour in range(50)]
    slowly, at_once = form.shell(Logs(decisions, feedback)), form.played(decisions, feedback)
    for _ in range(50):
        slowly.poll(DECISIONS, 1)
        slowly.poll(FEEDBACK, 1)
        slowly.commit()
    slowly.finish()
    assert joined(slowly) == joined(at_once) == {f"d{hour}": [hour] for hour in range(50)}


def test_case_7_state_is_empty_after_close_with_no_new_input(form: Form) -> None:
    """Closed rows are in the lake; if they stayed in memory, that would be a leak."""
    shell = form.shell(Logs([D("a", 0), D("b", 1)], [F("x", "a", 1), F("y", "nobody", 1)]))
    for log in LOGS:
        shell.poll(log, 10)
        shell.advance(log, 100)
    shell.commit()
    assert (shell.join.open_decisions, shell.join.open_feedback) == (0, 0)


def test_case_8_windows_of_days_have_only_open_rows_in_memory(form: Form) -> None:
    """A month of traffic must not cost more memory than the week that is open."""
    month = [D(f"d{hour}", hour * 3600) for hour in range(30 * 24)]
    answers = [F(f"f{hour}", d.id, d.at + 3600, "buy") for hour, d in enumerate(month)]
    shell = form.shell(Logs(month, answers), WEEK)
    most = 0
    for _ in range(30):
        for log in LOGS:
            shell.poll(log, 24)
        shell.commit()
        most = max(most, shell.join.open_decisions)
    assert 7 * 24 <= most <= 8 * 24 + 1, "a week, and the day that came in one poll"
    shell.finish()
    assert states(shell) == dict.fromkeys((d.id for d in month), "labeled")


def test_case_7_state_is_empty_after_close_also_of_spilled_rows(form: Form) -> None:
    """Spilled rows have to be removed as well."""
    logs = random_logs(random.Random(5), 200)
    shell = form.tight(logs)
    play(shell, random.Random(5))
    state = shell.join.state
    assert shell.most_spilled > 10
    assert (shell.join.open_decisions, shell.join.open_feedback) == (0, 0)
    assert (state.decisions.segments, state.feedback.segments, dict(state.spilled)) == (
        0,
        0,
        AWAY_NONE,
    )
    assert [piece.nbytes for piece in state.spillables] == [0, 0, 0, 0]


@pytest.mark.slow
def test_case_8_windows_of_days_under_load_stay_inside_the_memory_budget(form: Form) -> None:
    """A week of open decisions exceeds the budget; memory does not, and no example differs."""
    month = [D(f"d{number}", number * 300) for number in range(30 * DAY // 300)]
    answers = [F(f"f{d.id}", d.id, d.at + 3600, "buy") for d in month]
    ample, tight = (
        form.tight(
            Logs(month, answers), WEEK, nbytes=nbytes, portion=300, segment_rows=32, spill_rows=32
        )
        for nbytes in (10**9, 60_000)
    )
    for shell in (ample, tight):
        for _ in range(30):
            for log in LOGS:
                shell.poll(log, DAY // 300)
            shell.commit()
        shell.finish()
    assert ample.most_bytes > 10 * 60_000, "the budget is far less than what is open"
    assert tight.most_bytes <= 60_000
    assert tight.most_spilled > 2_000
    assert as_bytes(ample) == as_bytes(tight)
    assert joined(tight) == {d.id: [number] for number, d in enumerate(month)}


def test_case_9_pressure_without_evictable_rows_drops_nothing_either(
    form: Form,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Uncommitted rows cannot be spilled. They stay, over budget, and a warning is logged."""
    burst = [D(f"d{number}", 0) for number in range(300)]
    shell = form.tight(Logs(burst, [F("x", "d7", 1)]))
    for log in LOGS:
        shell.poll(log, 300)
    assert shell.join.state.spilled["decisions"] == 0
    assert "nothing is dropped" in caplog.text
    assert_conserved(shell)
    shell.finish()
    assert_agrees(shell)
    assert len(shell.examples()) == 300


def test_case_9_pressure_never_drops_silently(form: Form) -> None:
    """However much waits at once, every record of it is open or has ended."""
    burst = [D(f"d{number}", 0) for number in range(30_000)]
    answers = [F(f"f{number}", d.id, 1) for number, d in enumerate(burst)]
    shell = form.shell(Logs(burst, answers))
    for log in LOGS:
        shell.poll(log, 30_000)
    assert (shell.join.open_decisions, shell.join.open_feedback) == (30_000, 30_000)
    assert_conserved(shell)
    shell.finish()
    assert shell.examples()["state"].value_counts().rows() == [("labeled", 30_000)]


@pytest.mark.parametrize("step", [0, 1, 2])
def test_case_10_a_crash_between_poll_and_write_loses_nothing(form: Form, step: int) -> None:
    """Whatever was not committed is read again; whatever was, is not."""
    shell = form.shell(Logs([D("a", 0), D("b", 20)], [F("x", "a", 1), F("y", "b", 20)]))
    shell.poll(DECISIONS, 2)
    shell.poll(FEEDBACK, 2)
    shell.commit(crash_after=step)
    shell.finish()
    assert joined(shell) == {"a": [0], "b": [1]}
    assert_agrees(shell)


def test_case_11_the_first_start_reads_from_the_beginning(form: Form) -> None:
    """Records that were there before the worker are decisions too."""
    shell = form.shell(Logs([D("old", -500_000), D("new", 0)], []))
    assert shell.offsets == {"decisions": 0, "feedback": 0}
    shell.finish()
    assert set(states(shell)) == {"old", "new"}


def test_case_12_a_rebalance_inside_a_window_leaves_no_gap_and_no_double(form: Form) -> None:
    """A partition that moves to another worker continues from the offsets of the lake."""
    shell = form.shell(Logs([D("a", 0), D("a", 0), D("b", 4)], [F("x", "a", 1), F("x", "a", 1)]))
    for _ in range(3):
        shell.poll(DECISIONS, 1)
        shell.poll(FEEDBACK, 1)
        shell.commit()
        shell.start()
    shell.finish()
    assert joined(shell) == {"a": [0], "b": []}
    assert shell.rows(DECISIONS)["verdict"].to_list() == [None, "duplicate", None]
    assert shell.closed[-1].counts == Counts(duplicate=1)


def test_case_13_late_feedback_is_counted(form: Form) -> None:
    """An operator must be able to see that a window is too short."""
    shell = form.played([D("a", 0), D("b", 4)], [F("w", "b", 12), F("x", "a", 2), F("y", "a", 9)])
    assert shell.closed[-1].counts == Counts(late=3)
    assert states(shell) == {"a": "no_feedback", "b": "no_feedback"}


def test_case_14_the_largest_of_negative_values_is_negative(form: Form) -> None:
    """Feedback of minus two is not the same as no feedback."""
    shell = form.shell(
        Logs([D("a", 0)], [F("x", "a", 1, value=-2.0)]), rules(label=label_of("max(weight)"))
    )
    shell.finish()
    assert shell.examples()["label"].to_list() == [-2.0]


def test_case_13_late_feedback_corrects_where_the_loop_wants_it(form: Form) -> None:
    """An example without feedback gets its click, in a row of its own beside the first."""
    decisions, feedback = [D("a", 0)], [F("w", "z", 15), F("x", "a", 2)]
    shell = form.played(decisions, feedback, rules(corrections=timedelta(seconds=20)))
    written = shell.revisions().select("revision", "state", "feedback_offsets").rows()
    assert written == [(0, "no_feedback", []), (1, "labeled", [1])]
    assert shell.closed[-1].counts == Counts(unmatched=1)


@pytest.mark.parametrize(
    ("sql", "label"),
    [
        ("max(weight)", -1.0),
        ("min(weight)", -5.0),
        ("first(weight)", -2.0),
        ("last(weight) filter (where kind = 'click')", -5.0),
        ("sum(weight)", -8.0),
        ("count(weight)", 3.0),
        ("max(case when weight < -4 then 1 else 0 end)", 1.0),
        ("min(epoch(at) - epoch(decision_at))", 1.0),
        ("sum(amount) filter (where kind = 'buy')", -7.0),
    ],
)
def test_case_14_labels_over_several_feedback_of_negative_values(
    form: Form, sql: str, label: float
) -> None:
    """Nothing starts at zero: not the largest, not the sum, not the first."""
    feedback = [F("w", "a", 3, value=-5.0), F("x", "a", 1, value=-2.0), F("y", "a", 2, value=-1.0)]
    shell = form.shell(
        Logs([D("a", 0)], [*feedback, F("z", "a", 8, "buy", -7.0)]), labelled_by(sql)
    )
    shell.finish()
    assert shell.examples()["label"].to_list() == [label]


@pytest.mark.parametrize(("sql", "label"), [("bool_or(weight > 0)", 0.0), ("count(*) > 2", 1.0)])
def test_case_14_any_and_how_many_are_bools(form: Form, sql: str, label: float) -> None:
    """`any` of several feedback is `bool_or`."""
    feedback = [F(f"f{at}", "a", at, value=-1.0) for at in range(3)]
    shell = form.shell(Logs([D("a", 0)], feedback), labelled_by(sql, "bool"))
    shell.finish()
    assert shell.examples()["label"].to_list() == [label]


def test_case_15_duplicates_change_nothing(form: Form) -> None:
    """Producers and brokers deliver again; a copy is not a second decision or click."""
    decisions, feedback = [D("a", 0), D("b", 1)], [F("x", "a", 1), F("y", "b", 2, value=3.0)]
    once, twice = form.played(decisions, feedback), form.played(decisions * 2, feedback * 2)
    assert once.examples().equals(twice.examples())
    assert twice.rows(DECISIONS)["verdict"].to_list() == [None, None, "duplicate", "duplicate"]
    assert twice.closed[-1].counts == Counts(duplicate=2)


@pytest.mark.parametrize(
    ("kind", "at", "is_inside"),
    [
        ("click", -3, False),
        ("click", -2, True),
        ("click", 3, True),
        ("click", 4, False),
        ("buy", -1, False),
        ("buy", 0, True),
        ("buy", 8, True),
        ("buy", 9, False),
    ],
)
def test_case_16_both_ends_of_a_window_are_inside(
    form: Form, kind: str, at: int, is_inside: bool
) -> None:
    """`within: 3s` means that three seconds still count, to the microsecond."""
    shell = form.played([D("a", 0)], [F("x", "a", at, kind)])
    assert joined(shell) == {"a": [0] if is_inside else []}


@pytest.mark.parametrize(("ahead", "verdict"), [(2, None), (3, "late")])
def test_case_17_a_decision_is_on_time_up_to_its_grace(
    form: Form, ahead: int, verdict: str | None
) -> None:
    """A producer whose clock is behind is late by exactly more than the grace."""
    shell = form.played([D("first", ahead), D("behind", 0)], [])
    assert shell.rows(DECISIONS)["verdict"].to_list() == [None, verdict]


@pytest.mark.parametrize(("reached", "is_joined"), [(10, True), (11, False)])
def test_case_17_feedback_is_on_time_up_to_the_close(
    form: Form, reached: int, is_joined: bool
) -> None:
    """Feedback counts while its own log has not passed 0 + 8 s wait + 2 s grace."""
    shell = form.played([D("a", 0), D("z", 20)], [F("w", "z", reached), F("x", "a", 1)])
    assert joined(shell)["a"] == ([1] if is_joined else [])


def test_case_17_a_clock_ahead_makes_others_late_but_breaks_nothing(form: Form) -> None:
    """One service in the future costs the others, visibly, and not silently."""
    shell = form.played([D("a", 0), D("future", 3600), D("b", 1)], [F("x", "b", 1), F("y", "a", 1)])
    assert shell.rows(DECISIONS)["verdict"].to_list() == [None, None, "late"]
    assert joined(shell) == {"a": [1], "future": []}


def test_case_18_another_number_of_partitions_is_refused() -> None:
    """Keys are bound to a number of partitions; a join across two of them would miss silently."""
    with pytest.raises(ContractError, match="keys are bound") as caught:
        check_successor({1: minimal(partitions=4)}, minimal(version=2, partitions=8))
    assert "partitions: 4" in caught.value.hint


def test_case_18_feedback_under_another_key_is_counted(form: Form) -> None:
    """Feedback that lands in another partition than its decision must show, as unmatched."""
    here, there = form.played([D("a", 0)], []), form.played([], [F("x", "a", 1)])
    assert states(here) == {"a": "no_feedback"}
    assert there.closed[-1].counts == Counts(unmatched=1)


def test_case_19_two_kinds_with_windows_of_their_own_in_one_join(form: Form) -> None:
    """A click counts for 3 s and a purchase for 8 s of the same decision."""
    shell = form.played(
        [D("a", 0)], [F("x", "a", 6, "buy"), F("y", "a", 6, "click"), F("z", "a", 3)]
    )
    assert joined(shell) == {"a": [2, 0]}
    assert shell.closed[-1].counts == Counts(late=1)


@pytest.mark.parametrize(
    ("kind", "at", "is_joined"),
    [
        ("click", 10 * MINUTE, True),
        ("click", 10 * MINUTE + 1, False),
        ("buy", 7 * DAY, True),
        ("buy", 7 * DAY + 1, False),
    ],
)
def test_case_19_a_click_has_ten_minutes_and_a_purchase_a_week(
    form: Form, kind: str, at: int, is_joined: bool
) -> None:
    """The short window of one kind must not cut off the other, nor the long one lend itself."""
    shell = form.played([D("a", 0), D("b", 9 * DAY)], [F("x", "a", at, kind)], WEEK)
    assert joined(shell)["a"] == ([0] if is_joined else [])


@pytest.mark.parametrize("seed", range(12))
def test_case_20_any_batches_interleavings_and_crashes_give_the_same_rows(
    form: Form, seed: int
) -> None:
    """The result is a function of the logs; the network and the operator have no part in it."""
    rng = random.Random(seed)
    logs = random_logs(rng, 60)
    at_once = form.shell(logs)
    at_once.finish()
    for _ in range(4):
        shell = form.shell(logs)
        play(shell, rng, idles=False)
        assert as_bytes(shell) == as_bytes(at_once)
        assert_agrees(shell)


@pytest.mark.parametrize("seed", range(12))
def test_case_20_shuffled_delivery_inside_grace_gives_the_same_examples(
    form: Form, seed: int
) -> None:
    """Events that come in another order, none of them late, mean the same."""
    rng = random.Random(seed)
    decisions = [D(f"d{number}", rng.randint(0, 40)) for number in range(30)]
    answers = [
        F(f"f{number}", d.id, d.at + rng.choice((-2, 0, 1, 3, 5, 8, 9)), rng.choice(KINDS))
        for number, d in enumerate(rng.choices(decisions, k=40))
    ]
    found = []
    for _ in range(3):
        decisions.sort(key=lambda d: d.at + rng.uniform(0, 2))
        answers.sort(key=lambda f: f.at + rng.uniform(0, 2))
        examples = form.played(decisions, answers).examples().sort("decision_id")
        found.append(examples.select("decision_id", "state", "first_feedback_at").rows())
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("seed", range(4))
def test_three_streams_in_one_join_whichever_is_read_first(form: Form, seed: int) -> None:
    """Three topics come from three teams and three brokers; the rows are those of the logs."""
    rng = random.Random(seed)
    logs = random_logs(rng, 60, streams=True)
    chosen = STREAMS if seed % 2 else rules(logs=THREE, corrections=timedelta(seconds=20))
    orders = [THREE, THREE[::-1], (ORDERS, DECISIONS, FEEDBACK)]
    found = []
    for order in orders:
        shell = form.shell(logs, chosen)
        for log in order:
            shell.poll(log, 10**9)
        shell.finish()
        found.append((as_bytes(shell), shell.closed[-1].counts))
    for shell in (form.shell(logs, chosen), form.tight(logs, chosen)):
        play(shell, rng, idles=False)
        assert_agrees(shell)
        assert_conserved(shell)
        found.append((as_bytes(shell), shell.closed[-1].counts))
    assert found == [found[0]] * 5


def test_three_streams_in_one_join_wait_for_the_slowest(form: Form) -> None:
    """Two of three logs are past the close: a purchase on time may still be on its way."""
    shell = form.shell(
        Logs([D("a", 0), D("z", 60)], [F("x", "z", 60)], [F("y", "a", 8, "buy")]), STREAMS
    )
    shell.poll(DECISIONS, 2)
    shell.poll(FEEDBACK, 1)
    shell.commit()
    assert not shell.closed
    shell.poll(ORDERS, 1)
    shell.commit()
    assert shell.examples().is_empty(), "its stream time is 8, and the close of a is at 10"
    shell.advance(ORDERS, 60)
    shell.commit()
    assert states(shell) == {"a": "labeled"}
    assert_agrees(shell)


def test_three_streams_in_one_join_judge_lateness_by_their_own_logs(form: Form) -> None:
    """A quick stream must not make the records of a slow one late."""
    clicks = [F("x", "a", 1), F("w", "z", 60)]
    shell = form.played([D("a", 0), D("z", 60)], clicks, STREAMS, orders=[F("y", "a", 8, "buy")])
    assert joined(shell)["a"] == [0, position_of(ORDERS, 0)]


def test_three_streams_in_one_join_have_ids_of_their_own(form: Form) -> None:
    """Two services that count their events from 1 do not make copies of each other's."""
    copies = [F("1", "a", 1), F("1", "a", 1)]
    shell = form.played([D("a", 0)], copies, STREAMS, orders=[F("1", "a", 8, "buy"), *copies])
    assert joined(shell)["a"] == [0, position_of(ORDERS, 0)]
    assert shell.closed[-1].counts == Counts(duplicate=3)

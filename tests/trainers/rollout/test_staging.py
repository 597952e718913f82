"""A candidate goes through its stages once it has its rows, and is stopped by its guardrails."""

from functools import partial

import numpy as np
import polars as pl
import pytest
from tests.trainers.rollout.rig import STAGED, Rig, newest, offer, version

from tidemill.features.lake.lake import Lake
from tidemill.schemas.models.manifest import CANARY, DEFAULT, LIVE
from tidemill.trainers.publisher import MemoryModelTopic
from tidemill.trainers.registry import Registry
from tidemill.trainers.rollout.by_hand import ByHand
from tidemill.trainers.rollout.evidence import StageRewards
from tidemill.trainers.rollout.guardrails import compared, reward_problem


def clicks(count: int, rate: float, seed: int = 1) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """Return which of *count* decisions were clicked."""
    return np.random.default_rng(seed).random(count) < rate


CANARY_ONLY: dict[str, object] = STAGED | {"stages": ["canary", "live"]}


@pytest.fixture
def rig(lake: Lake) -> Rig:
    """A loop whose first model is in its first stage, the canary."""
    rig = Rig(lake, offer(rollout=CANARY_ONLY))
    rig.made()
    rig.settle()
    assert stage(rig) == "canary"
    return rig


def stage(rig: Rig) -> str | None:
    """Return where the candidate is; None if there is none."""
    found = Registry(rig.lake, "offer").stages.standing.candidate
    return found.stage if found else None


def fill(rig: Rig, own: float, live: float, *, rows: int = 400, fallbacks: int = 0) -> None:
    """Let canary and live decide, each with a rate of clicks."""
    number = rig.registry.stages.standing.newest_model
    rig.decide("canary", clicks(rows, own), model=version(number), fallbacks=fallbacks)
    rig.decide("live", clicks(4 * rows, live, 2), model=None, first=0)


def test_a_candidate_goes_from_shadow_to_canary_to_live(lake: Lake) -> None:
    """Each time on the rows that the loop file asks for, and each time with a record."""
    rig = Rig(lake, offer(rollout=STAGED))
    rig.made(payload=b"tree")
    rig.settle()
    assert (stage(rig), rig.live) == ("shadow", None)
    rig.decide("live", clicks(19, 0.5), model=None)
    rig.look()
    assert stage(rig) == "shadow", "19 decisions of 20"
    rig.decide("live", clicks(1, 0.5), model=None, first=19)
    rig.look()
    assert stage(rig) == "canary"
    rig.decide("canary", clicks(400, 0.8), model=version(1), first=1_000)
    rig.decide("live", clicks(1_600, 0.5), model=None, first=1_000)
    rig.look()
    assert (stage(rig), rig.live) == (None, version(1))
    changes = Registry(lake, "offer").stages.standing.changes
    assert [each.stage for each in changes] == ["shadow", "canary", "live"]
    assert "400 decisions in canary" in changes[2].why
    assert changes[2].metrics["reward"] > changes[2].metrics["live_reward"]
    assert changes[2].metrics["fallbacks"] == 0.0
    canary = rig.slot(CANARY)
    assert canary is not None
    assert canary.learner == DEFAULT


def test_a_canary_that_earns_less_is_stopped_before_its_rows_are_full(rig: Rig) -> None:
    """Visitors do not pay for the whole stage."""
    fill(rig, 0.2, 0.8, rows=200)
    rig.look()
    [_, stopped] = Registry(rig.lake, "offer").stages.standing.changes
    assert stopped.stage == "stopped"
    assert "beside the live model" in stopped.why
    assert stopped.metrics["gain_high"] < 0.0
    canary = rig.slot(CANARY)
    assert canary is not None
    assert canary.learner == DEFAULT


def test_a_canary_that_may_be_as_good_is_not_stopped(rig: Rig) -> None:
    """The guardrail asks for more than chance explains."""
    fill(rig, 0.5, 0.5, rows=200)
    rig.look()
    assert stage(rig) == "canary"


def test_a_reward_below_another_guardrail_stops_it(lake: Lake) -> None:
    """A loop may ask for a gain, or allow a loss."""
    allowed = CANARY_ONLY | {"guardrails": {"reward": -2.0}}
    rig = Rig(lake, offer(rollout=allowed))
    rig.made()
    rig.settle()
    fill(rig, 0.2, 0.8)
    rig.look()
    assert rig.live == version(1)


def test_a_canary_that_fails_too_often_is_stopped(rig: Rig) -> None:
    """A model that is too slow leaves its decisions to the default, and looks no worse for it."""
    fill(rig, 0.5, 0.5, rows=200, fallbacks=20)
    rig.look()
    stopped = Registry(rig.lake, "offer").stages.standing.changes[-1]
    assert stopped.stage == "stopped"
    assert "10.0% of 200 decisions" in stopped.why
    assert stopped.metrics["fallbacks"] == 0.1


def test_one_failure_at_the_beginning_stops_nothing(rig: Rig) -> None:
    """One of fifty is two percent, and no reason."""
    fill(rig, 0.5, 0.5, rows=50, fallbacks=1)
    rig.look()
    assert stage(rig) == "canary"


@pytest.mark.slow
def test_a_candidate_that_is_as_good_is_seldom_stopped_however_often_one_looks(rig: Rig) -> None:
    """The guardrail errs with the chance of the gate in all looks together."""
    stopped = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        count = 1_600
        rows = pl.DataFrame(
            {
                "at": np.arange(count),
                "unit": np.arange(count).astype(str),
                "stage": np.where(random.random(count) < 0.5, "canary", "live"),
                "reward": (random.random(count) < 0.5).astype(float),
            }
        )
        for until in range(50, count, 50):
            found = compared(
                rig.loop,
                StageRewards(rows.head(until)),
                pl.col("stage") == "canary",
                pl.col("stage") == "live",
            )
            if reward_problem(rig.loop, found, "a", "b"):
                stopped += 1
                break
    assert stopped <= 10


def test_a_newer_candidate_replaces_one_in_shadow_and_waits_behind_a_canary(lake: Lake) -> None:
    """A canary that each new model ended would never be complete."""
    rig = Rig(lake, offer(rollout=STAGED))
    rig.made()
    rig.settle()
    rig.made()
    rig.settle()
    candidate = rig.registry.stages.standing.candidate
    assert candidate is not None
    assert (candidate.stage, candidate.model) == ("shadow", 2)
    rig.decide("live", clicks(20, 0.5), model=None)
    rig.look()
    rig.made()
    rig.look()
    candidate = rig.registry.stages.standing.candidate
    assert candidate is not None
    assert (candidate.stage, candidate.model) == ("canary", 2)
    rig.decide("canary", clicks(200, 0.1), model=version(2), first=1_000)
    rig.decide("live", clicks(800, 0.9), model=None, first=1_000)
    rig.look()
    candidate = rig.registry.stages.standing.candidate
    assert candidate is not None
    assert (candidate.stage, candidate.model) == ("shadow", 3), "the next one, once it is stopped"


def test_a_candidate_stays_in_the_last_stage_that_is_not_live(lake: Lake) -> None:
    """Only a person promotes it then."""
    rig = Rig(lake, offer(rollout=STAGED | {"stages": ["canary"]}))
    rig.made()
    rig.settle()
    fill(rig, 0.9, 0.5)
    rig.look()
    assert (stage(rig), rig.live) == ("canary", None)
    rig.person().does(lambda hand: hand.promote(version(1), "it is good"))
    rig.look()
    assert (stage(rig), rig.live) == (None, version(1))


def test_a_restarted_trainer_goes_on_with_the_stages(rig: Rig) -> None:
    """All that it knows is in the lake."""
    fill(rig, 0.8, 0.5, rows=200)
    rig.look()
    rig.start()
    rig.settle()
    assert stage(rig) == "canary"
    rig.decide("canary", clicks(200, 0.8), model=version(1), first=400)
    rig.decide("live", clicks(800, 0.5), model=None, first=1_600)
    rig.look()
    assert rig.live == version(1)


def test_a_stage_that_the_loop_file_has_no_more_ends(rig: Rig) -> None:
    """Without a rollout nobody would ever move the canary on."""
    rig.loop = rig.loop.model_copy(update={"rollout": None})
    rig.start()
    rig.look()
    assert stage(rig) is None
    assert "no stage canary" in rig.registry.stages.standing.changes[-1].why


def test_a_pinned_canary_is_warned_about_and_stays(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """A person has decided; the log says what the guardrails would do."""
    rig.person().does(lambda hand: hand.pin(None, "a campaign"))
    fill(rig, 0.2, 0.8)
    rig.look()
    rig.look()
    assert stage(rig) == "canary"
    assert caplog.text.count("is pinned, so nothing changes") == 1


def test_a_live_model_that_earns_less_than_the_control_is_found(lake: Lake) -> None:
    """The control is there to answer whether the loop helps."""
    rig = Rig(lake, offer(rollout=CANARY_ONLY | {"control": 0.1}))
    rig.made()
    rig.settle()
    rig.person().does(lambda hand: hand.promote(version(1), "at once"))
    rig.decide("live", clicks(400, 0.3), model=version(1))
    rig.decide("control", clicks(400, 0.7, 2), model=None)
    problem = rig.staging.advance(force=True)
    assert problem is not None
    assert "beside the control" in problem.problem
    assert problem.metrics["control_reward"] > problem.metrics["reward"]


def test_the_last_good_model_decides_again_and_none_that_was_taken_back(lake: Lake) -> None:
    """A model that has failed is no way out of another one's failure."""
    rig = Rig(lake, offer(rollout=CANARY_ONLY))
    for number in (1, 2, 3):
        rig.made()
        rig.person().does(partial(ByHand.promote, version=version(number), why="good"))
        rig.settle()
    assert rig.staging.fall_back("it is worse", {})
    rig.settle()
    assert rig.live == version(2)
    assert rig.staging.fall_back("it is worse, too", {})
    assert rig.staging.fall_back("all are", {}) is False
    rig.settle()
    assert rig.live == version(1)
    assert isinstance(rig.topic, MemoryModelTopic)
    followed = newest(rig.topic.log, LIVE)
    assert followed is not None
    assert (followed.version, followed.rollback) == (version(1), True)

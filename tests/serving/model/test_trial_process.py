"""One child tries many models, and a model that is broken is refused alone."""

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.serving.model.test_model_text import HOSTILE
from tests.serving.models import SIGNATURE, booster, text

from tidemill.errors import ModelError
from tidemill.serving.model.admission import probe_rows
from tidemill.serving.model.trial_process import TrialLimits, TrialProcess

pytestmark = pytest.mark.slow  # models are tried in a process of its own

HERE = Path(__file__).parent
UNCHECKED = [sys.executable, str(HERE / "unchecked_trial.py")]
UNRULY = [sys.executable, str(HERE / "unruly_trial.py")]
GOOD = text().encode()
ROWS = probe_rows(SIGNATURE)
SHORT = TrialLimits(time_s=2.0)


def scores(payload: bytes, trials: TrialProcess) -> list[float]:
    """Return how *payload* scores the probes in its trial."""
    return trials.run(payload, ROWS)[0]


def expected() -> list[float]:
    """Return how the library scores the probes."""
    return [float(score) for score in booster().predict(ROWS, num_threads=1)]


@pytest.fixture(scope="module")
def unruly() -> Iterator[TrialProcess]:
    """One child for the models of all tests of this module."""
    with TrialProcess(SHORT, command=UNRULY) as trials:
        yield trials


@pytest.mark.parametrize(
    ("payload", "how"),
    [
        (b"crash now", "ended with status -11"),
        (b"hang on", r"hung for 2 s"),
        (b"chatter on", r"hung for 2 s|ended with status"),
        (b"grow up", "out of memory"),
        (b"raise it", "ended with status 1: RuntimeError: a mistake of the library"),
        (HOSTILE["a child out of range"]().encode(), "not a model that can be trusted"),
        (b"", "not a model that can be trusted"),
    ],
)
def test_a_broken_model_among_good_ones_is_refused_alone(
    payload: bytes, how: str, unruly: TrialProcess
) -> None:
    """A thousand loops share the child: the model of one must not cost another one its own."""
    assert scores(GOOD, unruly) == expected()
    child = unruly.pid
    with pytest.raises(ModelError, match=how):
        unruly.run(payload, ROWS)
    assert scores(GOOD, unruly) == expected()
    assert unruly.pid == child is not None


def test_a_child_that_was_killed_is_replaced(unruly: TrialProcess) -> None:
    """The kernel may choose it when memory is short; the models that follow need not suffer."""
    scores(GOOD, unruly)
    child = psutil.Process(unruly.pid)
    child.kill()
    psutil.wait_procs([child], timeout=0)
    assert scores(GOOD, unruly) == expected()


def test_a_child_without_work_ends() -> None:
    """It takes 30 MB, and a worker whose models have all arrived needs none."""
    trials = TrialProcess(TrialLimits(idle_s=0.1))
    scores(GOOD, trials)
    psutil.wait_procs([psutil.Process(trials.pid)])
    assert scores(GOOD, trials) == expected()
    trials.close()
    assert trials.pid is None


@pytest.mark.parametrize("case", ["a node that is its own child", "a feature out of range"])
def test_without_the_structure_check_the_child_still_protects_the_worker(case: str) -> None:
    """There are two guards, and each protects the worker by itself."""
    with TrialProcess(SHORT, command=UNCHECKED) as trials:
        try:
            found, trees = trials.run(HOSTILE[case]().encode(), ROWS)
        except ModelError:
            return
    # An index past the row may read harmless memory; the worker compares the scores again.
    assert len(found) == len(ROWS)
    assert not trees  # what was not checked is not packed


def test_a_model_that_takes_too_much_memory_is_refused() -> None:
    """The worker would be the next to run out of it."""
    with (
        TrialProcess(TrialLimits(memory_bytes=2**18)) as trials,
        pytest.raises(ModelError, match=r"ended with status|out of memory"),
    ):
        trials.run(text(200).encode(), ROWS)


def test_a_model_that_is_too_slow_is_refused() -> None:
    """Decisions would all end over budget."""
    with (
        TrialProcess(TrialLimits(score_ms=1e-6)) as trials,
        pytest.raises(ModelError, match="a prediction takes"),
    ):
        trials.run(GOOD, ROWS)


def test_a_child_that_cannot_start_is_told(tmp_path: Path) -> None:
    """A broken installation must not look like a broken model."""
    with pytest.raises(ModelError, match="could not start"):
        TrialProcess(command=[str(tmp_path / "nothing")]).run(GOOD, ROWS)

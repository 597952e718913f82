"""The codec of River's objects: what is not in its table is refused, and nothing is executed."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift, tree

from tidemill.errors import ModelError
from tidemill.trainers.learners import river_objects
from tidemill.trainers.learners.river_objects import MAX_STATE_BYTES, dump, load
from tidemill.trainers.learners.river_trees import AdaptiveTreeClassifier, ClassSplitter


def fresh() -> AdaptiveTreeClassifier:
    """An adaptive tree that splits early."""
    return AdaptiveTreeClassifier(
        grace_period=10, delta=0.3, leaf_prediction="mc", splitter=ClassSplitter(), seed=1
    )


def grown(rows: int = 200) -> AdaptiveTreeClassifier:
    """The same tree after *rows* rows, with splits by a number and by a category."""
    model = fresh()
    for number in range(rows):
        model.learn_one({"x": float(number % 7), "c": number % 3}, number % 7 > 3)
    return model


STATE = dump({"model": grown()})


def test_a_state_read_and_written_again_is_the_same() -> None:
    """One way to write each state, so two states can be compared by their bytes."""
    model = fresh()
    load(STATE, {"model": model})
    assert dump({"model": model}) == STATE
    assert model.n_nodes > 1


def test_an_attribute_that_river_adds_is_refused() -> None:
    """An update of River must not lose a part of the state in silence."""
    model = grown()
    next(iter(model._root.iter_leaves())).novelty = 1.0
    with pytest.raises(ModelError, match="novelty"):
        dump({"model": model})


def test_a_class_that_is_not_in_the_table_is_refused() -> None:
    """Neither written nor made: a state names classes of the table only."""
    model = grown()
    next(iter(model._root.iter_leaves())).drift_detector = drift.KSWIN(seed=1)
    with pytest.raises(ModelError, match="KSWIN"):
        dump({"model": model})
    roots, objects = msgspec.msgpack.decode(STATE)
    objects[1][0] = "Popen"
    with pytest.raises(ModelError, match="Popen"):
        load(msgspec.msgpack.encode([roots, objects]), {"model": fresh()})


def test_a_state_of_another_model_is_refused() -> None:
    """A classifier's statistics in a regressor would fail at the next row."""
    with pytest.raises(ModelError, match="another model"):
        load(STATE, {"model": tree.HoeffdingTreeRegressor(leaf_prediction="mean")})


@settings(deadline=None)
@given(cut=st.integers(0, len(STATE) - 1))
def test_a_cut_state_is_refused(cut: int) -> None:
    """Half a state would go on learning something else."""
    with pytest.raises(ModelError, match="cannot be read"):
        load(STATE[:cut], {"model": fresh()})


def test_a_cut_detector_is_refused() -> None:
    """The window of a detector is bytes of River itself, which checks them."""
    roots, objects = msgspec.msgpack.decode(STATE)
    windows = [one for one in objects if one[0] == "ADWIN"]
    windows[0][-1][1] = windows[0][-1][1][:9]
    with pytest.raises(ModelError, match="cannot be read"):
        load(msgspec.msgpack.encode([roots, objects]), {"model": fresh()})


def test_a_state_over_its_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A learner without a limit would fill the lake, version by version."""
    with pytest.raises(ModelError, match="over"):
        load(bytes(MAX_STATE_BYTES + 1), {"model": fresh()})
    monkeypatch.setattr(river_objects, "MAX_STATE_BYTES", 1_000)
    with pytest.raises(ModelError, match="over 1,000"):
        dump({"model": grown()})


def test_equally_good_categories_split_in_one_order() -> None:
    """Of two mirrored splits the first wins: it must be the same one in each process."""
    high, low = (ClassSplitter(), ClassSplitter())
    for values, splitter in (((1_031, 7), high), ((7, 1_031), low)):
        for value in values:
            splitter.update(value, value == 7, 1.0)
    from river.tree.split_criterion import InfoGainSplitCriterion

    found = [
        one.best_evaluated_split_suggestion(
            InfoGainSplitCriterion(0.01), {False: 1.0, True: 1.0}, "c", True
        )
        for one in (high, low)
    ]
    assert [one.split_info for one in found] == [7, 7]

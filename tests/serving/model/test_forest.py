"""`trees.c` takes the same path through each tree as LightGBM."""

import importlib.machinery
import importlib.util
import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serving.model.test_model_text import assembled, line, without_a_split
from tests.serving.models import COUNTRIES, SIGNATURE, booster, rows, text

import tidemill.serving.model.forest as module
from tidemill.errors import ModelError
from tidemill.serving.model.forest import Forest, is_built, pack
from tidemill.serving.model.model_text import Splits, TextTree, TreeModel, read_text
from tidemill.serving.model.predictor import LightGbmModel, doubles

WIDTH = len(SIGNATURE.columns)
HEAD = struct.Struct("=6I")
NODE = struct.Struct("=dII")
ZERO = float(np.float32(1e-35))  # up to here a number is zero for LightGBM
ODD = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-35, -1e-35, 1e-300, -0.5, -1.0, 3.7]
ODD += [ZERO, -ZERO, math.nextafter(ZERO, 1.0), math.nextafter(-ZERO, -1.0)]
ODD += [31.0, 32.0, 39.0, 40.0, 64.0, 1e9, 2.0**31, 2.0**32, 2.0**63, 1e300, -1e300]
"""Values at which comparisons, integer casts or tests for missing values may go wrong."""


def trained(**chosen: object) -> lgb.Booster:
    """Return a model of positive labels, with sets of many categories and missing values."""
    data = rows(2_000)
    data[np.random.default_rng(1).random(data.shape) < 0.2] = 0.0
    known = np.nan_to_num(data)
    label = np.abs(known[:, 1] + known[:, 2] * (known[:, 0] % 3)) + 0.5 * (known[:, 4] > 0) + 0.01
    wanted: dict[str, object] = {
        "num_leaves": 15,
        "verbose": -1,
        "num_threads": 1,
        "max_cat_to_onehot": 1,
    }
    wanted |= {"min_data_per_group": 5, "deterministic": True, **chosen}
    if chosen["objective"] in ("binary", "cross_entropy"):
        label = (label > 1.0).astype(float)
    return lgb.train(
        wanted, lgb.Dataset(data, label, categorical_feature=SIGNATURE.categorical), 10
    )


def forest(model: lgb.Booster) -> Forest:
    """Return *model* as a worker serves it."""
    return Forest(pack(read_text(model.model_to_string(), WIDTH)), WIDTH)


def assert_same_bits(model: lgb.Booster, data: Sequence[Sequence[float]]) -> None:
    """Compare the scores of *data* with the library's, bit for bit."""
    walked = forest(model)
    found = np.array([walked.predict(row) for row in data])
    wanted = np.asarray(model.predict(data, num_threads=1)).tobytes()
    assert found.tobytes() == wanted
    together = walked.scores(doubles([number for row in data for number in row]))
    assert np.array(together).tobytes() == wanted


def test_it_is_built_wherever_the_tests_run() -> None:
    """Without it the worker serves all the same, only later: nobody would notice."""
    assert is_built()


OBJECTIVES = ["binary", "cross_entropy", "regression", "regression_l1", "huber", "fair", "quantile"]
OBJECTIVES += ["mape", "poisson", "gamma", "tweedie"]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_sum_of_the_leaves_becomes_what_the_objective_says(objective: str) -> None:
    """A probability, an expected count, or the sum itself."""
    assert_same_bits(trained(objective=objective), rows(300, seed=4).tolist())


@pytest.mark.parametrize(
    "missing", [{}, {"use_missing": False}, {"zero_as_missing": True}, {"max_cat_to_onehot": 64}]
)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_odd_numbers_take_the_branches_that_lightgbm_takes(
    missing: dict[str, object], data: st.DataObject
) -> None:
    """Each way to be missing is decided before the walk; LightGBM decides it at each node."""
    number = st.sampled_from(ODD) | st.floats() | st.integers(0, len(COUNTRIES)).map(float)
    row = data.draw(st.lists(number, min_size=WIDTH, max_size=WIDTH))
    key = tuple(missing)
    if key not in MODELS:
        model = trained(objective="binary", **missing)
        MODELS[key] = model, forest(model)
    model, walked = MODELS[key]
    expected = model.predict([row], num_threads=1)[0]
    assert struct.pack("d", walked.predict(row)) == struct.pack("d", expected)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_splits_of_any_kind_and_threshold_part_as_in_the_library(data: st.DataObject) -> None:
    """Training makes few of the kinds that the format has, and no threshold next to zero."""
    kinds, thresholds = line("decision_type"), line("threshold")
    for place, kind in enumerate(kinds):
        if int(kind) % 2 == 0:  # not a set of categories
            kinds[place] = str(data.draw(st.sampled_from(range(0, 16, 2))))
            thresholds[place] = repr(data.draw(st.sampled_from(ODD[1:])))
    head, tree = re.split(r"(?=^Tree=)", text(1).partition("end of trees\n")[0], flags=re.M)
    tree = re.sub(r"^decision_type=.*$", "decision_type=" + " ".join(kinds), tree, flags=re.M)
    tree = re.sub(r"^threshold=.*$", "threshold=" + " ".join(thresholds), tree, flags=re.M)
    made = assembled(head, [tree])
    rows = data.draw(st.lists(st.lists(st.sampled_from(ODD), min_size=WIDTH, max_size=WIDTH)))
    walked, library = Forest(pack(read_text(made, WIDTH)), WIDTH), LightGbmModel(made, WIDTH)
    for row in rows:
        assert struct.pack("d", walked.predict(row)) == struct.pack("d", library.predict(row))


MODELS: dict[tuple[str, ...], tuple[lgb.Booster, Forest]] = {}


@pytest.mark.parametrize("rounds", [1, 2, 15, 16, 17, 33])
def test_trees_are_summed_in_their_order_however_many_walk_at_once(rounds: int) -> None:
    """Sums of doubles depend on their order, and the last trees may be fewer than the lanes."""
    assert_same_bits(booster(rounds), rows(200, seed=5).tolist())


def test_a_tree_of_one_leaf_adds_its_value() -> None:
    """LightGBM writes one where nothing could be learned."""
    sound = without_a_split()
    walked = Forest(pack(read_text(sound, WIDTH)), WIDTH)
    assert walked.predict([0.5] * WIDTH) == lgb.Booster(model_str=sound).predict([[0.5] * WIDTH])[0]


def test_a_set_of_categories_that_two_trees_ask_for_is_worked_out_once() -> None:
    """A second copy of the same trees brings no set of its own."""
    model = read_text(text(), WIDTH)
    once, twice = (HEAD.unpack_from(pack(model._replace(trees=model.trees * n))) for n in (1, 2))
    assert once[3] > 0
    assert twice[2:5] == (2 * once[2], *once[3:5])


def changed(place: int, value: int | float) -> bytes:
    """Return the packed trees with one number replaced."""
    packed = bytearray(pack(read_text(text(), WIDTH)))
    struct.pack_into("=I" if isinstance(value, int) else "=d", packed, place, value)
    return bytes(packed)


def hostile() -> dict[str, bytes]:
    """Return packed trees that would lead a walk out of its memory, or round for ever."""
    packed = pack(read_text(text(), WIDTH))
    columns, nodes, trees, sets, words, _ = HEAD.unpack_from(packed)
    roots = HEAD.size + nodes * NODE.size
    first_set = roots + 4 * trees
    width = 1 + 5 * columns + sets
    last = HEAD.size + (nodes - 1) * NODE.size  # a leaf: the last level has no split
    second = struct.unpack_from("=I", packed, roots + 4)[0]
    return {
        "nothing": b"",
        "half a head": packed[:10],
        "too short": packed[:-1],
        "too long": packed + b"\0",
        "no trees": HEAD.pack(WIDTH, 0, 0, 0, 0, 0),
        "no columns": changed(0, 0),
        "another width": changed(0, WIDTH + 1),
        "more nodes than there are": changed(4, nodes + 1),
        "as many nodes as wrap around": changed(4, 2**32 - 1),
        "an unknown transform": changed(20, 3),
        "a place behind the row": changed(HEAD.size + 8, width),
        "a child behind the nodes": changed(HEAD.size + 12, nodes),
        "a child that points back": changed(HEAD.size + NODE.size + 12, 0),
        "a child in the next tree": changed(HEAD.size + 12, second),
        "a second child in the next tree": changed(HEAD.size + 12, second - 1),
        "a leaf that is NaN": changed(last, math.nan),
        "a leaf that leads back": changed(last + 12, 0),
        "a leaf that looks at something": changed(last + 8, 1),
        "a root behind the nodes": changed(roots + 4 * (trees - 1), nodes),
        "a first root that is not the first node": changed(roots, 1),
        "two trees with one root": changed(roots + 4, 0),
        "a set of a column that is not there": changed(first_set, columns),
        "a set that starts behind the words": changed(first_set + 4, words),
        "a set that ends behind the words": changed(first_set + 8, words),
        "a set that wraps around": changed(first_set + 4, 2**32 - 1),
    }


@pytest.mark.parametrize("case", hostile())
def test_trees_that_would_lead_astray_are_refused(case: str) -> None:
    """They come from a process that has read what a stranger wrote."""
    with pytest.raises(ModelError, match="are not the trees of a model"):
        Forest(hostile()[case], WIDTH)


def test_a_chain_of_splits_is_left_at_once_or_walked_to_its_end() -> None:
    """A walk ends when none of its lanes moves; a step too few would end on a split."""
    left = [~split for split in range(99)]
    splits = Splits([0] * 99, [0] * 99, [0.0] * 99, left, [*range(1, 99), ~99])
    chain = TreeModel("regression", 1, [TextTree([float(leaf) for leaf in range(100)], splits, [])])
    walked = Forest(pack(chain), 1)
    assert walked.predict([-1.0]) == 0.0
    assert walked.predict([1.0]) == 99.0


def test_trees_that_were_compiled_for_another_format_are_not_walked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody has pulled, and not installed again: LightGBM serves."""
    monkeypatch.setattr(module, "_FORMAT", -1)
    module._library.cache_clear()
    try:
        assert not is_built()
    finally:
        module._library.cache_clear()


def test_a_library_that_cannot_be_loaded_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file from another machine must not stop models from being admitted."""
    broken = tmp_path / "_trees.so"
    broken.write_bytes(b"no library")
    spec = importlib.machinery.ModuleSpec("_trees", None, origin=str(broken))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: spec)
    module._library.cache_clear()
    try:
        assert not is_built()
        assert "cannot be used" in caplog.text
    finally:
        module._library.cache_clear()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_trees_are_refused_or_do_no_harm(data: st.DataObject) -> None:
    """Whatever slips through scores something, and the probes of the trial tell."""
    packed = bytearray(pack(read_text(text(3), WIDTH)))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    try:
        walked = Forest(bytes(packed), WIDTH)
    except ModelError:
        return
    assert isinstance(walked.predict([0.5] * WIDTH), float)


def test_rows_of_any_number_are_scored_as_one_by_one() -> None:
    """Sixteen are walked together: the last ones of a request are fewer."""
    walked = forest(trained(objective="binary"))
    data = rows(37, seed=9).tolist()
    single = [walked.predict(row) for row in data]
    for count in (0, 1, 15, 16, 17, 32, 37):
        flat = doubles([number for row in data[:count] for number in row])
        assert walked.scores(flat) == single[:count]


def test_numbers_that_are_no_whole_rows_are_refused() -> None:
    """C would read behind the end of them."""
    with pytest.raises(ModelError, match="are no rows of"):
        forest(trained(objective="binary")).scores(doubles([0.0] * (WIDTH + 1)))


def test_an_earlier_build_goes_on_with_single_rows() -> None:
    """An installation that compiled an earlier trees.c has no function for many."""
    walked, data = forest(trained(objective="binary")), rows(20, seed=9).tolist()
    flat = doubles([number for row in data for number in row])
    known = walked.scores(flat)
    walked._many = None
    assert walked.scores(flat) == known

"""The C API and `trees.c` give the same bits as the Python package, from any thread."""

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.serving.models import FEATURES, NULLABLE, SIGNATURE, booster, rows, text

from tidemill.errors import ModelError
from tidemill.serving.model.forest import Forest, pack
from tidemill.serving.model.model_text import read_text
from tidemill.serving.model.predictor import LightGbmModel, RowModel

WIDTH = len(SIGNATURE.columns)
Load = Callable[[str, int], RowModel]


def forest(text: str, columns: int) -> Forest:
    """Load *text* as a worker does that has `trees.c`."""
    return Forest(pack(read_text(text, WIDTH)), columns)


@pytest.fixture(params=[LightGbmModel, forest])
def load(request: pytest.FixtureRequest) -> Load:
    """Every predictor keeps one contract."""
    found: Load = request.param
    return found


@pytest.mark.parametrize("objective", ["binary", "regression"])
def test_a_row_scores_as_in_python_bit_for_bit(load: Load, objective: str) -> None:
    """The gate judged the model through the Python package; the worker must serve that model."""
    trained = booster(20, objective)
    model = load(trained.model_to_string(), WIDTH)
    data = rows(500, seed=1)
    found = np.array([model.predict(row.tolist()) for row in data])
    assert found.tobytes() == np.asarray(trained.predict(data, num_threads=1)).tobytes()


def test_extremes_score_as_in_python_bit_for_bit(load: Load) -> None:
    """Infinite, huge and missing values take the default branches."""
    model = load(text(), WIDTH)
    data = np.array([[value] * WIDTH for value in (np.inf, -np.inf, np.nan, 1e308, -1e-300, -7.0)])
    found = np.array([model.predict(row.tolist()) for row in data])
    assert found.tobytes() == np.asarray(booster().predict(data, num_threads=1)).tobytes()


def test_threads_do_not_mix_their_rows(load: Load) -> None:
    """All threads of an embedded worker share one row buffer in C."""
    model = load(text(), WIDTH)
    data = [row.tolist() for row in rows(200, seed=2)]
    alone = [model.predict(row) for row in data]
    with ThreadPoolExecutor(8) as pool:
        for together in pool.map(lambda _: [model.predict(row) for row in data], range(40)):
            assert together == alone


def test_features_are_scored_through_the_signature(load: Load) -> None:
    """A worker has features by name; the model reads numbers in order."""
    score = load(text(), WIDTH).scorer(SIGNATURE, NULLABLE)
    features = {**FEATURES, "country": "c07", "seen": None, "tags": ["old"], "age": None}
    row = SIGNATURE.encode_row(features)
    assert score(tuple(features.values())) == booster().predict([row], num_threads=1)[0]


def test_a_row_of_another_width_is_refused(load: Load) -> None:
    """C would read whatever lies behind a short row."""
    model = load(text(), WIDTH)
    with pytest.raises(ModelError, match="do not fit"):
        model.predict([0.0] * (WIDTH - 1))


def test_a_model_of_another_width_is_refused(load: Load) -> None:
    """A signature and a payload can be from different trainings."""
    with pytest.raises(ModelError, match=r"reads \d numbers"):
        load(text(), WIDTH + 1)


@pytest.mark.slow
def test_scores_outlive_the_model_they_were_made_from(load: Load) -> None:
    """A decider keeps the function only; the trees in C must stay as long as it does."""
    features = {**FEATURES, "seen": None, "tags": None, "age": 30.0}
    score = load(text(), WIDTH).scorer(SIGNATURE, NULLABLE)
    gc.collect()
    others = [load(text(rounds), WIDTH) for rounds in (3, 5)]
    row = SIGNATURE.encode_row(features)
    assert score(tuple(features.values())) == booster().predict([row], num_threads=1)[0]
    del others, score
    gc.collect()

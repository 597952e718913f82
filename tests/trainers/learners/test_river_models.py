"""River's trees, forests and machines: the same scores as River, and the same bits after a kill."""

import math
from collections.abc import Callable, Iterator

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from river import datasets, evaluate, facto, forest, metrics, optim, preprocessing, tree
from river.datasets import synth
from river.stream import simulate_qa
from tests.trainers.cycles import cycle_of, online_of

from tidemill.errors import ModelError
from tidemill.features.lake.lake import Lake
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.online_models import online_predictor
from tidemill.trainers.learners.online import OnlineLearner, feature_rows, read_state
from tidemill.trainers.learners.river_models import LearnerState
from tidemill.trainers.publisher import MemoryModelTopic

MakeLoop = Callable[..., Loop]
MakeRows = Callable[..., pl.DataFrame]
Grow = Callable[[Lake, pl.DataFrame], int]
Samples = list[tuple[dict[str, float], bool | float]]

QUICK: dict[str, dict[str, float]] = {
    "hoeffding_tree": {"grace_period": 20, "delta": 0.1},
    "hoeffding_adaptive_tree": {"grace_period": 20, "delta": 0.1},
    "adaptive_random_forest": {"n_models": 3, "grace_period": 20},
    "factorization_machine": {"n_factors": 3},
}
"""Settings with which a few hundred rows make trees that split."""
CASES = [(learner, label) for learner in QUICK for label in ("bool", "float")]
FIXTURES = settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ODD: list[dict[str, object]] = [
    {},
    {"hour": None, "wind": None, "line": None},
    {"hour": 10**9, "wind": -1e300, "line": "new"},
    {"hour": math.nan, "wind": 3.5, "line": "red"},
]


def loop_of(make_loop: MakeLoop, learner: str, label: str, **more: object) -> Loop:
    """A loop with this learner and a label of this type."""
    features = {"hour": "int", "wind": {"type": "float", "nullable": True}, "line": "category"}
    online = {"learner": learner, "publish_every": 300, **QUICK[learner]}
    changes: dict[str, object] = {"features": features, "models": {"batch": None, "online": online}}
    if label == "float":
        changes |= {
            "decision": {"type": "float", "default": 0.0},
            "label": {"sql": "max(delay)", "type": "float"},
            "policy": {"kind": "value"},
        }
    return make_loop(**(changes | more))


def drifting(samples: Samples) -> Samples:
    """Return *samples* with names that a loop file may have."""
    return [({f"f{name}": float(x[name]) for name in x}, y) for x, y in samples]


@pytest.mark.slow
@pytest.mark.parametrize(("learner", "label"), CASES)
@FIXTURES
@given(split=st.integers(0, 500), seed=st.integers(1, 1_000))
def test_a_kill_after_any_row_resumes_to_the_same_bits(
    make_loop: MakeLoop, make_rows: MakeRows, learner: str, label: str, split: int, seed: int
) -> None:
    """Statistics, detectors and random generators all travel; what is learned later shows it."""
    loop = loop_of(make_loop, learner, label)
    rows = make_rows(500, seed=seed)
    straight = OnlineLearner(loop, online_of(loop))
    killed = OnlineLearner(loop, online_of(loop))
    straight.learn(1, rows[:split])
    killed.learn(1, rows[:split])
    state = LearnerState.from_bytes(killed.state().to_bytes())
    killed = OnlineLearner(loop, online_of(loop), state)
    assert killed.learned_until == 1
    straight.learn(2, rows[split:])
    killed.learn(2, rows[split:])
    assert killed.state().to_bytes() == straight.state().to_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("learner", "label"), CASES)
def test_serving_scores_what_river_scores(
    make_loop: MakeLoop, make_rows: MakeRows, learner: str, label: str
) -> None:
    """To the same bits for trees; a machine adds its products in another order."""
    loop = loop_of(make_loop, learner, label)
    trained = OnlineLearner(loop, online_of(loop))
    trained.learn(1, make_rows(1_500))
    predictor = online_predictor(learner, trained.payload(), trained.fitted_signature())
    later = list(feature_rows(make_rows(300, first=1_500), loop))
    theirs = [trained.predict_one(row) for row in [*later, *ODD]]
    ours = [predictor.score(row) for row in [*later, *ODD]]
    assert len(set(theirs)) > 5
    if learner == "factorization_machine":
        assert ours == pytest.approx(theirs, abs=1e-9, rel=1e-9)
    else:
        assert ours == theirs
    added, base = predictor.contributions(later[0])
    assert math.fsum([base, *added.values()]) == pytest.approx(ours[0])


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["hoeffding_adaptive_tree", "factorization_machine"])
def test_a_trainer_that_was_killed_resumes_from_the_lake(
    lake: Lake, make_loop: MakeLoop, make_rows: MakeRows, grow: Grow, learner: str
) -> None:
    """The payload has no statistics any more, so the state must be kept beside it."""
    loop = loop_of(make_loop, learner, "bool")
    lake.create(loop)
    own = pl.struct(pl.col("features").struct.field("hour", "wind", "line")).alias("features")
    for start in range(0, 1_000, 250):
        grow(lake, make_rows(250, first=start).with_columns(own))
        cycle = cycle_of(loop, lake, MemoryModelTopic())  # a new process for each commit
        cycle.run()
    newest = cycle.registry.newest(learner)
    assert newest is not None
    straight = OnlineLearner(loop, online_of(loop))
    examples = lake.table(loop.loop, "examples")
    for commit in examples.commits_since(-1):
        if commit.files and commit.version <= newest.snapshot:
            straight.learn(commit.version, examples.rows(commit))
    assert cycle.registry.payload(newest) == straight.payload()
    assert cycle.registry.state(newest) == straight.saved()
    assert newest.trained_on_rows == straight.rows > 500


@pytest.mark.slow
def test_new_words_make_no_model_larger(make_loop: MakeLoop, make_rows: MakeRows) -> None:
    """A client that sends random words would fill the topic with weights that nobody needs."""
    online = {"learner": "factorization_machine", "hash_buckets": 16}
    models = {"batch": None, "online": online}
    loop = loop_of(make_loop, "factorization_machine", "bool", models=models)
    learner = OnlineLearner(loop, online_of(loop))
    rows = make_rows(2_000)
    words = pl.Series([f"word{number}" for number in range(2_000)])
    features = pl.col("features").struct.with_fields(words.alias("line"))
    learner.learn(1, rows.with_columns(features))
    assert len(learner.payload()) < 18 * 120


def test_a_state_of_other_settings_is_not_continued(
    make_loop: MakeLoop, make_rows: MakeRows
) -> None:
    """A changed delta in the loop file means a learner from the start, not one of both."""
    loop = loop_of(make_loop, "hoeffding_tree", "bool")
    learner = OnlineLearner(loop, online_of(loop))
    learner.learn(1, make_rows(50))
    other = online_of(loop).model_copy(update={"delta": 0.2})
    assert OnlineLearner(loop, other, learner.state()).learned_until == -1
    assert OnlineLearner(loop, online_of(loop), learner.state()).learned_until == 1


def test_a_version_without_its_state_starts_over() -> None:
    """Models restored from the topic have predictors only."""
    assert read_state("hoeffding_tree", b"payload", None) is None
    with pytest.raises(ModelError, match="cannot be read"):
        read_state("hoeffding_tree", b"payload", b"\xc1")


def sea(rows: int) -> Samples:
    """River's stream with a drift of its concept in the middle."""
    stream = synth.ConceptDriftStream(
        stream=synth.SEA(seed=42, variant=0),
        drift_stream=synth.SEA(seed=42, variant=1),
        seed=1,
        position=rows // 2,
        width=50,
    )
    return drifting(list(stream.take(rows)))


def friedman(rows: int) -> Samples:
    """River's regression stream with drifts."""
    places = (rows // 4, rows // 2, 3 * rows // 4)
    return drifting(list(synth.FriedmanDrift(seed=1, position=places).take(rows)))


STREAMS: dict[str, Callable[[], Samples]] = {
    "sea": lambda: sea(1_500),
    "phishing": lambda: drifting(list(datasets.Phishing())),
    "friedman": lambda: friedman(1_000),
}
PEERS: dict[tuple[str, str], Callable[[], object]] = {
    ("hoeffding_tree", "bool"): lambda: tree.HoeffdingTreeClassifier(
        leaf_prediction="mc", grace_period=20, delta=0.1
    ),
    ("hoeffding_adaptive_tree", "bool"): lambda: tree.HoeffdingAdaptiveTreeClassifier(
        leaf_prediction="mc", grace_period=20, delta=0.1, seed=7
    ),
    ("adaptive_random_forest", "bool"): lambda: forest.ARFClassifier(
        leaf_prediction="mc", n_models=3, grace_period=20, seed=7
    ),
    ("factorization_machine", "bool"): lambda: (
        preprocessing.StandardScaler()
        | facto.FMClassifier(
            n_factors=3,
            weight_optimizer=optim.SGD(0.01),
            latent_optimizer=optim.SGD(0.01),
            seed=7,
        )
    ),
    ("hoeffding_tree", "float"): lambda: tree.HoeffdingTreeRegressor(
        leaf_prediction="mean", grace_period=20, delta=0.1
    ),
    ("hoeffding_adaptive_tree", "float"): lambda: tree.HoeffdingAdaptiveTreeRegressor(
        leaf_prediction="mean", grace_period=20, delta=0.1, seed=7
    ),
    ("adaptive_random_forest", "float"): lambda: forest.ARFRegressor(
        leaf_prediction="mean", n_models=3, grace_period=20, seed=7
    ),
}


def learned(make_loop: MakeLoop, learner: str, label: str, samples: Samples) -> Iterator[float]:
    """Yield our prediction of each sample before its label is learned."""
    features = dict.fromkeys(samples[0][0], "float")
    loop = loop_of(make_loop, learner, label, features=features)
    model = OnlineLearner(loop, online_of(loop))
    for x, y in samples:
        yield model._learn_one(x, float(y), 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("learner", "label", "stream"),
    [
        (learner, label, stream)
        for learner, label in PEERS
        for stream in (("sea", "phishing") if label == "bool" else ("friedman",))
    ],
)
def test_progressive_validation_on_rivers_streams_is_rivers_own(
    make_loop: MakeLoop, learner: str, label: str, stream: str
) -> None:
    """Row by row, with drifts: whoever knows River's figures finds them here."""
    samples = STREAMS[stream]()
    metric = metrics.LogLoss() if label == "bool" else metrics.MSE()
    evaluate.progressive_val_score(iter(samples), PEERS[learner, label](), metric)
    ours = metrics.LogLoss() if label == "bool" else metrics.MSE()
    peer = PEERS[learner, label]()
    for (x, y), predicted in zip(samples, learned(make_loop, learner, label, samples), strict=True):
        if label == "bool":
            chances = peer.predict_proba_one(x)  # type: ignore[attr-defined]
            assert predicted == (chances.get(True, 0.0) if chances else 0.5)
            if chances:
                ours.update(y, {True: predicted, False: 1.0 - predicted})
        else:
            assert predicted == peer.predict_one(x)  # type: ignore[attr-defined]
            ours.update(y, predicted)
        peer.learn_one(x, y)  # type: ignore[attr-defined]
    assert ours.get() == pytest.approx(metric.get(), rel=1e-9)


@pytest.mark.parametrize("learner", ["hoeffding_tree", "hoeffding_adaptive_tree"])
def test_labels_that_come_late_give_rivers_own_score(make_loop: MakeLoop, learner: str) -> None:
    """A prediction is made at the question; what is learned until then is the same as River's."""
    samples = sea(600)
    metric = metrics.LogLoss()
    evaluate.progressive_val_score(
        iter(samples), PEERS[learner, "bool"](), metric, moment=None, delay=25
    )
    loop = loop_of(make_loop, learner, "bool", features=dict.fromkeys(samples[0][0], "float"))
    model, ours = OnlineLearner(loop, online_of(loop)), metrics.LogLoss()
    asked: dict[int, float] = {}
    for number, x, y, *_ in simulate_qa(iter(samples), moment=None, delay=25):
        if y is None:
            if model.rows:  # River scores no question that came before the first label
                asked[number] = model.predict_one(x)
            continue
        if number in asked:
            ours.update(y, {True: asked[number], False: 1.0 - asked[number]})
        model._learn_one(x, float(y), 1.0)
        model.rows += 1
    assert ours.get() == pytest.approx(metric.get(), rel=1e-9)

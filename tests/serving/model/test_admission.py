"""A model passes all checks before it decides, and each check refuses what it is for."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import lightgbm
import numpy as np
import polars as pl
import pytest
from tests.schemas.loops import with_items
from tests.serving.models import (
    FEATURES,
    SIGNATURE,
    VALUES,
    banner,
    booster,
    manifest,
    river_state,
    text,
)

from tidemill.errors import ModelError
from tidemill.schemas.loop.definition import FieldType, Loop
from tidemill.schemas.models.assembler import Delivery
from tidemill.schemas.models.feature_signature import FeatureSignature, SignatureField
from tidemill.schemas.models.manifest import ModelManifest
from tidemill.schemas.models.river_state import LinearPredictor, LinearState, Weight
from tidemill.schemas.models.tree_forest import AT_MOST, LEAF, ForestNode, Tree, TreeForest
from tidemill.serving.model import admission, forest
from tidemill.serving.model.admission import admit, probe_rows
from tidemill.serving.model.forest import pack
from tidemill.serving.model.model_text import read_text
from tidemill.serving.model.trial_process import TrialProcess
from tidemill.serving.policies.choice import ItemScore

pytestmark = pytest.mark.slow  # each model is tried in a process of its own

TRIALS = TrialProcess()


def delivery(payload: bytes, **changes: object) -> Delivery:
    """Return *payload* as the assembler delivers it."""
    return Delivery.of(manifest(payload, **changes), payload)  # type: ignore[arg-type]


def test_a_sound_model_scores_as_it_was_trained() -> None:
    """All guards together let a good model through, unchanged."""
    score = admit(delivery(text().encode()), banner(), TRIALS)
    row = SIGNATURE.encode_row({**FEATURES, "age": 30.0})
    assert score(VALUES) == booster().predict([row], num_threads=1)[0]


def acting(signature: FeatureSignature) -> Delivery:
    """Return an online model that gives `show` two more than `hide`, in log odds."""
    payload = replace(
        LinearState.from_bytes(river_state()),
        weights=(Weight("action=show", 2.0), Weight("country=c01", 1.0)),
    ).to_bytes()
    features = {"features": signature.to_json(), "features_digest": signature.digest}
    return delivery(payload, learner="logistic_regression", **features)


def test_a_threshold_gets_what_acting_adds_where_the_label_depends_on_it() -> None:
    """A guest who buys anyway needs no banner: the policy compares both actions' labels."""
    loop = banner(label={"sql": "max(seconds) > 3", "depends_on": "action"})
    signature = FeatureSignature(
        (*SIGNATURE.fields, SignatureField("action", FieldType.CATEGORY, ("hide", "show")))
    )
    found = admit(acting(signature), loop, TRIALS)(VALUES)
    shown, hidden = (1 / (1 + math.exp(-odds)) for odds in (3.5, 1.5))
    assert found == pytest.approx(shown - hidden)


def test_a_model_of_an_earlier_release_serves_such_a_loop_until_there_is_another() -> None:
    """It reads no action, so the policy gets its score as before; an upgrade stops nothing."""
    loop = banner(label={"sql": "max(seconds) > 3", "depends_on": "action"})
    model = delivery(text().encode())
    assert admit(model, loop, TRIALS)(VALUES) == admit(model, banner(), TRIALS)(VALUES)


def test_an_online_model_scores_as_its_state_says() -> None:
    """It needs no child: its state is data, and scoring it is arithmetic."""
    payload = river_state()
    found = admit(delivery(payload, learner="logistic_regression"), banner(), TRIALS)
    state = LinearState.from_bytes(payload)
    named = {**FEATURES, "age": 30.0}
    assert found(VALUES) == LinearPredictor(state, SIGNATURE).score(named)
    assert 0.0 < found(VALUES) < 1.0


def test_published_trees_score_without_river() -> None:
    """A worker walks the nodes itself; trees under the name of another learner are refused."""
    nodes = (
        ForestNode(test=AT_MOST, feature="age", threshold=29.0, children=(1, 2)),
        ForestNode(test=LEAF, no=1.0),
        ForestNode(test=LEAF, no=0.25, yes=0.75),
    )
    payload = TreeForest(
        learner="hoeffding_tree", label_type="bool", hash_buckets=8, trees=(Tree(1.0, nodes),)
    ).to_bytes()
    assert admit(delivery(payload, learner="hoeffding_tree"), banner(), TRIALS)(VALUES) == 0.75
    with pytest.raises(ModelError, match="published as adaptive_random_forest"):
        admit(delivery(payload, learner="adaptive_random_forest"), banner(), TRIALS)


def _with_another_field() -> FeatureSignature:
    return FeatureSignature((*SIGNATURE.fields, SignatureField("gone", FieldType.INT)))


def _of_another_type() -> FeatureSignature:
    return FeatureSignature((SignatureField("country", FieldType.INT), *SIGNATURE.fields[1:]))


@pytest.mark.parametrize("made", [_with_another_field, _of_another_type])
def test_a_model_for_other_features_is_refused(made: Callable[[], FeatureSignature]) -> None:
    """It would score numbers that mean something else."""
    signature = made()
    changed = delivery(
        text().encode(), features=signature.to_json(), features_digest=signature.digest
    )
    with pytest.raises(ModelError, match="reads other features"):
        admit(changed, banner(), TRIALS)


def next_version(**changes: object) -> Loop:
    """Return the banner with one more feature, and all of them in another order."""
    features: dict[str, object] = {"fresh": {"type": "category", "nullable": True}}
    features |= dict(reversed(banner().model_dump()["features"].items()))
    return banner(version=2, features=features, **changes)


@pytest.mark.parametrize("learner", ["lightgbm", "logistic_regression"])
def test_the_next_version_with_more_features_gets_the_same_scores(learner: str) -> None:
    """Features map by name, to the last bit, so publishing one more feature stops no model."""
    payload = text().encode() if learner == "lightgbm" else river_state()
    model = delivery(payload, learner=learner)
    before, after = (admit(model, loop, TRIALS) for loop in (banner(), next_version()))
    assert after(("anything", *reversed(VALUES))) == before(VALUES)


def test_a_model_of_another_label_is_refused() -> None:
    """The default decides then; a model of an earlier release is judged by the type alone."""
    euros = {"sql": "max(seconds) > 4"}
    known = delivery(text().encode(), label_digest=banner().label_digest)
    admit(known, next_version(), TRIALS)
    admit(delivery(text().encode()), next_version(label=euros), TRIALS)
    with pytest.raises(ModelError, match="another label than that of banner version 2"):
        admit(known, next_version(label=euros), TRIALS)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"label_type": "float"}, "predicts a float label"),
        ({"learner": "catboost"}, "trained by 'catboost'"),
        ({"learner": "logistic_regression"}, "cannot be read"),
    ],
)
def test_a_model_of_another_kind_is_refused(changes: dict[str, object], what: str) -> None:
    """What a worker does not understand it must not guess."""
    with pytest.raises(ModelError, match=what):
        admit(delivery(text().encode(), **changes), banner(), TRIALS)


@pytest.mark.parametrize(
    "payload", [b"\x80\x04", "modèle".encode(), b"tree\n", text().encode()[:5_000]]
)
def test_a_payload_that_is_no_model_is_refused(payload: bytes) -> None:
    """A trusted key can publish rubbish, too."""
    with pytest.raises(ModelError):
        admit(delivery(payload), banner(), TRIALS)


class ATreeLess(TrialProcess):
    """Gives back other trees than those it has scored with."""

    def run(self, text: bytes, rows: list[list[float]]) -> tuple[list[float], bytes]:
        """Return the trees of a smaller model."""
        scores, _ = super().run(text, rows)
        return scores, pack(read_text(smaller(), len(SIGNATURE.columns)))


def smaller() -> str:
    """Return the model with one tree less."""
    return text(19)


def test_trees_that_score_otherwise_than_the_library_are_refused() -> None:
    """A worker serves with `trees.c` only if its scores have the bits of the library."""
    with (
        ATreeLess() as trials,
        pytest.raises(ModelError, match=r"scores a probe as .* here and .* in its trial"),
    ):
        admit(delivery(text().encode()), banner(), trials)


def test_without_compiled_trees_the_library_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An installation without a compiler decides all the same, and says what it lacks."""
    monkeypatch.setattr(forest, "is_built", lambda: False)
    monkeypatch.setattr(forest, "Forest", None)
    score = admit(delivery(text().encode()), banner(), TRIALS)
    row = SIGNATURE.encode_row({**FEATURES, "age": 30.0})
    assert score(VALUES) == booster().predict([row], num_threads=1)[0]
    assert "was not compiled" in caplog.text


def test_probes_reach_every_kind_of_value() -> None:
    """A branch no probe takes is a branch nobody has tried."""
    rows = probe_rows(SIGNATURE)
    assert len(rows) == admission.PROBES
    assert all(len(row) == len(SIGNATURE.columns) for row in rows)
    assert {math.isnan(row[0]) for row in rows} == {True, False}
    assert json.dumps(rows) == json.dumps(probe_rows(SIGNATURE))


def test_the_manifest_is_not_trusted_about_its_features() -> None:
    """The text has its own idea of how many numbers it reads."""
    short = FeatureSignature((*SIGNATURE.fields[:-2], SIGNATURE.fields[-1]))
    loop = banner(
        features={
            "country": "category",
            "visits": "int",
            "amount": "float",
            "member": "bool",
            "seen": "timestamp",
            "age": "float",
        }
    )
    said: ModelManifest = replace(
        manifest(text().encode()), features=short.to_json(), features_digest=short.digest
    )
    with pytest.raises(ModelError, match="max_feature_idx"):
        admit(Delivery.of(said, text().encode()), loop, TRIALS)


ITEM_LOOP = with_items(
    features={"country": "category", "at_": "timestamp"},
    decision={
        "type": "choice",
        "items": {
            "features": {
                "price": {"type": "float", "nullable": True},
                "topic": "category",
                "tags": "categories",
            }
        },
    },
)


def item_model() -> tuple[bytes, FeatureSignature]:
    """Return a model of items, whose signature has another order than the loop."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    frame = pl.DataFrame(
        {
            "topic": ["news", "sport"] * 300,
            "country": ["at", "de", "pt"] * 200,
            "tags": [["x"], ["x", "y"], []] * 200,
            "price": [float(number % 7) for number in range(600)],
            "at_": [moment + timedelta(hours=number) for number in range(600)],
        }
    )
    fields = {field.name: field for field in FeatureSignature.of_loop(ITEM_LOOP).fields}
    signature = FeatureSignature(tuple(fields[name] for name in frame.columns)).fit(frame)
    wanted = (frame["price"] > 3.0) & (frame["topic"] == "news")
    label = wanted.cast(pl.Float64).to_numpy()
    data = lightgbm.Dataset(
        signature.encode_frame(frame), label, categorical_feature=signature.categorical
    )
    params = {"objective": "binary", "verbose": -1, "num_threads": 1}
    return lightgbm.train(params, data, 10).model_to_string().encode(), signature


def test_a_model_of_items_scores_all_of_a_request_as_one_by_one() -> None:
    """Features by name, in whatever order: of the loop once, of items each; the same bits."""
    payload, signature = item_model()
    features = {"features": signature.to_json(), "features_digest": signature.digest}
    score = admit(delivery(payload, **features), ITEM_LOOP, TRIALS)
    assert isinstance(score, ItemScore)
    shared = ("de", datetime(2026, 1, 3, tzinfo=UTC))
    items = [(5.0, "news", ["y"]), (None, "sport", []), (1.0, "unknown", ["x", "z"])] * 9
    together = score.many(shared, items)
    assert together == [score((*shared, *item)) for item in items]
    booster = lightgbm.Booster(model_str=payload.decode())
    names = [*ITEM_LOOP.features, "price", "topic", "tags"]
    rows = [signature.encode_row(dict(zip(names, (*shared, *item), strict=True))) for item in items]
    assert together == list(np.asarray(booster.predict(rows, num_threads=1)))


def test_a_model_that_reads_another_feature_of_items_is_refused() -> None:
    """A shop whose items have no tags any more needs another model."""
    payload, signature = item_model()
    features = {"features": signature.to_json(), "features_digest": signature.digest}
    items = {"features": {"price": "float", "topic": "category"}}
    loop = with_items(
        features={"country": "category", "at_": "timestamp"},
        decision={"type": "choice", "items": items},
    )
    with pytest.raises(ModelError, match=r"tags \(categories\)"):
        admit(delivery(payload, **features), loop, TRIALS)


def test_an_online_model_of_items_reads_them_by_name() -> None:
    """It is scored row by row: its arithmetic is that of a dict."""
    signature = FeatureSignature(
        (SignatureField("topic", FieldType.CATEGORY), SignatureField("price", FieldType.FLOAT))
    )
    state = replace(
        LinearState.from_bytes(river_state()), weights=(Weight("topic=news", 2.0),), scales=()
    )
    features = {"features": signature.to_json(), "features_digest": signature.digest}
    model = delivery(state.to_bytes(), learner="logistic_regression", **features)
    score = admit(model, ITEM_LOOP, TRIALS)
    shared = ("de", datetime(2026, 1, 3, tzinfo=UTC))
    news, sport = (score((*shared, 1.0, topic, [])) for topic in ("news", "sport"))
    assert news > sport

"""Lakes with decisions that a worker's decider has made and logged, and the models it had."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from tests.serving.models import banner

from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.layouts import DECISIONS, EXAMPLES, layouts
from tidemill.schemas.events.decoder import EventDecoder
from tidemill.schemas.loop.definition import Batch, Loop, Online
from tidemill.schemas.loop.validation import BELIEFS
from tidemill.schemas.models.feature_signature import ACTION, scored_actions
from tidemill.schemas.models.manifest import payload_digest
from tidemill.schemas.registry.memory import MemorySchemaStore
from tidemill.serving.decision.decider import Decider
from tidemill.serving.decision.event_log import MemoryEventLog
from tidemill.serving.decision.results import DecisionResult
from tidemill.serving.model.admission import policy_score, try_payload
from tidemill.serving.policies.choice import LiveModel
from tidemill.trainers.learners.batch import Trained, train
from tidemill.trainers.learners.online import OnlineLearner
from tidemill.trainers.learners.posteriors import train_posterior
from tidemill.trainers.registry import ModelVersion, Registry
from tidemill.trainers.rows import LabeledRows, LoggedActions

START = datetime(2026, 3, 1, tzinfo=UTC)
CHOICE = {"type": "choice", "actions": ["a", "b", "c", "d"], "default": "c"}
RANKING = {"type": "ranking", "actions": ["a", "b", "c"], "default": ["c", "a", "b"]}
NUMBER = {
    "decision": {"type": "float", "default": 0.25},
    "label": {"sql": "max(seconds)", "type": "float"},
}
WORLD = {"sql": "max(seconds) > 3", "depends_on": "world"}
LEARNERS = ("lightgbm", "linear")


def number(**policy: object) -> Loop:
    """Return a loop that decides a number from -1 to 2."""
    return banner(**NUMBER, policy={"kind": "value", "low": -1.0, "high": 2.0, **policy})


def threshold(**policy: object) -> dict[str, object]:
    """Return the settings of a threshold policy of `banner`."""
    return {"kind": "threshold", "threshold": 0.4, "above": "show", "below": "hide", **policy}


LOOPS: Mapping[str, Loop] = {
    "threshold over the world": banner(label=WORLD, policy=threshold()),
    "threshold over actions": banner(
        label=WORLD | {"depends_on": "action"}, policy=threshold(threshold=0.0, epsilon=0.3)
    ),
    "greedy": banner(decision=CHOICE, policy={"kind": "greedy", "epsilon": 0.4, "decay": 500}),
    "softmax": banner(decision=CHOICE, policy={"kind": "softmax", "epsilon": 0.2}),
    "value": number(),
    "normal": number(spread=0.3),
    "grid": number(grid=4, epsilon=0.3),
    "greedy ranking": banner(decision=RANKING, policy={"kind": "greedy", "epsilon": 0.5}),
    "Plackett-Luce": banner(
        decision=RANKING, policy={"kind": "softmax", "temperature": 0.4, "epsilon": 0.1}
    ),
    "thompson": banner(decision=CHOICE, policy={"kind": "thompson", "epsilon": 0.1}),
    "ucb": banner(decision=CHOICE, policy={"kind": "ucb", "epsilon": 0.1}),
    "linucb": banner(decision=CHOICE, policy={"kind": "linucb"}),
    "apprentice": banner(
        decision=CHOICE, learning="apprentice", policy={"kind": "greedy", "epsilon": 0.4}
    ),
}


def features(draw: random.Random) -> dict[str, object]:
    """Return features of `banner` at random, some of them unknown to every model."""
    return {
        "country": draw.choice(["c01", "c02", "c03", "elsewhere"]),
        "visits": draw.randrange(40),
        "amount": draw.gauss(0, 2),
        "member": draw.random() < 0.5,
        "seen": draw.choice([None, START + timedelta(microseconds=draw.randrange(10**12))]),
        "tags": draw.choice([None, [], ["new"], ["old", "new"]]),
        "age": draw.choice([None, draw.uniform(18, 90)]),
    }


def labelled(loop: Loop, count: int, seed: int = 3) -> LabeledRows:
    """Return rows whose label depends on the visits, the country and the action."""
    draw = random.Random(seed)
    rows = [features(draw) for _ in range(count)]
    frame = pl.DataFrame(rows, schema_overrides=_feature_types(loop))
    actions = scored_actions(loop)
    taken = np.array([draw.randrange(max(len(actions), 1)) for _ in rows])
    raw = frame["visits"].to_numpy() / 20 - 1 + (frame["country"] == "c01").to_numpy()
    raw = raw + (taken == 1) * 0.8 + np.array([draw.gauss(0, 0.5) for _ in rows])
    label = (raw > 0.5).astype(float) if loop.label.type == "bool" else raw
    logged = None
    if actions:
        frame = frame.with_columns(pl.Series(ACTION, np.array(actions)[taken]))
        chance = np.full(count, 1 / len(actions))
        logged = LoggedActions(taken, np.zeros(count, dtype=int), chance, len(actions))
    times = [START + timedelta(seconds=number) for number in range(count)]
    return LabeledRows(
        features=frame,
        label=label,
        at=pl.Series(times, dtype=pl.Datetime("us", "UTC")),
        ids=pl.Series([f"e{number}" for number in range(count)]),
        snapshot=0,
        logged=logged,
    )


def _feature_types(loop: Loop) -> dict[str, pl.DataType]:
    struct = layouts(loop)[DECISIONS]["features"]
    assert isinstance(struct, pl.Struct)
    return {field.name: field.dtype for field in struct.fields}  # type: ignore[misc]


def trained(loop: Loop, learner: str) -> Trained:
    """Return a model of *loop* by one of `LEARNERS`."""
    rows = labelled(loop, 1_500)
    if loop.policy.kind in BELIEFS:
        return train_posterior(rows, loop, Batch())
    if learner == "lightgbm":
        return train(rows, loop, Batch(rounds=30, params={"min_data_in_leaf": 20}))
    kind = "logistic_regression" if loop.label.type == "bool" else "linear_regression"
    online = Online(learner=kind)  # type: ignore[arg-type]  # one of its two
    learning = OnlineLearner(loop, online)
    learning.learn(0, examples(loop, rows))
    model = train(rows, loop, Batch(rounds=1))
    return Trained(
        learner=kind,
        payload=learning.state().to_bytes(),
        signature=learning.signature,
        snapshot=0,
        rows=learning.rows,
        base_rate=rows.mean_label,
        seed=0,
        params={},
        software={},
        cost=model.cost,
    )


def examples(loop: Loop, rows: LabeledRows) -> pl.DataFrame:
    """Return *rows* as examples that chance alone has decided."""
    schema, count = layouts(loop)[EXAMPLES], len(rows)
    is_ranking = loop.decision.type == "ranking"
    action = rows.features[ACTION] if ACTION in rows.features.columns else pl.Series([0.0] * count)
    if loop.decision.type == "bool":
        action = action == "true"
    if loop.decision.type == "choice" and not loop.scores_actions:
        action = pl.Series(["show"] * count)
    names = list(loop.features)
    known = pl.DataFrame(
        {
            "decision_id": rows.ids,
            "at": rows.at,
            "action": action.reshape((-1, 1)).arr.to_list() if is_ranking else action,
            "propensity": pl.Series([0.25] * count),
            "source": pl.Series(["explore"] * count),
            "policy_version": pl.Series([1] * count, dtype=pl.Int32),
            "loop_version": pl.Series([loop.version] * count, dtype=pl.Int32),
            "features": rows.features.select(names).to_struct(),
            "state": pl.Series(["labeled"] * count),
            "label": rows.label,
            "topic": pl.Series(["t"] * count),
            "partition": pl.Series([0] * count, dtype=pl.Int32),
            "offset": pl.Series(range(count)),
        }
    )
    missing = [pl.lit(None, kind).alias(n) for n, kind in schema.items() if n not in known.columns]
    dated = known.with_columns(missing).with_columns(pl.col("at").dt.date().alias("event_date"))
    return dated.select(list(schema)).cast(dict(schema))  # type: ignore[arg-type]


@dataclass(kw_only=True)
class DecidedLake:
    """A lake of one loop: `decide` adds decisions, `live` sets the model that makes them."""

    loop: Loop
    lake: Lake
    registry: Registry
    decider: Decider
    log: MemoryEventLog
    store: MemorySchemaStore

    @classmethod
    def of(cls, loop: Loop, folder: Path) -> "DecidedLake":
        """Return a lake without decisions and models."""
        lake, log, store = Lake(LakeConfig(root=str(folder))), MemoryEventLog(), MemorySchemaStore()
        lake.create(loop)
        decider = Decider(loop, store=store, log=log)
        return cls(
            loop=loop,
            lake=lake,
            registry=Registry(lake, loop.loop),
            decider=decider,
            log=log,
            store=store,
        )

    def live(self, model: Trained) -> ModelVersion:
        """Add *model* to the registry, and decide by it from now on."""
        number = self.registry.next_number()
        record = version(self.loop, model, number)
        self.registry.add(record, model.payload)
        score = try_payload(
            self.loop,
            version=record.version,
            learner=model.learner,
            payload=model.payload,
            signature=model.signature,
        )
        serving = policy_score(score, model.signature, self.loop)
        self.decider.model = LiveModel(record.version, serving, model.rows)
        return record

    def decide(self, count: int, seed: int = 1, baseline: object = None) -> list[DecisionResult]:
        """Make decisions with features at random and write them to the lake."""
        draw, made = random.Random(seed), []
        for number in range(count):
            at = START + timedelta(minutes=number)
            request = self.decider.decisions.check(
                features(draw), f"user-{number}", f"d{seed}-{number}", at, baseline
            )
            made.append(self.decider.decide(request))
        self.write()
        return made

    def write(self, **changes: pl.Expr) -> None:
        """Write what was logged to the table of decisions, with *changes* to its columns."""
        payloads = [event.value for event in self.log.events]
        self.log.events.clear()
        frame = EventDecoder(self.loop, DECISIONS, self.store).decode(payloads).frame
        frame = frame.with_columns(
            pl.col("row").cast(pl.Int64).alias("offset"),
            pl.col("at").alias("ingested_at"),
            pl.lit("t").alias("topic"),
            pl.lit(0, pl.Int32).alias("partition"),
        )
        table = self.lake.table(self.loop.loop, DECISIONS)
        table.append(frame.drop("row").with_columns(**changes), swaps=[])


def version(loop: Loop, model: Trained, number: int) -> ModelVersion:
    """Return the record of *model* in the registry."""
    return ModelVersion(
        number=number,
        version=f"{model.learner}-{number}",
        at=START,
        learner=model.learner,
        loop_version=loop.version,
        policy_version=loop.policy.version,
        label_type=loop.label.type,
        promoted=True,
        sequence=number,
        reason="promoted: it earns more than the default",
        metrics={"log_loss": 0.4},
        snapshot=model.snapshot,
        labels=1_500,
        until=START,
        later_from=START,
        trained_on_rows=model.rows,
        base_rate=model.base_rate,
        seed=model.seed,
        wall_s=0.1,
        cpu_s=0.1,
        digest=payload_digest(model.payload),
        features=model.signature.to_json(),
    )

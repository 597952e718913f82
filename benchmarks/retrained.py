"""Whether this release trains and judges as the one that made a lake.

Each LightGBM model of the registry is trained again on its snapshot, and judged against the model
that was live then. Two runs of a demo cannot say it: when a trainer looks depends on the load of
the machine, so they train on other snapshots.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.sql.datasets import training_set
from tidemill.schemas.models.manifest import payload_digest
from tidemill.trainers.evaluation.evaluation_sets import EvaluationSets
from tidemill.trainers.evaluation.gate import judge
from tidemill.trainers.learners.batch import LIGHTGBM, train
from tidemill.trainers.registry import ModelVersion, Registry
from tidemill.trainers.rows import LabeledRows, split


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrained:
    """A model of the registry beside the same one of this release."""

    model: ModelVersion
    is_same: bool
    """Whether the payloads are equal, byte for byte."""
    reason: str

    @property
    def is_judged_alike(self) -> bool:
        """Whether the gate says the same sentence, with the same figures."""
        return self.reason == self.model.reason


class _EarlierRegistry(Registry):
    """The registry as it was before the version *number*."""

    def __init__(self, lake: Lake, loop_name: str, number: int) -> None:
        super().__init__(lake, loop_name)
        self._models = [one for one in self._models if one.number < number]


def retrain(lake: Lake, loop_name: str) -> Iterator[Retrained]:
    """Yield each LightGBM model of a loop whose label depends on the world, trained again."""
    loop = lake.loop(loop_name)
    batch = loop.models.batch
    if batch is None or loop.scores_actions or loop.decision.items is not None:
        raise SystemExit(f"{loop_name} has no batch learner, or its label depends on the action")
    for model in Registry(lake, loop_name).models():
        if model.learner == LIGHTGBM:
            rows = LabeledRows.of(training_set(lake, loop, version=model.snapshot), loop)
            earlier, later = split(rows, batch.holdout, loop.wait + loop.grace)
            trained = train(earlier, loop, batch)
            registry = _EarlierRegistry(lake, loop_name, model.number)
            sets = EvaluationSets(loop, lake, registry, None)
            verdict = judge(loop, sets.of_batch(trained, later, model.version))
            is_same = payload_digest(trained.payload) == model.digest
            yield Retrained(model=model, is_same=is_same, reason=verdict.reason)


def main(root: str, loop_name: str) -> int:
    """Print a line for each model; return 1 if one differs."""
    found = list(retrain(Lake(LakeConfig(root=root)), loop_name))
    for each in found:
        digest = "same model" if each.is_same else "another model"
        judged = "same verdict" if each.is_judged_alike else f"then: {each.model.reason}"
        print(f"{each.model.version}: {digest}, {judged}; {each.reason}")
    return int(not found or any(not (each.is_same and each.is_judged_alike) for each in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))

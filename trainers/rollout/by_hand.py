"""What a person changes by hand: promote, roll back, pin, freeze and release.

It needs the lake and the topic, and no trainer. A change is recorded first. If a trainer or another
person changes something meanwhile, the request is looked at again where the loop stands then.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from tidemill.errors import RequestError
from tidemill.features.lake.lake import Lake
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.manifest import DEFAULT, utc_now
from tidemill.trainers.registry import ModelVersion, Registry
from tidemill.trainers.rollout.evidence import newest_decision
from tidemill.trainers.rollout.slots import adopt
from tidemill.trainers.rollout.stages import ChangedTo, StageChange, Standing


class ByHand:
    """The changes that a person makes to the models of one loop.

    Args:
        loop: the newest version of the loop that the lake has.
        lake: where its models are.
        who: the person, as the records will name them.
        clock: the present time, which is recorded.
    """

    def __init__(
        self, loop: Loop, lake: Lake, *, who: str, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._loop, self._lake, self._who, self._clock = loop, lake, who, clock
        self.registry = Registry(lake, loop.loop)
        adopt(self.registry)

    def promote(self, version: str, why: str) -> StageChange | None:
        """Let *version* decide from now on, whatever stage it is in.

        Returns:
            The change; None if it is live already.

        Raises:
            RequestError: there is no such version.
            ModelError: workers would refuse it.
            LakeError: the lake does not answer.
        """
        model = self._fit(version)
        return self._change(lambda now: self._live(now, model, version, why))

    def roll_back(self, version: str | None, why: str) -> StageChange | None:
        """Let *version* decide again; by default the one that was live before the live one.

        Returns:
            The change; None if it is live already.

        Raises:
            RequestError: there is no such version, or none was live before.
            ModelError: workers would refuse it.
            LakeError: the lake does not answer.
        """
        return self.promote(self._before() if version is None else version, why)

    def pin(self, version: str | None, why: str) -> StageChange | None:
        """Let *version* decide, by default the live one, and let nobody but people change that.

        The loop goes on to train and to judge.

        Raises:
            RequestError: there is no such version.
            ModelError: workers would refuse it.
            LakeError: the lake does not answer.
        """
        model = None if version is None else self._fit(version)

        def decide(now: Standing) -> StageChange | None:
            moved = None if model is None else self._live(now, model, str(version), why)
            return self._hold(now, why, pinned=True, frozen=now.is_frozen, moved=moved)

        return self._change(decide)

    def freeze(self, why: str) -> StageChange | None:
        """Let nothing change and nothing be trained.

        Raises:
            LakeError: the lake does not answer.
        """
        return self._change(lambda now: self._hold(now, why, pinned=True, frozen=True))

    def release(self, why: str) -> StageChange | None:
        """Let the trainer train and change stages again.

        Raises:
            LakeError: the lake does not answer.
        """
        return self._change(lambda now: self._hold(now, why, pinned=False, frozen=False))

    def _change(self, decide: Callable[[Standing], StageChange | None]) -> StageChange | None:
        return self.registry.stages.change(decide)

    def _live(
        self, now: Standing, model: ModelVersion, version: str, why: str
    ) -> StageChange | None:
        """Return the change by which *model* is live; None if it is."""
        if now.live is not None and now.live.version == version:
            return None
        return self._made(now, "live", model.number, version, why)

    def _hold(
        self,
        now: Standing,
        why: str,
        *,
        pinned: bool,
        frozen: bool,
        moved: StageChange | None = None,
    ) -> StageChange | None:
        """Return the change of what holds, together with a model that is *moved*."""
        if moved is None:
            if (now.is_pinned, now.is_frozen) == (pinned, frozen):
                return None
            live = now.live
            number, version = (live.model, live.version) if live else (0, DEFAULT)
            moved = self._made(now, "held", number, version, why)
        return replace(moved, pinned=pinned, frozen=frozen)

    def _made(
        self, now: Standing, stage: ChangedTo, number: int, version: str, why: str
    ) -> StageChange:
        change = now.next(stage, at=self._clock(), model=number, version=version, why=why)
        return replace(change, who=self._who, since=newest_decision(self._lake, self._loop))

    def _before(self) -> str:
        """Return the version that was live before the live one."""
        versions = [each.version for each in self.registry.stages.standing.lives]
        before = [each for each in versions if each != versions[-1]]
        if not before:
            raise RequestError(
                f"{self._loop.loop} had no other live model before",
                hint=f"name a version, or {DEFAULT} to let the default decide; see tidemill model "
                f"list {self._loop.loop}",
            )
        return before[-1]

    def _fit(self, version: str) -> ModelVersion:
        """Return the model *version*, which workers can serve; for the default, the live one."""
        models = self.registry.models()
        if version == DEFAULT:
            found = self.registry.live() or (models[-1] if models else None)
        else:
            found = next((one for one in models if one.version == version), None)
        if found is None:
            known = ", ".join(one.version for one in models[-20:]) or "none"
            raise RequestError(
                f"{self._loop.loop} has no model {version!r}; it has {known}",
                hint=f"see tidemill model list {self._loop.loop}",
            )
        if version != DEFAULT and found.learner != DEFAULT:
            found.check_fit(self._loop)
        return found

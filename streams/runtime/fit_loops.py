"""Which loops a worker can run. Each is examined alone, so one that is unfit costs no other.

A loop is fit if its topics have its number of partitions, its label compiles, and the lake takes
its columns. Of a loop whose newest version is unfit the last fit one is run, unless that would read
events of the newer one: then the loop is refused. `WorkerHealth` says all that to operators.
"""

import logging
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from tidemill.errors import BrokerError, ContractError, LakeError, TidemillError
from tidemill.features.lake.lake import Lake
from tidemill.kafka import BadRecords, KafkaConfig, partition_counts
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import Published, joined_topics, unpublished, versions
from tidemill.schemas.registry.choose import SchemaStore
from tidemill.streams.join.labels import LabelEngine
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.runtime.prepared_loop import PreparedLoop

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 60.0
LAST_PAUSE_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedLoop:
    """A version of a loop that a worker does not run, and why; 0 if there is no version."""

    loop: str
    version: int
    error: TidemillError

    def __str__(self) -> str:
        return f"version {self.version} of {self.loop} is refused: {self.error}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppedLoop:
    """A loop that a worker has stopped while it ran.

    Attributes:
        version: the version it ran.
        error: why.
        pause_s: how long to wait before this version is tried again; None for ever.
        at_s: when it was stopped.
    """

    version: int
    error: ContractError | LakeError
    pause_s: float | None
    at_s: float

    @classmethod
    def by_its_error(
        cls, version: int, error: ContractError | LakeError, before: "StoppedLoop | None"
    ) -> "StoppedLoop":
        """Return a loop stopped by *error*; it is tried again after a pause, each time a longer."""
        last_s = before.pause_s if before is not None and before.version == version else None
        pause_s = FIRST_PAUSE_S if last_s is None else min(2 * last_s, LAST_PAUSE_S)
        return cls(version=version, error=error, pause_s=pause_s, at_s=time.monotonic())

    @classmethod
    def by_newer_events(cls, loop: Loop) -> "StoppedLoop":
        """Return *loop* stopped by events of a newer version, which it must not read."""
        error = ContractError(
            f"events of a newer version of {loop.loop} than {loop.version} were read, and no newer "
            "version can be run",
            hint="look at the records of that loop on the topic of loops, and publish it again",
        )
        return cls(version=loop.version, error=error, pause_s=None, at_s=time.monotonic())

    @property
    def is_due(self) -> bool:
        """Whether the same version may be tried again."""
        return self.pause_s is not None and time.monotonic() >= self.at_s + self.pause_s

    def excludes(self, version: int) -> bool:
        """Return whether *version* must not be run now."""
        return version <= self.version and not self.is_due


@dataclass(frozen=True, slots=True, kw_only=True)
class FitLoops:
    """The loops that can be run, and what is refused."""

    prepared: Sequence[PreparedLoop]
    refused: Mapping[str, RefusedLoop]

    @property
    def running(self) -> dict[str, int]:
        """The version to run of each loop that can be run."""
        return {each.loop.loop: each.loop.version for each in self.prepared}


TopicCounts = Mapping[str, int | None]
"""The number of partitions of each topic, None for one that is not there."""


@dataclass(frozen=True, slots=True)
class LoopExaminer:
    """Examines loops against the brokers, the schemas and the lake that a worker uses."""

    kafka: KafkaConfig
    lake: Lake
    store: SchemaStore
    engine: LabelEngine  # of the labels of all loops
    before: Mapping[str, PreparedLoop] = field(default_factory=dict)  # by name, to be used again

    def examine(
        self, published: Published, names: Collection[str], stopped: Mapping[str, StoppedLoop]
    ) -> FitLoops:
        """Return which of the loops *names* can be run; see `FitLoops`.

        Raises:
            BrokerError: the brokers do not answer.
            LakeError: the lake refuses all of them.
        """
        prepared: list[PreparedLoop] = []
        refused: dict[str, RefusedLoop] = {}
        counts = self._counts(published, names)
        for name in names:
            fit, refusal = self._choose(published, name, stopped.get(name), counts)
            if fit is not None:
                prepared.append(fit)
            if refusal is not None:
                refused[name] = refusal
        errors = [each.error for each in refused.values()]
        if errors and not prepared and all(isinstance(error, LakeError) for error in errors):
            raise errors[0]
        return FitLoops(prepared=prepared, refused=refused)

    def is_any_mended(
        self, published: Published, fit: FitLoops, stopped: Mapping[str, StoppedLoop]
    ) -> bool:
        """Return whether a version that was refused can be run by now.

        Raises:
            BrokerError: the brokers do not answer.
        """
        counts = self._counts(published, fit.refused) if fit.refused else {}
        for name in fit.refused:
            again, _ = self._choose(published, name, stopped.get(name), counts)
            if again is not None and again.loop.version > fit.running.get(name, 0):
                return True
        return False

    def _counts(self, published: Published, names: Collection[str]) -> TopicCounts:
        """Return the partitions of all topics of the loops *names*, in one request for all."""
        loops = [loop for (name, _version), loop in published.items() if name in names]
        wanted = {topic for loop in loops for topic in joined_topics(loop).values()}
        return partition_counts(self.kafka, wanted)

    def _choose(
        self,
        published: Published,
        name: str,
        stopped: StoppedLoop | None,
        counts: TopicCounts,
    ) -> tuple[PreparedLoop | None, RefusedLoop | None]:
        """Return the newest version of *name* that can be run, and the newest if it cannot be."""
        known = versions(published, name)
        refusal: RefusedLoop | None = None
        for version in sorted(known, reverse=True):
            if stopped is not None and stopped.excludes(version):
                excluded = RefusedLoop(loop=name, version=version, error=stopped.error)
                return None, refusal or excluded
            found = self._examined(known[version], counts)
            if isinstance(found, PreparedLoop):
                return found, refusal
            refusal = refusal or found
            if isinstance(found.error, LakeError) or self._has_run(known[version]):
                break
        return None, refusal or RefusedLoop(
            loop=name, version=0, error=unpublished(published, name)
        )

    def _examined(self, loop: Loop, counts: TopicCounts) -> PreparedLoop | RefusedLoop:
        """Return *loop* prepared for work, with its tables, or why it cannot be run."""
        error: TidemillError
        known = self.before.get(loop.loop)
        try:
            check_partitions(loop, counts)
            if known is not None and known.loop == loop:
                return known
            prepared = PreparedLoop.of(loop, self.store, self.engine)
            self.lake.create(loop)
        except BrokerError:
            raise
        except TidemillError as refused:
            error = refused
        except Exception as failed:  # whatever a definition does to its examination, others go on
            logger.exception("version %d of %s could not be examined", loop.version, loop.loop)
            error = ContractError(
                f"{type(failed).__name__} at its examination", hint="please report this"
            )
        else:
            return prepared
        return RefusedLoop(loop=loop.loop, version=loop.version, error=error)

    def _has_run(self, loop: Loop) -> bool:
        """Return whether the lake has rows of *loop*, or may have: an older one must not follow."""
        try:
            return self.lake.newest_number(loop.loop) >= loop.version
        except LakeError:
            return True


def check_partitions(loop: Loop, counts: TopicCounts) -> None:
    """Check that the topics of *loop* are there, with its number of partitions.

    Raises:
        ContractError: one is missing, or has another number.
    """
    own = {topic: counts[topic] for topic in joined_topics(loop).values()}
    if set(own.values()) == {loop.partitions}:
        return
    actual = ", ".join(f"{topic} has {count or 'none'}" for topic, count in own.items())
    raise ContractError(
        f"loop {loop.loop} has {loop.partitions} partitions, but {actual}",
        hint="a decision and its feedback must share a partition: recreate these topics "
        "with that number, or publish the loop under a new name, with rekey: true if its "
        "feedback has other keys or another number of partitions",
    )


class WorkerHealth:
    """What a worker runs and refuses, as its health page and its metrics say it."""

    def __init__(self, metrics: StreamMetrics, bad: BadRecords) -> None:
        self._metrics = metrics
        self._bad = bad
        self._fit = FitLoops(prepared=(), refused={})

    def show(self, fit: FitLoops) -> None:
        """Say *fit* from now on."""
        self._fit = fit
        self._metrics.refused.clear()
        for name in {*fit.running, *fit.refused}:
            self._metrics.refused.labels(name).set(float(name in fit.refused))

    def page(self) -> dict[str, object]:
        """Return the page as plain values."""
        fit = self._fit
        return {
            "pid": os.getpid(),
            "status": "refuses loops" if fit.refused else "ok",
            "running": fit.running,
            "refused": {
                name: {"version": each.version, "what": each.error.what, "hint": each.error.hint}
                for name, each in fit.refused.items()
            },
            "bad_records": [asdict(each) for each in self._bad.all()],
        }

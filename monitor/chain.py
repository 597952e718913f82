"""How fresh each link of a loop is: decisions, feedback, examples, model, workers.

It is read from outside: from the ends of the topics, the newest commit of `examples`, and the
acknowledgements of the workers.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from tidemill.errors import ModelError
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.features.lake.progress_keys import FRONTIER
from tidemill.kafka import Record
from tidemill.schemas.control import FleetBeat, TrainerBeat
from tidemill.schemas.logs import DECISIONS, is_feedback
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.manifest import LIVE, Ack
from tidemill.schemas.published import joined_topics
from tidemill.schemas.record_signature import Attested

_SKEW_S = 600.0  # clocks differ; a time far ahead would be the newest for ever


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """The links of one loop; ages in seconds, None where there is nothing yet.

    Attributes:
        decision_age_s: since the broker stored the newest decision.
        feedback_age_s: since the broker stored the newest feedback of any stream.
        example_age_s: since the newest commit of examples.
        closed_until: all decisions before this event time are examples, in every partition.
        model: the newest version a worker serves.
        model_age_s: since the last worker swapped it in.
        serving: workers that serve it.
        workers: workers that ever acknowledged a model of the loop.
        refused: workers that refused the last model they acknowledged.
        trainer_age_s: since the last heartbeat of a trainer; None if there never was one.
        backlog: commits of examples that its trainer had not looked at.
        unverified: what workers or the trainer said is not all signed by a key that is trusted
            here, so anybody who may write to the topics can have made it up.
        verdict: the gate's sentence on the last model.
        retired: who has retired the loop and why; empty while it is in use.
    """

    loop: str
    decision_age_s: float | None
    feedback_age_s: float | None
    example_age_s: float | None
    closed_until: datetime | None
    model: str | None
    model_age_s: float | None
    serving: int
    workers: int
    refused: int
    trainer_age_s: float | None = None
    backlog: int | None = None
    unverified: bool = False
    verdict: str | None = None
    retired: str = ""

    def to_json(self) -> dict[str, object]:
        """Return all of it as plain values."""
        until = self.closed_until.isoformat() if self.closed_until else None
        return asdict(self) | {"closed_until": until}


def read_chain(
    loop: Loop,
    lake: Lake,
    newest: Mapping[str, int | None],
    acks: Iterable[Attested[Ack]],
    *,
    now_s: float | None = None,
) -> Chain:
    """Return the chain of *loop*; *acks* may hold those of other loops.

    Args:
        loop: the newest version of the loop.
        lake: where its examples are.
        newest: when the newest record of each topic was stored, in ms, of its topics at least.
        acks: what workers said.
        now_s: the time now.

    Raises:
        LakeError: the lake does not answer.
    """
    now = time.time() if now_s is None else now_s
    by_log = joined_topics(loop)
    decision = _age(newest[by_log[DECISIONS]], now)
    feedback = (_age(newest[topic], now) for log, topic in by_log.items() if is_feedback(log))
    example, until = _examples(lake, loop, now)
    said = [each for each in acks if each.value.loop == loop.loop and each.value.slot == LIVE]
    mine = [each.value for each in said]
    served = [ack for ack in mine if ack.status == "serving"]
    latest = max(served, key=lambda ack: ack.at, default=None)
    with_latest = [ack for ack in served if latest and ack.version == latest.version]
    return Chain(
        loop=loop.loop,
        decision_age_s=decision,
        feedback_age_s=min((age for age in feedback if age is not None), default=None),
        example_age_s=example,
        closed_until=until,
        model=latest.version if latest else None,
        model_age_s=now - latest.at.timestamp() if latest else None,
        serving=len(with_latest),
        workers=len(mine),
        refused=sum(ack.status == "refused" for ack in mine),
        unverified=not all(each.is_verified for each in said),
        retired=loop.retired,
    )


def with_trainer(
    chain: Chain,
    lake: Lake,
    beats: Iterable[Attested[TrainerBeat] | Attested[FleetBeat]],
    *,
    now_s: float | None = None,
) -> Chain:
    """Return *chain* with what the heartbeats of its trainer tell; *beats* are of all loops.

    A trainer of many loops says that it is alive for all of them together.

    Raises:
        LakeError: the lake does not answer.
    """
    now = time.time() if now_s is None else now_s
    ours = [each for each in beats if _is_about(each.value, chain.loop)]
    if not ours or chain.retired:  # of a retired loop none is expected
        return chain
    chain = replace(
        chain,
        trainer_age_s=min(max(0.0, now - each.value.at.timestamp()) for each in ours),
        unverified=chain.unverified or not all(each.is_verified for each in ours),
    )
    beat = next((each.value for each in ours if isinstance(each.value, TrainerBeat)), None)
    if beat is None:
        return chain
    newest = lake.table(chain.loop, EXAMPLES).version()
    return replace(
        chain,
        backlog=max(0, newest - max(beat.examples, 0)),
        verdict=f"{beat.version}: {beat.reason}" if beat.version else None,
    )


def _is_about(beat: TrainerBeat | FleetBeat, loop: str) -> bool:
    return beat.loop == loop if isinstance(beat, TrainerBeat) else loop in beat.loops


def parse_ack(record: Record) -> Ack:
    """Return the acknowledgement of *record*.

    Raises:
        ModelError: it is none, or one of another worker or loop than its key says, or of a time
            after its record.
    """
    ack = Ack.from_json(record.value or b"")
    if record.timestamp_ms > 0 and ack.at.timestamp() > record.timestamp_ms / 1000 + _SKEW_S:
        raise ModelError(
            "an acknowledgement of a time after its record", hint="set the clock of that worker"
        )
    if record.key != ack.key:
        raise ModelError(
            "an acknowledgement under another key", hint="look at who can write to this topic"
        )
    return ack


def _examples(lake: Lake, loop: Loop, now: float) -> tuple[float | None, datetime | None]:
    """Return the age of the newest commit of examples and the slowest partition's frontier."""
    if not lake.has_table(loop.loop, EXAMPLES):
        return None, None
    examples = lake.table(loop.loop, EXAMPLES)
    found = examples.progress(FRONTIER.key(number) for number in range(loop.partitions))
    frontiers = [frontier for frontier in found.values() if frontier is not None]
    if not frontiers:
        return None, None
    return _age(examples.committed_ms(), now), datetime.fromtimestamp(min(frontiers) / 1e6, UTC)


def _age(at_ms: int | None, now: float) -> float | None:
    return None if at_ms is None else max(0.0, now - at_ms / 1000)

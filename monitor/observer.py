"""Observes the loops again and again: lag, freshness of each link, and the ledger.

The observer needs only DESCRIBE and READ on Kafka, and reads the lake.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeVar

from tidemill.errors import LakeError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.kafka import BadRecord, BadRecords, CompactedLog, KafkaConfig, LogFollower
from tidemill.monitor.chain import Chain, parse_ack, read_chain, with_trainer
from tidemill.monitor.lag import GroupLag, LagReader
from tidemill.monitor.ledger import Account, ledger
from tidemill.schemas import topics
from tidemill.schemas.control import TrainerBeat, parse_control
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.manifest import Ack
from tidemill.schemas.published import (
    LoopTopic,
    check_unchanged,
    newest,
    parse_loop,
    unpublished,
    versions,
)
from tidemill.schemas.registry.kafka import parse_schema

V = TypeVar("V")

WATCHED = (topics.LOOPS, topics.ACKS, topics.SCHEMAS, topics.CONTROL)
"""The shared topics whose records are examined. Those of the model topic are by the workers, which
have the keys: a chain counts who refused."""

_CONTROL_RECORDS = 10_000  # each commit writes one, so the topic may be long


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorConfig:
    """What to observe, and where to serve it."""

    kafka: KafkaConfig
    lake: LakeConfig
    loops: Sequence[str] = ()  # empty: every published loop
    host: str = "127.0.0.1"  # it is read without credentials, so only from this machine
    port: int = 8790
    every_s: float = 5.0
    ledger_every_s: float = 60.0  # it reads all tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One reading of everything; *problem* says why nothing could be read, or is None.

    *unread* says by loop why this one could not be, and *bad_records* are the records of the shared
    topics that everybody passes over.
    """

    read_at_s: float = 0.0
    chains: Sequence[Chain] = ()
    lags: Sequence[GroupLag] = ()
    accounts: Sequence[Account] = ()
    unread: Mapping[str, str] = field(default_factory=dict)
    bad_records: Sequence[BadRecord] = ()
    problem: str | None = "nothing has been read yet"

    def to_json(self) -> dict[str, object]:
        """Return the status as plain values."""
        return {
            "read_at_s": self.read_at_s,
            "problem": self.problem,
            "unread": dict(self.unread),
            "bad_records": [asdict(bad) for bad in self.bad_records],
            "loops": [chain.to_json() for chain in self.chains],
            "groups": [
                {"group": lag.group, "members": lag.members, "messages": lag.messages}
                | {"seconds": round(lag.seconds, 3), "lost": lag.lost}
                for lag in self.lags
            ],
            "ledger": [account.to_json() for account in self.accounts],
        }


class Observer:
    """Reads one `Status` after another, and the ledger, which reads all tables, less often.

    Of the shared topics it reads each time only what is new.
    """

    def __init__(self, config: MonitorConfig) -> None:
        self._config = config
        self._lake = Lake(config.lake)
        self._reader = LagReader(config.kafka)
        self._bad = BadRecords()
        self._loops = LogFollower(config.kafka, topics.LOOPS, parse_loop, check_unchanged)
        self._acks = LogFollower(config.kafka, topics.ACKS, parse_ack)
        self._schemas = LogFollower(config.kafka, topics.SCHEMAS, parse_schema)
        self._control = LogFollower(
            config.kafka, topics.CONTROL, parse_control, newest=_CONTROL_RECORDS
        )
        self._beats: list[TrainerBeat] = []
        self._accounts: dict[str, list[Account]] = {}
        self._ledger_due_s = 0.0

    def read(self) -> Status:
        """Return the status of now.

        Raises:
            TidemillError: Kafka does not answer, or the lake for none of the loops.
        """
        published = LoopTopic.of(self._followed(topics.LOOPS, self._loops)).loops
        acks = self._followed(topics.ACKS, self._acks).values
        self._followed(topics.SCHEMAS, self._schemas)
        control = self._followed(topics.CONTROL, self._control).values
        self._beats = [each for each in control if isinstance(each, TrainerBeat)]
        names = self._config.loops or sorted({name for name, _ in published})
        known = [newest(published, name) for name in names if versions(published, name)]
        unread = {
            name: unpublished(published, name).what
            for name in names
            if not versions(published, name)
        }
        chains = self._chains(known, acks, unread)
        return Status(
            read_at_s=time.time(),
            chains=chains,
            lags=self._reader.read(),
            accounts=[row for loop in known for row in self._accounts.get(loop.loop, ())],
            unread=unread,
            bad_records=self._bad.all(),
            problem=None,
        )

    def _chains(
        self, loops: Sequence[Loop], acks: Sequence[Ack], unread: dict[str, str]
    ) -> list[Chain]:
        """Return the chains of *loops*, and count their records if that is due.

        A loop whose tables cannot be read is added to *unread*, unless that is so for all.
        """
        is_ledger_due = time.monotonic() >= self._ledger_due_s
        chains: list[Chain] = []
        failures: list[LakeError] = []
        for loop in loops:
            try:
                chain = read_chain(loop, self._lake, self._reader, acks)
                chain = with_trainer(chain, self._lake, self._beats)
                if is_ledger_due:
                    self._accounts[loop.loop] = list(self._account(loop))
            except LakeError as error:
                failures.append(error)
                unread[loop.loop] = error.what
            else:
                chains.append(chain)
        if failures and not chains:
            raise failures[0]
        if is_ledger_due:
            self._ledger_due_s = time.monotonic() + self._config.ledger_every_s
        return chains

    def close(self) -> None:
        """Disconnect from the shared topics."""
        for follower in (self._loops, self._acks, self._schemas, self._control):
            follower.close()

    def _followed(self, topic: str, follower: LogFollower[V]) -> CompactedLog[V]:
        log = follower.read()
        self._bad.report(topic, log.bad)
        return log

    def _account(self, loop: Loop) -> Iterable[Account]:
        return ledger(self._lake, loop) if self._lake.has_table(loop.loop, EXAMPLES) else ()

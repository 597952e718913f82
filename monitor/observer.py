"""Observes the loops again and again: lag, freshness of each link, and the ledger.

The observer needs only DESCRIBE and READ on Kafka, and reads the lake.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.kafka import KafkaConfig
from tidemill.monitor.chain import Chain, read_acks, read_chain
from tidemill.monitor.lag import GroupLag, LagReader
from tidemill.monitor.ledger import Account, ledger
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import fetch_loops, newest


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
    """One reading of everything; *problem* says what could not be read, or is None."""

    read_at_s: float = 0.0
    chains: Sequence[Chain] = ()
    lags: Sequence[GroupLag] = ()
    accounts: Sequence[Account] = ()
    problem: str | None = "nothing has been read yet"

    def to_json(self) -> dict[str, object]:
        """Return the status as plain values."""
        return {
            "read_at_s": self.read_at_s,
            "problem": self.problem,
            "loops": [chain.to_json() for chain in self.chains],
            "groups": [
                {"group": lag.group, "members": lag.members, "messages": lag.messages}
                | {"seconds": round(lag.seconds, 3), "lost": lag.lost}
                for lag in self.lags
            ],
            "ledger": [account.to_json() for account in self.accounts],
        }


class Observer:
    """Reads one `Status` after another, and the ledger, which reads all tables, less often."""

    def __init__(self, config: MonitorConfig) -> None:
        self._config = config
        self._lake = Lake(config.lake)
        self._reader = LagReader(config.kafka)
        self._accounts: list[Account] = []
        self._ledger_due_s = 0.0

    def read(self) -> Status:
        """Return the status of now.

        Raises:
            TidemillError: Kafka or the lake does not answer.
        """
        loops = self._loops()
        acks = read_acks(self._config.kafka)
        chains = [read_chain(loop, self._lake, self._reader, acks) for loop in loops]
        lags = self._reader.read()
        if time.monotonic() >= self._ledger_due_s:
            self._accounts = [row for loop in loops for row in self._account(loop)]
            self._ledger_due_s = time.monotonic() + self._config.ledger_every_s
        return Status(
            read_at_s=time.time(), chains=chains, lags=lags, accounts=self._accounts, problem=None
        )

    def _loops(self) -> list[Loop]:
        published = fetch_loops(self._config.kafka)
        names = self._config.loops or sorted({name for name, _ in published})
        return [newest(published, name) for name in names]

    def _account(self, loop: Loop) -> Iterable[Account]:
        return ledger(self._lake, loop) if self._lake.has_table(loop.loop, EXAMPLES) else ()

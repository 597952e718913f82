"""Observes the loops again and again: lag, freshness of each link, and the ledger.

The observer needs only DESCRIBE and READ on Kafka, and reads the lake. Its three readings are
independent: what can still be read is shown while the rest cannot.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from tidemill.errors import BrokerError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.kafka import KafkaConfig
from tidemill.kafka.outage import is_away
from tidemill.monitor.chain import Chain, read_acks, read_chain
from tidemill.monitor.lag import GroupLag, LagReader
from tidemill.monitor.ledger import Account, ledger
from tidemill.monitor.readings import Reading
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
    """The last reading of everything."""

    chains: Reading[Sequence[Chain]] = field(default_factory=lambda: Reading(name="loops"))
    lags: Reading[Sequence[GroupLag]] = field(default_factory=lambda: Reading(name="lag"))
    accounts: Reading[Sequence[Account]] = field(default_factory=lambda: Reading(name="ledger"))

    @classmethod
    def before(cls, config: MonitorConfig) -> Self:
        """Return the status before the first reading."""
        good_s = 10.0 + 2 * config.every_s
        return cls(
            chains=Reading(name="loops", good_s=good_s),
            lags=Reading(name="lag", good_s=good_s),
            accounts=Reading(name="ledger", good_s=good_s + 2 * config.ledger_every_s),
        )

    def as_of(self, now_s: float) -> "Status":
        """Return it as it is worth at *now_s*: without what is too old."""
        return Status(
            chains=self.chains.as_of(now_s),
            lags=self.lags.as_of(now_s),
            accounts=self.accounts.as_of(now_s),
        )

    @property
    def readings(self) -> tuple[Reading[Sequence[object]], ...]:
        """All of them."""
        return self.chains, self.lags, self.accounts  # type: ignore[return-value]  # only read

    @property
    def problem(self) -> str | None:
        """What could not be read, and why; None if all was."""
        texts = [f"{each.name}: {each.problem}" for each in self.readings if each.problem]
        return "\n".join(texts) or None

    def to_json(self) -> dict[str, object]:
        """Return the status as plain values."""
        now_s = time.time()
        return {
            "read_at_s": min(each.at_s for each in self.readings),
            "problem": self.problem,
            "readings": {
                each.name: {"age_s": round(each.age_s(now_s), 3), "problem": each.problem}
                for each in self.readings
            },
            "loops": [chain.to_json() for chain in self.chains.value or ()],
            "groups": [
                {"group": lag.group, "members": lag.members, "messages": lag.messages}
                | {"seconds": round(lag.seconds, 3), "lost": lag.lost}
                | {"open_txn": lag.open_txn, "ahead": lag.ahead}
                for lag in self.lags.value or ()
            ],
            "ledger": [account.to_json() for account in self.accounts.value or ()],
        }


class Observer:
    """Makes one `Status` after another; the ledger, which reads all tables, less often."""

    def __init__(self, config: MonitorConfig) -> None:
        self._config = config
        self._lake = Lake(config.lake)
        self._reader = LagReader(config.kafka)
        self._loops: list[Loop] = []  # as last read: the ledger needs no Kafka
        self._ledger_due_s = 0.0

    def read(self, last: Status) -> Status:
        """Return the status of now; *last* is the one before.

        A reading that fails is in the status, with its problem.
        """
        lags = last.lags.again(self._reader.read)
        is_known_away = lags.failures > 0 and is_away(self._config.kafka)  # then ask no more
        chains = last.chains.again(self._no_chains if is_known_away else self._chains)
        accounts = last.accounts
        if time.monotonic() >= self._ledger_due_s and (self._loops or not chains.problem):
            accounts = accounts.again(self._accounts)
            self._ledger_due_s = time.monotonic() + self._config.ledger_every_s
        return Status(chains=chains, lags=lags, accounts=accounts)

    def _chains(self) -> list[Chain]:
        published = fetch_loops(self._config.kafka)
        names = self._config.loops or sorted({name for name, _ in published})
        self._loops = [newest(published, name) for name in names]
        acks = read_acks(self._config.kafka)
        return [read_chain(loop, self._lake, self._reader, acks) for loop in self._loops]

    def _no_chains(self) -> list[Chain]:
        raise BrokerError(
            f"{self._config.kafka.bootstrap} does not answer", hint="see the problem of the lag"
        )

    def _accounts(self) -> list[Account]:
        kept = (loop for loop in self._loops if self._lake.has_table(loop.loop, EXAMPLES))
        return [account for loop in kept for account in ledger(self._lake, loop)]

    def close(self) -> None:
        """Disconnect."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

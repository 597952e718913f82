"""Observes the loops again and again: lag, freshness of each link, and the ledger.

The observer needs only DESCRIBE and READ on Kafka, and reads the lake. What can still be read is
shown while the rest cannot, for each kind of reading and for each loop.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Self, TypeVar

import duckdb

from tidemill.errors import BrokerError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.features.sql.views import open_duckdb
from tidemill.http_server.listener import HttpConfig
from tidemill.kafka import (
    BadRecord,
    BadRecords,
    CompactedLog,
    KafkaConfig,
    LogFollower,
    Record,
    partition_counts,
)
from tidemill.kafka.outage import is_away
from tidemill.monitor.chain import Chain, parse_ack, read_chain, with_trainer
from tidemill.monitor.lag import GroupLag, LagReader
from tidemill.monitor.ledger import Account, ledger
from tidemill.monitor.readings import LoopRows, Reading
from tidemill.schemas import topics
from tidemill.schemas.control import MOST_MESSAGES, FleetBeat, TrainerBeat, parse_control
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.models.manifest import Ack, check_record
from tidemill.schemas.models.signing import TrustedKeys
from tidemill.schemas.published import (
    LoopTopic,
    check_unchanged,
    joined_topics,
    newest,
    parse_loop,
    unpublished,
    versions,
)
from tidemill.schemas.record_signature import Attested, attested, check_attested
from tidemill.schemas.registry.kafka import parse_schema
from tidemill.schemas.rules.rule_record import loop_of_key, parse_rules

V = TypeVar("V")

PORT = 8790

WATCHED = (topics.LOOPS, topics.ACKS, topics.SCHEMAS, topics.CONTROL, topics.MODELS)
"""The shared topics whose records are examined. The signatures of models are examined by the
workers, which have the keys: a chain counts who refused."""

_ACKS = 10_000  # one for each worker and loop


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorConfig:
    """What to observe, and where to serve it."""

    kafka: KafkaConfig
    lake: LakeConfig
    loops: Sequence[str] = ()  # empty: every published loop
    http: HttpConfig = field(default_factory=lambda: HttpConfig(port=PORT))
    every_s: float = 5.0
    ledger_every_s: float = 60.0  # it reads all tables
    trusted: TrustedKeys | None = None  # whose signatures are taken for verified; None: nobody's
    ack_age: timedelta = timedelta(days=90)  # what a worker said before then is forgotten


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The last reading of everything; `bad_records` are those that everybody passes over."""

    bad_records: Reading[Sequence[BadRecord]] = field(
        default_factory=lambda: Reading(name="topics")
    )
    chains: Reading[LoopRows[Chain]] = field(default_factory=lambda: Reading(name="loops"))
    lags: Reading[Sequence[GroupLag]] = field(default_factory=lambda: Reading(name="lag"))
    accounts: Reading[LoopRows[Account]] = field(default_factory=lambda: Reading(name="ledger"))

    @classmethod
    def before(cls, config: MonitorConfig) -> Self:
        """Return the status before the first reading."""
        good_s = 10.0 + 2 * config.every_s
        return cls(
            bad_records=Reading(name="topics", good_s=good_s),
            chains=Reading(name="loops", good_s=good_s),
            lags=Reading(name="lag", good_s=good_s),
            accounts=Reading(name="ledger", good_s=good_s + 2 * config.ledger_every_s),
        )

    def as_of(self, now_s: float) -> "Status":
        """Return it as it is worth at *now_s*: without what is too old."""
        return Status(
            bad_records=self.bad_records.as_of(now_s),
            chains=self.chains.as_of(now_s),
            lags=self.lags.as_of(now_s),
            accounts=self.accounts.as_of(now_s),
        )

    @property
    def readings(self) -> tuple[Reading[object], ...]:
        """All of them."""
        return self.bad_records, self.chains, self.lags, self.accounts  # type: ignore[return-value]  # only read

    @property
    def problem(self) -> str | None:
        """What could not be read, and why; None if all was, at least of some loops."""
        texts = [f"{each.name}: {each.problem}" for each in self.readings if each.problem]
        return "\n".join(texts) or None

    @property
    def unread(self) -> Mapping[str, str]:
        """Why a loop could not be read, by its name, while others could."""
        read = [each.value for each in (self.accounts, self.chains) if each.value is not None]
        return {name: why for rows in read for name, why in rows.unread.items()}

    def to_json(self) -> dict[str, object]:
        """Return the status as plain values."""
        now_s = time.time()
        chains, accounts = self.chains.value, self.accounts.value
        return {
            "read_at_s": min(each.at_s for each in self.readings),
            "problem": self.problem,
            "readings": {
                each.name: {"age_s": round(each.age_s(now_s), 3), "problem": each.problem}
                for each in self.readings
            },
            "unread": dict(self.unread),
            "bad_records": [asdict(bad) for bad in self.bad_records.value or ()],
            "loops": [chain.to_json() for chain in chains.rows] if chains else [],
            "groups": [
                {"group": lag.group, "members": lag.members, "messages": lag.messages}
                | {"seconds": round(lag.seconds, 3), "lost": lag.lost}
                | {"open_txn": lag.open_txn, "ahead": lag.ahead}
                for lag in self.lags.value or ()
            ],
            "ledger": [account.to_json() for account in accounts.rows] if accounts else [],
        }


def _check_model_record(record: Record) -> None:
    if loop_of_key(record.key) is not None:
        parse_rules(record.key, record.value or b"")
    else:
        check_record(record.key, record.value or b"")  # its value is large, and not kept


class Observer:
    """Makes one `Status` after another; the ledger, which reads all tables, less often.

    Of the shared topics it reads each time only what is new.
    """

    def __init__(self, config: MonitorConfig) -> None:
        self._config = config
        self._lake = Lake(config.lake)
        self._reader = LagReader(config.kafka)
        self._bad = BadRecords()
        self._loops = LogFollower(config.kafka, topics.LOOPS, parse_loop, check_unchanged)
        self._acks = LogFollower(
            config.kafka,
            topics.ACKS,
            attested(parse_ack, config.trusted),
            check_attested,
            most=_ACKS,
            is_weak=lambda ack: not ack.is_verified,
        )
        self._schemas = LogFollower(config.kafka, topics.SCHEMAS, parse_schema)
        self._control = LogFollower(
            config.kafka,
            topics.CONTROL,
            attested(lambda record: parse_control(record, config.trusted), config.trusted),
            check_attested,
            newest=MOST_MESSAGES,  # each commit writes one, so the topic may be long
            most=MOST_MESSAGES,
            is_weak=lambda message: not message.is_verified,
        )
        self._models = LogFollower(config.kafka, topics.MODELS, _check_model_record)
        self._known: list[Loop] = []  # as last read: the ledger needs no Kafka
        self._unpublished: dict[str, str] = {}
        self._said: Sequence[Attested[Ack]] = ()
        self._beats: Sequence[Attested[TrainerBeat] | Attested[FleetBeat]] = ()
        self._ledger_due_s = 0.0

    def read(self, last: Status) -> Status:
        """Return the status of now; *last* is the one before.

        A reading that fails is in the status, with its problem.
        """
        lags = last.lags.again(self._reader.read)
        is_known_away = lags.failures > 0 and is_away(self._config.kafka)  # then ask no more
        bad_records = last.bad_records.again(self._no_answer if is_known_away else self._shared)
        chains = last.chains.again(lambda: self._chains(bad_records))
        accounts = last.accounts
        if time.monotonic() >= self._ledger_due_s and (self._known or not bad_records.problem):
            accounts = accounts.again(self._accounts)
            self._ledger_due_s = time.monotonic() + self._config.ledger_every_s
        lags = replace(lags, value=self._of_used_loops(lags.value))
        return Status(bad_records=bad_records, chains=chains, lags=lags, accounts=accounts)

    def _of_used_loops(self, lags: Sequence[GroupLag] | None) -> Sequence[GroupLag] | None:
        """Return *lags* without the topics of retired loops: nobody is to read those."""
        retired = [loop for loop in self._known if loop.retired]
        left = {topic for loop in retired for topic in joined_topics(loop).values()}
        return [each.without(left) for each in lags] if lags is not None and left else lags

    def _no_answer(self) -> Sequence[BadRecord]:
        raise BrokerError(
            f"{self._config.kafka.bootstrap} does not answer", hint="see the problem of the lag"
        )

    def _shared(self) -> Sequence[BadRecord]:
        """Read what is new on the shared topics; return the bad records."""
        published = LoopTopic.of(self._followed(topics.LOOPS, self._loops)).loops
        oldest_ms = (time.time() - self._config.ack_age.total_seconds()) * 1000
        acks = self._followed(topics.ACKS, self._acks).values
        self._said = [each for each in acks if each.written_ms >= oldest_ms]
        self._followed(topics.SCHEMAS, self._schemas)
        self._followed(topics.MODELS, self._models)
        control = self._followed(topics.CONTROL, self._control).values
        self._beats = [each for each in control if isinstance(each.value, TrainerBeat | FleetBeat)]  # type: ignore[misc]  # a check of the part tells no type of the whole
        names = self._config.loops or sorted({name for name, _ in published})
        self._known = [newest(published, name) for name in names if versions(published, name)]
        self._unpublished = {
            name: unpublished(published, name).what
            for name in names
            if not versions(published, name)
        }
        return self._bad.all()

    def _missing_topics(self, loops: Sequence[Loop]) -> dict[str, str]:
        """Return a topic that is missing, by loop: librdkafka would refuse to answer for all."""
        names = {loop.loop: [*joined_topics(loop).values()] for loop in loops}
        counts = partition_counts(
            self._config.kafka, [topic for topics_ in names.values() for topic in topics_]
        )
        return {
            loop: topic
            for loop, topics_ in names.items()
            for topic in topics_
            if counts[topic] is None
        }

    def _followed(self, topic: str, follower: LogFollower[V]) -> CompactedLog[V]:
        log = follower.read()
        self._bad.report(topic, log.bad)
        return log

    def _chains(self, shared: Reading[Sequence[BadRecord]]) -> LoopRows[Chain]:
        if shared.problem is not None:
            raise BrokerError(
                "there are no loops and acknowledgements without the shared topics",
                hint="see why these could not be read",
            )
        missing = self._missing_topics(self._known)
        here = [loop for loop in self._known if loop.loop not in missing]
        partitions = {
            topic: loop.partitions for loop in here for topic in joined_topics(loop).values()
        }
        newest = self._reader.newest_ms(partitions)  # one request for all of them
        read = LoopRows.of(here, lambda loop: [self._chain(loop, newest)])
        homeless = {name: f"there is no topic {topic}" for name, topic in missing.items()}
        return replace(read, unread={**self._unpublished, **homeless, **read.unread})

    def _chain(self, loop: Loop, newest: Mapping[str, int | None]) -> Chain:
        chain = read_chain(loop, self._lake, newest, self._said)
        return with_trainer(chain, self._lake, self._beats)

    def _accounts(self) -> LoopRows[Account]:
        with open_duckdb() as connection:
            return LoopRows.of(self._known, lambda loop: self._account(loop, connection))

    def _account(self, loop: Loop, connection: duckdb.DuckDBPyConnection) -> Iterable[Account]:
        if not self._lake.has_table(loop.loop, EXAMPLES):
            return ()
        return ledger(self._lake, loop, connection=connection)

    def close(self) -> None:
        """Disconnect."""
        self._reader.close()
        for follower in (self._loops, self._acks, self._schemas, self._control, self._models):
            follower.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

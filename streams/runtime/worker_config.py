"""The settings of a streams worker, from the environment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Self

from tidemill.errors import ConfigError
from tidemill.features.lake.lake import LakeConfig
from tidemill.kafka import KafkaConfig
from tidemill.metrics_page import MetricsPage
from tidemill.schemas.models.signing import TrustedKeys
from tidemill.streams.runtime.audits import EVERY_S
from tidemill.streams.runtime.commit_schedule import Cadence
from tidemill.streams.state.spill_files import spill_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamsWorkerConfig:
    """The settings of a streams worker."""

    kafka: KafkaConfig
    lake: LakeConfig
    loops: Sequence[str] = ()  # none: every loop that is published when it starts
    group: str | None = None  # None: that of `group_name` in `worker`
    metrics: MetricsPage | None = None
    cadence: Cadence = field(default_factory=Cadence)
    session_timeout_s: float = 10.0
    fetch_records: int = 8_000
    accept_bad: datetime | None = None  # what came until then does not count for `max_bad`
    audit_s: float = EVERY_S  # how often the worker audits the windows it closed; 0: never
    trusted: TrustedKeys | None = None  # who may have windows closed; None: everybody
    scratch: Path = field(default_factory=lambda: spill_folder({}))  # on a local disk
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # for the schema store

    @classmethod
    def from_env(cls, env: Mapping[str, str], loops: Sequence[str] = ()) -> Self:
        """Read KAFKA_*, TIDEMILL_LAKE and, if set, the settings below.

        TIDEMILL_METRICS_PORT, TIDEMILL_METRICS_HOST, TIDEMILL_GROUP, TIDEMILL_COMMIT_S,
        TIDEMILL_COMMIT_ROWS, TIDEMILL_COMMIT_SHARE, TIDEMILL_COMMIT_LONGEST_S, TIDEMILL_PATIENCE_S,
        TIDEMILL_SESSION_TIMEOUT_S, TIDEMILL_FETCH_RECORDS, TIDEMILL_ACCEPT_BAD,
        TIDEMILL_AUDIT_S, TIDEMILL_SCRATCH, TIDEMILL_TRUSTED_KEYS.

        Raises:
            ConfigError: a setting is missing or no number.
        """
        plain = cls(
            kafka=KafkaConfig.from_env(env), lake=LakeConfig.from_env(env), loops=tuple(loops)
        )
        default = plain.cadence
        return replace(
            plain,
            group=env.get("TIDEMILL_GROUP"),
            metrics=MetricsPage.asked(env),
            cadence=Cadence(
                every_s=_number(env, "TIDEMILL_COMMIT_S", default.every_s),
                rows=int(_number(env, "TIDEMILL_COMMIT_ROWS", default.rows)),
                share=_number(env, "TIDEMILL_COMMIT_SHARE", default.share),
                longest_s=_number(env, "TIDEMILL_COMMIT_LONGEST_S", default.longest_s),
                patience_s=_number(env, "TIDEMILL_PATIENCE_S", default.patience_s),
            ),
            session_timeout_s=_number(env, "TIDEMILL_SESSION_TIMEOUT_S", plain.session_timeout_s),
            fetch_records=int(_number(env, "TIDEMILL_FETCH_RECORDS", plain.fetch_records)),
            accept_bad=_time(env, "TIDEMILL_ACCEPT_BAD"),
            audit_s=_number(env, "TIDEMILL_AUDIT_S", plain.audit_s),
            trusted=TrustedKeys.if_set(env),
            scratch=spill_folder(env),
            env=dict(env),
        )


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name)
    try:
        return float(text) if text else default
    except ValueError:
        raise ConfigError(f"{name} is {text!r}, no number", hint=f"say {default:g}") from None


def _time(env: Mapping[str, str], name: str) -> datetime | None:
    text = env.get(name)
    if not text:
        return None
    hint = "write it with its zone: 2026-01-31T12:00:00Z"
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{name} is {text!r}, no time", hint=hint) from None
    if time.tzinfo is None:
        raise ConfigError(f"{name} is {text!r}, which could be anywhere", hint=hint)
    return time


def group_name(loops: Sequence[str]) -> str:
    """Return the consumer group of a worker that was asked for *loops*; none is all of them.

    It does not depend on how many loops are published or refused, or the lag of a group would grow
    for ever from the next loop on. Workers for other loops are in another group.
    """
    return f"tidemill-{'+'.join(sorted(set(loops)))}" if loops else "tidemill-streams"

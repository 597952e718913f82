"""The settings of a process that trains many loops, and what memory it takes a training to need."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Self
from zlib import crc32

from tidemill.errors import ConfigError
from tidemill.features.lake.compaction import MANY_FILES
from tidemill.features.lake.lake import LakeConfig
from tidemill.kafka import KafkaConfig
from tidemill.metrics_page import MetricsPage
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.sizes import format_size, parse_size
from tidemill.schemas.models.signing import SigningKey

GROUP = "tidemill.trainers"
_POLL_S, _OPEN_LOOPS, _SHARE, _MEMORY = 60.0, 64, 1.0, 2_000_000_000
_COPIES = 4  # of each number at the peak: a million rows of 16 features took 475 to 800 MB
_PLAIN = 4  # columns besides the features


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetConfig:
    """What a process trains for many loops, and within which budget."""

    kafka: KafkaConfig
    lake: LakeConfig
    key: SigningKey
    loops: Collection[str] = ()  # only these; empty: all that are published
    once: bool = False  # train each loop on the examples there are, then end
    metrics: MetricsPage | None = None
    poll_s: float = _POLL_S  # between two cheap looks at a loop that no message has woken
    slice_s: float = 0.5  # how long one loop learns online while others wait
    open_loops: int = _OPEN_LOOPS  # cycles that stay in memory: each holds learner and history
    batch_share: float = _SHARE  # of the time of one core, for training in batch
    memory_bytes: int = _MEMORY  # that one training in batch may be estimated to need
    tidy_every_s: float = 300.0
    tidy_files: int = MANY_FILES

    def __post_init__(self) -> None:
        for name, value in (("poll_s", self.poll_s), ("slice_s", self.slice_s)):
            if value <= 0:
                raise ConfigError(f"{name} is {value}", hint="set it above zero")
        if not 0 < self.batch_share <= 1:
            raise ConfigError(
                f"TIDEMILL_TRAINER_SHARE is {self.batch_share}",
                hint="set it above 0 and at most to 1, which is the default",
            )
        if self.open_loops < 1:
            raise ConfigError(
                f"TIDEMILL_TRAINER_OPEN_LOOPS is {self.open_loops}", hint="set it to 1 or more"
            )

    @classmethod
    def from_env(
        cls, env: Mapping[str, str], loops: Collection[str] = (), *, once: bool = False
    ) -> Self:
        """Read KAFKA_*, TIDEMILL_LAKE, TIDEMILL_SIGNING_KEY and TIDEMILL_TRAINER_*.

        Raises:
            ConfigError: a setting is missing or wrong.
        """
        return cls(
            kafka=KafkaConfig.from_env(env),
            lake=LakeConfig.from_env(env),
            key=SigningKey.from_env(env),
            loops=loops,
            once=once,
            metrics=MetricsPage.asked(env),
            poll_s=_number(env, "TIDEMILL_TRAINER_POLL_S", _POLL_S),
            open_loops=int(_number(env, "TIDEMILL_TRAINER_OPEN_LOOPS", _OPEN_LOOPS)),
            batch_share=_number(env, "TIDEMILL_TRAINER_SHARE", _SHARE),
            memory_bytes=_size(env, "TIDEMILL_TRAINER_MEMORY", _MEMORY),
        )

    @property
    def group(self) -> str:
        """The consumer group of the processes that share these loops."""
        if not self.loops:
            return GROUP
        return f"{GROUP}.{crc32(' '.join(sorted(self.loops)).encode()):08x}"

    def check_memory(self, loop: Loop, labels: int) -> None:
        """Do nothing if a training on *labels* rows of *loop* fits into the memory budget.

        Raises:
            ConfigError: it does not.
        """
        needed = labels * (len(loop.features) + _PLAIN) * 8 * _COPIES
        if needed > self.memory_bytes:
            raise ConfigError(
                f"training {loop.loop} on {labels:,} labels takes about {_told(needed)}, more than "
                f"the {_told(self.memory_bytes)} of this trainer",
                hint="raise TIDEMILL_TRAINER_MEMORY, or give the loop a trainer of its own: "
                f"tidemill train {loop.loop}",
            )


def _told(size: int) -> str:
    return format_size(max(1, round(size, -6)) if size > 10**6 else size)


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(env.get(name) or default)
    except ValueError as error:
        raise ConfigError(f"{name} is {env[name]!r}", hint="set it to a number") from error


def _size(env: Mapping[str, str], name: str, default: int) -> int:
    try:
        return parse_size(env[name]) if env.get(name) else default
    except ValueError as error:
        raise ConfigError(f"{name}: {error}", hint="set it to a size, say 2GB") from error

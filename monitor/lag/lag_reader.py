"""Reads the lag again and again, for hours, through outages of the brokers."""

from collections.abc import Mapping
from functools import partial
from typing import Self

from tidemill.errors import RequestError
from tidemill.kafka import ANSWER_S, ChildProcess, KafkaConfig
from tidemill.kafka.outage import LOOK_S
from tidemill.monitor.lag.group_lag import GroupLag
from tidemill.monitor.lag.reading import LagReading


class LagReader:
    """Reads the lag from one cluster, in a child process that stays for repeated readings.

    It takes DESCRIBE on groups and topics. Where READ is granted too, transaction markers are told
    from records, and times that go back are seen.
    """

    def __init__(self, config: KafkaConfig, *, timeout_s: float = ANSWER_S) -> None:
        self._config = config
        self._child = ChildProcess(
            partial(LagReading, config, timeout_s),
            what=f"the lag could not be read at {config.bootstrap}",
            timeout_s=2 * timeout_s + LOOK_S,
        )

    def read(self, group: str | None = None) -> list[GroupLag]:
        """Return the lag of *group*, or of every group that has offsets or members.

        Raises:
            BrokerError: no answer in time, or a missing permission.
            RequestError: there is no such group.
        """
        found = self._child.call(LagReading.read, group)
        if group is not None and not found:
            raise RequestError(
                f"there is no consumer group {group} at {self._config.bootstrap}",
                hint="`tidemill lag` without a name lists all groups",
            )
        return found

    def newest_ms(self, partitions: Mapping[str, int]) -> dict[str, int | None]:
        """Return the time of the newest record of each topic, in ms of the broker; None if empty.

        Args:
            partitions: how many partitions each topic has.

        Raises:
            BrokerError: no answer in time.
        """
        return self._child.call(LagReading.newest_ms, dict(partitions))

    @property
    def child_pid(self) -> int | None:
        """The process id of the child, if there is one."""
        return self._child.pid

    def close(self) -> None:
        """End the child process; the next reading starts another one."""
        self._child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

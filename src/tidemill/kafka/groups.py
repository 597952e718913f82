"""Consumer groups: be a member that is given partitions, remove a group that nobody joins again."""

import logging

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from tidemill.errors import RequestError, TidemillError
from tidemill.kafka.config import ANSWER_S, KafkaConfig, client_log
from tidemill.kafka.outage import broker_errors

logger = logging.getLogger(__name__)

_SESSION_S = 10.0  # after so long without a sign of life, others get the partitions of a member
_IDLE_FETCH_MS = 10_000  # nothing is ever read


class GroupMember:
    """A member of *group* that is given partitions of *topic*, and commits no offsets.

    It is for a topic without records, whose partitions stand for a share of some work. `poll` has
    to be called again and again. Not thread-safe.
    """

    def __init__(self, config: KafkaConfig, topic: str, group: str) -> None:
        settings = config.client(
            group_id=group,
            session_timeout_ms=int(_SESSION_S * 1000),
            heartbeat_interval_ms=int(_SESSION_S * 1000) // 4,
            partition_assignment_strategy="cooperative-sticky",  # the others go on meanwhile
            enable_auto_commit=False,
            auto_offset_reset="latest",
            fetch_wait_max_ms=_IDLE_FETCH_MS,
        )
        self._config, self._topic = config, topic
        self._consumer = Consumer(settings, logger=client_log)
        self._consumer.subscribe([topic])

    def poll(self, timeout_s: float) -> frozenset[int]:
        """Return the partitions that are this member's, after at most *timeout_s*.

        Raises:
            BrokerError: the broker refuses permanently, say because a right is missing.
        """
        with broker_errors(self._config, f"{self._topic} could not be shared", self._consumer):
            message = self._consumer.poll(timeout_s)
            error = message.error() if message is not None else None
            if error is not None and not error.retriable():
                raise KafkaException(error)
            return frozenset(each.partition for each in self._consumer.assignment())

    def close(self) -> None:
        """Leave the group: others get the partitions at once."""
        self._consumer.close()


def delete_group(config: KafkaConfig, group: str, *, timeout_s: float = ANSWER_S) -> None:
    """Remove *group* with its offsets.

    Raises:
        BrokerError: the broker does not answer, or a right is missing.
        RequestError: there is no such group, or it has members.
    """
    admin = AdminClient(config.client(), logger=client_log)
    with broker_errors(config, f"group {group} could not be removed", admin):
        for removed in admin.delete_consumer_groups([group], request_timeout=timeout_s).values():
            try:
                removed.result(timeout_s + 1)
            except KafkaException as error:
                raise _refusal(config, group, error) from error


def _refusal(config: KafkaConfig, group: str, error: KafkaException) -> Exception:
    match error.args[0].code():
        case KafkaError.NON_EMPTY_GROUP:
            return RequestError(
                f"group {group} has members, so it is read",
                hint="stop them first; `tidemill lag` shows how many there are",
            )
        case KafkaError.GROUP_ID_NOT_FOUND:
            return RequestError(
                f"there is no consumer group {group} at {config.bootstrap}",
                hint="`tidemill lag` without a name lists all groups",
            )
    return error


def forget_group(config: KafkaConfig, group: str, *, timeout_s: float = ANSWER_S) -> None:
    """Remove *group* if that can be done now; else it expires days later."""
    try:
        delete_group(config, group, timeout_s=timeout_s)
    except TidemillError as error:
        logger.info("group %s stays until it expires: %s", group, error.what)

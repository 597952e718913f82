"""Consumer groups: remove one that no consumer will join again."""

import logging

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from tidemill.errors import RequestError, TidemillError
from tidemill.kafka.config import ANSWER_S, KafkaConfig, client_log
from tidemill.kafka.outage import broker_errors

logger = logging.getLogger(__name__)


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

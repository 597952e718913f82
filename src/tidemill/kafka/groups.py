"""Consumer groups: remove one that no consumer will join again."""

import logging

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tidemill.kafka.config import KafkaConfig, client_log

logger = logging.getLogger(__name__)


def forget_group(config: KafkaConfig, group: str, *, timeout_s: float = 10.0) -> None:
    """Remove *group* with its offsets; one that cannot be removed now expires days later."""
    admin = AdminClient(config.client(), logger=client_log)
    try:
        for removed in admin.delete_consumer_groups([group], request_timeout=timeout_s).values():
            removed.result(timeout_s)
    except (KafkaException, TimeoutError) as error:
        logger.info("group %s stays until it expires: %s", group, error)

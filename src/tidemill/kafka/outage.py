"""Errors of Kafka as errors for people: why there is no answer, and what is not allowed."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException

from tidemill.errors import BrokerError
from tidemill.kafka.config import KafkaConfig, client_log

T = TypeVar("T")

logger = logging.getLogger(__name__)

_LONG_S = 60.0  # what lasted so long before it failed has worked meanwhile
LOOK_S = 1.0  # a login takes milliseconds, a refusal of one a tenth of a second
_UNANSWERED = {
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError._MSG_TIMED_OUT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError._SSL,
    KafkaError._AUTHENTICATION,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.SASL_AUTHENTICATION_FAILED,
}
_FORBIDDEN = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}
_LOGINS = {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}
_UP = (
    "is that broker up and reachable from here? --verbose shows each attempt; "
    "`tidemill kafka` starts a local one"
)


class Outages:
    """Lets a process that needs Kafka wait for it, instead of ending, at its start and later.

    Args:
        config: where it is.
        who: needs it, for the log.
        often: so many refusals in a row by brokers that do answer are no outage.
        pause_s: between two tries.
    """

    def __init__(
        self, config: KafkaConfig, who: str, *, often: int = 3, pause_s: float = 1.0
    ) -> None:
        self._config = config
        self._who = who
        self._often = often
        self._pause_s = pause_s

    def waited(self, work: Callable[[], T]) -> T:
        """Return what *work* does; do it again, once a broker answers, if an outage ended it.

        It has to be safe to repeat from its beginning. SIGTERM ends the process meanwhile.

        Raises:
            BrokerError: *work* raised it again and again, although brokers answered.
        """
        refusals, is_told = 0, False
        while True:
            started = time.monotonic()
            try:
                return work()
            except BrokerError as error:
                lasted_s = time.monotonic() - started
                refusals = 1 if lasted_s > _LONG_S else refusals + (not is_away(self._config))
                if refusals >= self._often:
                    raise
                log = logger.info if is_told else logger.warning
                log("%s waits for Kafka, and nothing is lost meanwhile: %s", self._who, error)
                is_told = True
            time.sleep(self._pause_s)


class Polled(Protocol):
    """A client that hands out what it has queued: messages of its log, errors of its connection."""

    def poll(self, timeout: float) -> object:
        """Hand out what is queued."""


@contextmanager
def broker_errors(config: KafkaConfig, what: str, client: Polled | None = None) -> Iterator[None]:
    """Turn an error of Kafka into a `BrokerError` that says *what* could not be done, and why.

    Messages that *client* has queued are logged first. Where there was no answer, the brokers are
    asked once more for the reason: a wrong password looks like a broker that is down.
    """
    try:
        yield
    except (KafkaException, TimeoutError) as error:
        if client is not None:
            client.poll(0)
        raise _broker_error(config, what, error) from error


def _broker_error(config: KafkaConfig, what: str, error: Exception) -> BrokerError:
    cause = error.args[0] if error.args and isinstance(error.args[0], KafkaError) else None
    reason = str(error) if cause is None else cause.str()
    hint = _UP
    if isinstance(error, TimeoutError) or (cause is not None and cause.code() in _UNANSWERED):
        reason, hint = why_away(config, reason)
    elif cause is not None and cause.code() in _FORBIDDEN:
        hint = f"give {_user(config)} the right that is missing, as a Kafka ACL"
    return BrokerError(f"{what} at {config.bootstrap}: {reason}", hint=hint)


def is_away(config: KafkaConfig) -> bool:
    """Return whether the brokers of *config* do not answer now; a refused login is an answer."""
    answers, heard = _look(config)
    return not answers and not _LOGINS & heard.keys()


def why_away(config: KafkaConfig, reason: str = "no answer") -> tuple[str, str]:
    """Ask the brokers of *config* once more; return why they do not answer, and a hint.

    Args:
        config: where they are.
        reason: what is told if nothing better is found out.
    """
    answers, heard = _look(config)
    if answers:
        return f"{reason}; it answers again", "try once more"
    for code in _LOGINS & heard.keys():
        return (
            f"the login of {_user(config)} is refused: {heard[code]}",
            "check KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD and KAFKA_SASL_MECHANISM",
        )
    if KafkaError._SSL in heard:
        hint = "check KAFKA_SECURITY_PROTOCOL and KAFKA_SSL_CA_LOCATION"
        return heard[KafkaError._SSL], hint
    if KafkaError._RESOLVE in heard:
        return heard[KafkaError._RESOLVE], "check the host names in KAFKA_BOOTSTRAP_SERVERS"
    if not heard:
        return f"it does not answer ({reason})", (
            "is that broker frozen, overloaded or behind a firewall, or does it want another "
            "KAFKA_SECURITY_PROTOCOL?"
        )
    return reason, _UP


def _look(config: KafkaConfig) -> tuple[bool, dict[int, str]]:
    """Return whether a broker answers within `LOOK_S`, and the errors of the connection by code."""
    heard: list[KafkaError] = []
    settings = config.client(group_id="tidemill-look")
    client = Consumer({**settings, "error_cb": heard.append}, logger=client_log)
    try:
        answers = bool(client.list_topics(timeout=LOOK_S).brokers)
    except KafkaException:
        answers = False
    client.poll(0)
    client.close()
    return answers, {error.code(): error.str() for error in heard}


def _user(config: KafkaConfig) -> str:
    name = config.options.get("sasl.username")
    return "the anonymous user" if name is None else f"the user {name}"

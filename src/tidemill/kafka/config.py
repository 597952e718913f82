"""The address of the brokers, and their errors as errors for people."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from tidemill.errors import BrokerError, ConfigError

Setting = str | int | float | bool

client_log = logging.getLogger("tidemill.librdkafka")
"""The logger of every librdkafka client, instead of stderr. librdkafka logs each failed attempt to
connect as an error, so the command line shows this logger only with --verbose."""

_ENV_OPTIONS = {
    "KAFKA_SECURITY_PROTOCOL": "security.protocol",
    "KAFKA_SASL_MECHANISM": "sasl.mechanism",
    "KAFKA_SASL_USERNAME": "sasl.username",
    "KAFKA_SASL_PASSWORD": "sasl.password",
    "KAFKA_SSL_CA_LOCATION": "ssl.ca.location",
}


@dataclass(frozen=True, slots=True)
class KafkaConfig:
    """The address of the brokers, and the librdkafka options needed to reach them."""

    bootstrap: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold a password

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Read KAFKA_BOOTSTRAP_SERVERS and, if set, KAFKA_SECURITY_PROTOCOL and KAFKA_SASL_*.

        Raises:
            ConfigError: KAFKA_BOOTSTRAP_SERVERS is missing or empty.
        """
        bootstrap = env.get("KAFKA_BOOTSTRAP_SERVERS", "").strip()
        if not bootstrap:
            raise ConfigError(
                "KAFKA_BOOTSTRAP_SERVERS is not set",
                hint="point it at a broker, say localhost:9092, or start one with: tidemill kafka",
            )
        options = {name: env[key] for key, name in _ENV_OPTIONS.items() if env.get(key)}
        return cls(bootstrap, options)

    def client(self, **extra: Setting) -> dict[str, Setting]:
        """Return a librdkafka configuration; ``_`` in a name of *extra* stands for ``.``."""
        named = {key.replace("_", "."): value for key, value in extra.items()}
        return {
            "bootstrap.servers": self.bootstrap,
            "reconnect.backoff.max.ms": 1000,  # reconnect within a second
            "log.connection.close": False,
            **self.options,
            **named,
        }


@contextmanager
def broker_errors(
    config: KafkaConfig, what: str, client: AdminClient | Consumer | None = None
) -> Iterator[None]:
    """Turn a `KafkaException` into a `BrokerError` that says *what* could not be done.

    Messages that *client* has queued, say that a password is wrong, are logged first.
    """
    try:
        yield
    except KafkaException as error:
        if client is not None:
            client.poll(0)
        reason = error.args[0].str() if isinstance(error.args[0], KafkaError) else str(error)
        raise BrokerError(
            f"{what} at {config.bootstrap}: {reason}",
            hint="is that broker up and reachable from here? --verbose shows each attempt; "
            "`tidemill kafka` starts a local one",
        ) from error

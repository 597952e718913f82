"""The address of the brokers, and the options of every client."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from tidemill.errors import ConfigError

Setting = str | int | float | bool

ANSWER_S = 5.0
"""How long to wait for the first answer of the brokers: every command answers within 10 s."""

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

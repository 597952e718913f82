"""The processes of loops on this machine: streams, serving, trainer, monitor."""

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

from tidemill.access import TlsConfig
from tidemill.deploy.local.kafka_settings import free_port, is_free
from tidemill.deploy.local.supervisor import Program, answers, tidemill_command
from tidemill.errors import ConfigError
from tidemill.kafka import KafkaConfig
from tidemill.schemas.models.signing import SIGNING_KEY, TRUSTED_KEYS, init_keys
from tidemill.serving.journal import JOURNAL

_ANSWER_S = 2.0  # pages are answered in milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The ports that the processes of one machine listen on."""

    worker_metrics: int
    servers: Sequence[int]
    monitor: int
    trainer_metrics: int

    @classmethod
    def from_first(cls, first: int, servers: int) -> "Ports":
        """Return ports from *first* on: those of servers, monitor, worker, and trainer."""
        last = first + servers
        return cls(
            worker_metrics=last + 1,
            servers=range(first, last),
            monitor=last,
            trainer_metrics=last + 2,
        )

    @classmethod
    def free(cls, servers: int) -> "Ports":
        """Return ports that nobody listens on now, and that no connection will be given."""
        found: list[int] = []
        while len(found) < servers + 3:
            port = free_port()
            if port not in found:
                found.append(port)
        return cls(
            worker_metrics=found[0],
            monitor=found[1],
            trainer_metrics=found[2],
            servers=found[3:],
        )

    def check_free(self) -> None:
        """Do nothing if nobody listens on any of them.

        Raises:
            ConfigError: somebody does.
        """
        ports = (*self.servers, self.monitor, self.worker_metrics, self.trainer_metrics)
        taken = [str(port) for port in ports if not is_free(port)]
        if taken:
            raise ConfigError(
                f"port {', '.join(taken)} is taken, maybe by another `tidemill up`",
                hint=f"stop that one, or name the first of {len(ports)} free ports with --port",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What runs, with which Kafka, lake, folder and ports."""

    kafka: KafkaConfig
    lake: str
    folder: Path
    ports: Ports
    loops: Sequence[str]  # published ones; empty: all, those published later too
    env: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def logs(self) -> Path:
        """The folder of the processes' log files."""
        return self.folder / "logs"

    @property
    def server_urls(self) -> list[str]:
        """The addresses of the serving workers."""
        return [f"{self._scheme}://127.0.0.1:{port}" for port in self.ports.servers]

    @property
    def monitor_url(self) -> str:
        """The address of the monitor's page."""
        return f"{self._scheme}://127.0.0.1:{self.ports.monitor}/status"

    @property
    def _scheme(self) -> str:
        return "http" if TlsConfig.from_env(self.env) is None else "https"

    @property
    def metrics_url(self) -> str:
        """The address of the streams worker's metrics."""
        return f"http://127.0.0.1:{self.ports.worker_metrics}/metrics"

    def keys(self) -> dict[str, str]:
        """Return the settings of the signing keys: those of `env`, else of a pair made once."""
        if self.env.get(SIGNING_KEY) and self.env.get(TRUSTED_KEYS):
            return {name: self.env[name] for name in (SIGNING_KEY, TRUSTED_KEYS)}
        folder = self.folder / "keys"
        if not folder.exists():
            init_keys(folder)
        private, public = _key_files(folder)
        return {SIGNING_KEY: str(private), TRUSTED_KEYS: str(public)}

    def programs(self) -> list[Program]:
        """Return the processes, in the order of their start."""
        shared = {
            JOURNAL: str(self.folder / "journal"),
            **self.env,
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap,
            "TIDEMILL_LAKE": self.lake,
            "PYTHONUNBUFFERED": "1",
            "POLARS_MAX_THREADS": "1",  # processes share the cores; more threads cost more
            **self.keys(),
        }
        return [self._streams(shared), *self._servers(shared), *self._trainer_and_monitor(shared)]

    def _streams(self, env: Mapping[str, str]) -> Program:
        port = str(self.ports.worker_metrics)
        return Program(
            name="worker",
            command=tidemill_command("worker", *self.loops, "--metrics-port", port),
            env=env,
            is_ready=partial(_answers, self.metrics_url),
            is_alive=partial(_answers, self.metrics_url),
            address=self.metrics_url,
        )

    def _servers(self, env: Mapping[str, str]) -> list[Program]:
        look = _Look.with_tls(self.env)
        return [
            Program(
                name=f"serve-{number}",
                command=tidemill_command(
                    "serve", *self.loops, "--port", str(port), "--name", f"serve-{number}"
                ),
                env=env,
                is_ready=partial(look.is_ready, url),
                is_alive=partial(look.is_alive, url),
                address=url,
            )
            for number, (port, url) in enumerate(
                zip(self.ports.servers, self.server_urls, strict=True), start=1
            )
        ]

    def _trainer_and_monitor(self, env: Mapping[str, str]) -> list[Program]:
        port = self.ports.trainer_metrics
        trainer = Program(
            name="train",
            command=tidemill_command("train", *self.loops, "--metrics-port", str(port)),
            env=env,
            is_alive=partial(_answers, f"http://127.0.0.1:{port}/metrics"),
        )
        look = _Look.with_tls(self.env)
        url = self.monitor_url.removesuffix("/status")
        monitor = Program(
            name="monitor",
            command=tidemill_command("monitor", *self.loops, "--port", str(self.ports.monitor)),
            env=env,
            is_ready=partial(look.is_ready, url),
            is_alive=partial(look.is_alive, url),
            address=self.monitor_url,
        )
        return [trainer, monitor]


def _answers(url: str, pid: int) -> bool:
    return answers(url, pid=pid, timeout_s=_ANSWER_S)


@dataclass(frozen=True, slots=True)
class _Look:
    """Looks at ``/readyz`` of a program, which needs no token."""

    tls: ssl.SSLContext | None

    @classmethod
    def with_tls(cls, env: Mapping[str, str]) -> Self:
        """Return one for programs with the settings *env*."""
        tls = TlsConfig.from_env(env)
        return cls(None if tls is None else tls.own_client())

    def is_ready(self, url: str, pid: int) -> bool:
        """Return whether the process *pid* answers at *url* and is ready."""
        return answers(f"{url}/readyz", pid=pid, tls=self.tls)

    def is_alive(self, url: str, pid: int) -> bool:
        """Return whether the process *pid* answers at *url*."""
        ready = f"{url}/readyz"
        return answers(ready, pid=pid, tls=self.tls, statuses=(200, 503), timeout_s=_ANSWER_S)


def _key_files(folder: Path) -> tuple[Path, Path]:
    return folder / "signing.key", folder / "trusted.keys"

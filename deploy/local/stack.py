"""The processes of loops on this machine: streams, serving, trainers, monitor."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tidemill.deploy.local.supervisor import Program, answers, tidemill_command
from tidemill.kafka import KafkaConfig
from tidemill.schemas.models.signing import SIGNING_KEY, TRUSTED_KEYS, init_keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The ports that the processes of one machine listen on."""

    worker_metrics: int
    servers: Sequence[int]
    monitor: int

    @classmethod
    def from_first(cls, first: int, servers: int) -> "Ports":
        """Return ports from *first* on: *servers* of them, then the monitor's and the metrics'."""
        last = first + servers
        return cls(worker_metrics=last + 1, servers=range(first, last), monitor=last)

    @classmethod
    def free(cls, servers: int) -> "Ports":
        """Return ports that nobody listens on now."""
        sockets = [socket.socket() for _ in range(servers + 2)]
        try:
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            found = [int(one.getsockname()[1]) for one in sockets]
        finally:
            for one in sockets:
                one.close()
        return cls(worker_metrics=found[0], servers=found[2:], monitor=found[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What runs, with which Kafka, lake, folder and ports."""

    kafka: KafkaConfig
    lake: str
    folder: Path
    ports: Ports
    loops: Sequence[str]  # published ones
    env: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def logs(self) -> Path:
        """The folder of the processes' log files."""
        return self.folder / "logs"

    @property
    def server_urls(self) -> list[str]:
        """The addresses of the serving workers."""
        return [f"http://127.0.0.1:{port}" for port in self.ports.servers]

    @property
    def monitor_url(self) -> str:
        """The address of the monitor's page."""
        return f"http://127.0.0.1:{self.ports.monitor}/status"

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
            **self.env,
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap,
            "TIDEMILL_LAKE": self.lake,
            "PYTHONUNBUFFERED": "1",
            "POLARS_MAX_THREADS": "1",  # processes share the cores; more threads cost more
            **self.keys(),
        }
        return [self._streams(shared), *self._servers(shared), *self._trainers_and_monitor(shared)]

    def _streams(self, env: Mapping[str, str]) -> Program:
        port = str(self.ports.worker_metrics)
        return Program(
            name="worker",
            command=tidemill_command("worker", *self.loops, "--metrics-port", port),
            env=env,
            is_ready=lambda: answers(self.metrics_url),
            address=self.metrics_url,
        )

    def _servers(self, env: Mapping[str, str]) -> list[Program]:
        return [
            Program(
                name=f"serve-{number}",
                command=tidemill_command(
                    "serve", *self.loops, "--port", str(port), "--name", f"serve-{number}"
                ),
                env=env,
                is_ready=lambda url=url: answers(f"{url}/readyz"),  # type: ignore[misc]  # bound now
                address=url,
            )
            for number, (port, url) in enumerate(
                zip(self.ports.servers, self.server_urls, strict=True), start=1
            )
        ]

    def _trainers_and_monitor(self, env: Mapping[str, str]) -> list[Program]:
        trainers = [
            Program(
                name="train" if len(self.loops) == 1 else f"train-{loop}",
                command=tidemill_command("train", loop),
                env=env,
            )
            for loop in self.loops
        ]
        monitor = Program(
            name="monitor",
            command=tidemill_command("monitor", *self.loops, "--port", str(self.ports.monitor)),
            env=env,
            is_ready=lambda: answers(self.monitor_url),
            address=self.monitor_url,
        )
        return [*trainers, monitor]


def _key_files(folder: Path) -> tuple[Path, Path]:
    return folder / "signing.key", folder / "trusted.keys"

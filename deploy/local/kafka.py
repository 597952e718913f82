"""A real Apache Kafka as a child process: one node, no Docker, no Java of the system.

`tidemill kafka`, the demo and the tests run it when no broker is given. `find_kafka` chooses
between a broker of the user's, one from Docker compose and this one.
"""

import contextlib
import logging
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tidemill.deploy.local.docker_kafka import docker_kafka
from tidemill.deploy.local.folder_lock import FolderLock
from tidemill.deploy.local.jars import cache_dir, fetch_jars, formatted_storage
from tidemill.deploy.local.kafka_settings import (
    JAVA_OPTIONS,
    LOGGING,
    SETTINGS,
    free_port,
    is_free,
    listeners,
    stored_ports,
)
from tidemill.deploy.local.patience import Patience
from tidemill.errors import BrokerError, ConfigError
from tidemill.kafka import ANSWER_S, KafkaConfig, client_log
from tidemill.kafka.outage import why_away
from tidemill.private_folder import PRIVATE, make_private

logger = logging.getLogger(__name__)

KAFKA_STOP_S = 8.0  # a stop in order takes 2 s; what is killed recovers at its next start

# Java has the process id of the shell; the subshell kills it when this process has ended (end of
# file).
_GUARDED = 'exec 3<&0; (read -r _ <&3 || kill -9 $$) & exec "$@" 3<&- </dev/null'


class EmbeddedKafka:
    """One Kafka broker on two ports of this machine, with its data in one directory.

    It ends with the process that started it, however that one ends. Its directory and its ports
    are its own as long as it runs; the ports stay the same whenever it is started in the same
    directory. `kill` and `suspend` are for tests of faults.
    """

    def __init__(
        self,
        *,
        cache: Path,
        data: Path | None = None,
        more: Callable[[int, int], str] = lambda _broker, _controller: "",
    ) -> None:
        """Prepare a broker with its data in *data*, or in a directory that `close` removes.

        *more* is for tests: given the two ports it returns more lines of settings, which override.
        """
        self._cache = cache
        self._temporary = data is None
        self.data = Path(tempfile.mkdtemp(prefix="tidemill-kafka-")) if data is None else data
        self._ports = stored_ports(self.data) or (free_port(), free_port())
        self._more = more
        self._lock = FolderLock(
            self.data,
            use="the data of a Kafka that runs",
            hint=f"use it: export KAFKA_BOOTSTRAP_SERVERS={self.config.bootstrap}; "
            "or name another folder",
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> KafkaConfig:
        """How clients reach it."""
        return KafkaConfig(f"127.0.0.1:{self._ports[0]}")

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, timeout_s: float = 90.0) -> None:
        """Start the broker and return when it answers; do nothing if it runs.

        A start may take long, say after a power cut: it goes on while the broker works on it.

        Raises:
            BrokerError: it cannot be downloaded, ends by itself, or neither answers nor works for
                *timeout_s*.
            ConfigError: its packages are missing, or its folder or ports are taken.
        """
        if self.running:
            return
        self._lock.take()
        try:
            command = self._prepare()
        except BaseException:
            self._lock.release()
            raise
        with (self.data / "kafka.log").open("ab") as output:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _GUARDED, "kafka", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this process alone, which stops the broker
            )
        try:
            self._wait_until_ready(Patience(self._process.pid, timeout_s))
        except BaseException:
            self.kill()
            raise

    def stop(self, *, timeout_s: float = KAFKA_STOP_S) -> None:
        """Stop it in order, or by force after *timeout_s*; `start` starts it again."""
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        self.kill()

    def close(self, *, timeout_s: float = KAFKA_STOP_S) -> None:
        """Stop it for good and remove its data if it chose the directory itself."""
        self.stop(timeout_s=timeout_s)
        if self._temporary:
            shutil.rmtree(self.data, ignore_errors=True)

    def kill(self) -> None:
        """End it at once, like a power cut (SIGKILL); `restart` starts it again."""
        if self._process is None:
            self._lock.release()
            return
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(b"\n")  # ends the subshell
                self._process.stdin.close()
        self._process = None
        self._lock.release()

    def restart(self, *, timeout_s: float = 90.0) -> None:
        """Start it again at the same address with the same data, after `kill` or while it runs."""
        self.kill()
        self.start(timeout_s=timeout_s)

    def suspend(self) -> None:
        """Freeze it (SIGSTOP) until `resume`: a broker that hangs."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue a frozen broker (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise ValueError("this Kafka is not running")
        self._process.send_signal(number)

    def _prepare(self) -> list[str]:
        for port in self._ports:
            if not is_free(port):
                raise ConfigError(
                    f"port {port}, where this Kafka was reached before, is taken",
                    hint="end the program that listens there; to get other ports, remove "
                    f"{self.data / 'server.properties'}",
                )
        jars = fetch_jars(self._cache)
        settings = SETTINGS + listeners(*self._ports)
        logs = self.data / "logs"
        make_private(self.data)
        if not logs.exists():
            shutil.copytree(formatted_storage(self._cache, jars, settings), logs)
            logs.chmod(PRIVATE)  # also in a folder that others may read
        properties = self.data / "server.properties"
        properties.write_text(f"{settings}{self._more(*self._ports)}log.dirs={logs}\n")
        logging_file = self.data / "log4j2.properties"
        logging_file.write_text(LOGGING)
        options = (*JAVA_OPTIONS, f"-Dlog4j2.configurationFile={logging_file}")
        return jars.command("kafka.Kafka", str(properties), options=options)

    def _wait_until_ready(self, patience: Patience) -> None:
        settings = self.config.client(reconnect_backoff_max_ms=200, socket_timeout_ms=2000)
        admin = AdminClient(
            {**settings, "log_level": 0}
        )  # a broker that is still starting is not worth a log line
        while not _answers(admin):
            if not self.running:
                raise self._failed("ended by itself")
            if patience.is_over(time.monotonic()):
                raise self._failed("did not answer in time")

    def _failed(self, how: str) -> BrokerError:
        written = (self.data / "kafka.log").read_text(errors="replace").strip()
        lines = [line for line in written.splitlines() if not line.startswith("\tat ")]
        last = "\n".join(lines[-5:])
        where = "" if self._temporary else f" in {self.data / 'kafka.log'}"
        return BrokerError(
            f"the embedded Kafka {how}; the last lines of its log{where}:\n{last}",
            hint="free memory or disk (it needs 512 MB), or set KAFKA_BOOTSTRAP_SERVERS",
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _answers(admin: AdminClient) -> bool:
    try:
        return bool(admin.list_topics(timeout=0.5).brokers)
    except KafkaException:
        return False


KafkaKind = Literal["env", "docker", "embedded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningKafka:
    """A Kafka that answers, which kind it is, and how many seconds it took to start."""

    kind: KafkaKind
    config: KafkaConfig
    start_s: float
    embedded: EmbeddedKafka | None = None

    def stop(self, *, timeout_s: float = KAFKA_STOP_S) -> None:
        """Stop an embedded broker; one of the user's or in Docker goes on."""
        if self.embedded is not None:
            self.embedded.close(timeout_s=timeout_s)


def find_kafka(
    env: Mapping[str, str], *, data: Path | None = None, patience_s: float = ANSWER_S
) -> RunningKafka:
    """Return the broker of KAFKA_BOOTSTRAP_SERVERS, else one from Docker compose, else our own.

    Args:
        env: the environment; TIDEMILL_CACHE and the Kafka settings are read.
        data: the directory of an embedded broker's data; None for a temporary one.
        patience_s: how long to wait for the broker of KAFKA_BOOTSTRAP_SERVERS.

    Raises:
        BrokerError: that broker does not answer, or no other can be started.
        ConfigError: the packages of the embedded one are missing.
    """
    started = time.monotonic()
    kind: KafkaKind = "embedded"
    embedded = None
    if env.get("KAFKA_BOOTSTRAP_SERVERS"):
        kind, config = "env", KafkaConfig.from_env(env)
        _expect_answer(config, patience_s)
    elif (found := docker_kafka()) is not None:
        kind, config = "docker", found
    else:
        embedded = EmbeddedKafka(cache=cache_dir(env), data=data)
        embedded.start()
        config = embedded.config
    took = time.monotonic() - started
    return RunningKafka(kind=kind, config=config, start_s=took, embedded=embedded)


def _expect_answer(config: KafkaConfig, patience_s: float) -> None:
    try:
        AdminClient(config.client(), logger=client_log).list_topics(timeout=patience_s)
    except KafkaException as error:
        reason, hint = why_away(config, error.args[0].str())
        raise BrokerError(
            f"the Kafka of KAFKA_BOOTSTRAP_SERVERS, {config.bootstrap}, does not answer: {reason}",
            hint=f"{hint}; or unset the variable to have one started for you",
        ) from error

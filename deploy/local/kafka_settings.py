"""The settings of the embedded Kafka: one KRaft node, small, on two ports of this machine."""

import contextlib
import random
import socket
from collections.abc import Mapping
from pathlib import Path

JAVA_OPTIONS = (
    "-Xmx512m",
    "-XX:+UseSerialGC",  # the broker shares the cores with its clients
    "-XX:TieredStopAtLevel=1",  # starts faster
    "-Xshare:auto",
    "-Djava.net.preferIPv4Stack=true",
)
SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
num.network.threads=2
num.io.threads=4
auto.create.topics.enable=false
log.message.timestamp.type=LogAppendTime
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=2
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
"""
_PORTS = (10_000, 32_000)
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_CHANCE = random.SystemRandom()  # processes with the same seed must not choose the same
LOGGING = """\
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %c: %m%n
rootLogger.level=WARN
rootLogger.appenderRef.out.ref=out
"""


def listeners(broker: int, controller: int) -> str:
    """Return the lines that bind the *broker* and *controller* ports."""
    return (
        f"listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}\n"
        f"advertised.listeners=PLAINTEXT://127.0.0.1:{broker}\n"
        f"controller.quorum.voters=1@127.0.0.1:{controller}\n"
    )


def proxied(broker: int, controller: int, behind: int, proxy: int) -> str:
    """Return the lines for one more listener, at *behind*, whose clients are sent to *proxy*.

    Clients connect to the address that a broker gives them, so the proxy needs a listener that
    gives its address. The lines come after those of `listeners` and override them.
    """
    return (
        f"listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller},"
        f"PROXIED://127.0.0.1:{behind}\n"
        f"advertised.listeners=PLAINTEXT://127.0.0.1:{broker},PROXIED://127.0.0.1:{proxy}\n"
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT\n"
    )


def with_logins(broker: int, controller: int, *, port: int, users: Mapping[str, str]) -> str:
    """Return the lines for one more listener, at *port*, where *users* log in by password.

    They may do what ACLs allow; who comes by the other listener is anonymous, and may do all.
    """
    known = " ".join(f'user_{name}="{password}"' for name, password in users.items())
    return (
        f"listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller},"
        f"LOGIN://127.0.0.1:{port}\n"
        f"advertised.listeners=PLAINTEXT://127.0.0.1:{broker},LOGIN://127.0.0.1:{port}\n"
        "listener.security.protocol.map="
        "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_PLAINTEXT\n"
        "sasl.enabled.mechanisms=PLAIN\n"
        "listener.name.login.plain.sasl.jaas.config="
        f"org.apache.kafka.common.security.plain.PlainLoginModule required {known};\n"
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n"
        "super.users=User:ANONYMOUS\n"
    )


def free_port() -> int:
    """Return a port nobody listens on now, outside those that this system gives to connections.

    Port 0 would name one of the latter, and a connection of anybody could take it before the
    listener does, or while a broker is away that has to come back to it.
    """
    first, last = ephemeral_ports()
    while True:
        port = _CHANCE.randrange(*_PORTS)
        if not first <= port <= last and is_free(port):
            return port


def ephemeral_ports() -> tuple[int, int]:
    """Return the first and the last port that this system gives to connections."""
    with contextlib.suppress(OSError, ValueError):
        first, last = _EPHEMERAL.read_text().split()
        if int(first) > _PORTS[0] or int(last) < _PORTS[1] - 1:  # else every port is one of them
            return int(first), int(last)
    return _PORTS[1], 65_535


def is_free(port: int) -> bool:
    """Return whether a listener could take *port* now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


def stored_ports(data: Path) -> tuple[int, int] | None:
    """Return the ports of the last run in *data*; None if there was none."""
    properties = data / "server.properties"
    if not properties.exists():
        return None
    lines = dict(line.split("=", 1) for line in properties.read_text().splitlines() if "=" in line)
    ports = [int(part.rsplit(":", 1)[1]) for part in lines["listeners"].split(",")]
    return ports[0], ports[1]

"""The settings of the embedded Kafka: one KRaft node, small, on two ports of this machine."""

import contextlib
import random
import socket
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


def free_port() -> int:
    """Return a port nobody listens on now, below those that systems give to connections.

    Port 0 would name one of the latter, and a connection of anybody could take it before the
    listener does, or while a broker is away that has to come back to it.
    """
    while True:
        port = _CHANCE.randrange(*_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def stored_ports(data: Path) -> tuple[int, int] | None:
    """Return the ports of the last run in *data*, if both are still free."""
    properties = data / "server.properties"
    if not properties.exists():
        return None
    lines = dict(line.split("=", 1) for line in properties.read_text().splitlines() if "=" in line)
    ports = [int(part.rsplit(":", 1)[1]) for part in lines["listeners"].split(",")]
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return None
    return ports[0], ports[1]

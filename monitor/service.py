"""The monitor as a process: reads lag, freshness and ledger again and again, and serves them.

`/metrics` for Prometheus, `/status` for people and programs, `/healthz` for supervisors. It needs
only DESCRIBE and READ on Kafka and reads the lake; what it cannot read it reports and tries again.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from tidemill.errors import TidemillError
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.kafka import KafkaConfig
from tidemill.monitor.chain import Chain, read_acks, read_chain
from tidemill.monitor.lag import GroupLag, LagReader
from tidemill.monitor.ledger import Account, ledger
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import fetch_loops, newest

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorConfig:
    """What to watch, and where to tell it."""

    kafka: KafkaConfig
    lake: LakeConfig
    loops: Sequence[str] = ()  # empty: every published loop
    host: str = "127.0.0.1"  # it needs no credentials to be read, so it stays on this machine
    port: int = 8790
    every_s: float = 5.0
    ledger_every_s: float = 60.0  # it reads all tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One reading of everything; *problem* says what could not be read, else it is None."""

    read_at_s: float = 0.0
    chains: Sequence[Chain] = ()
    lags: Sequence[GroupLag] = ()
    accounts: Sequence[Account] = ()
    problem: str | None = "nothing has been read yet"

    def to_json(self) -> dict[str, object]:
        """Return it as plain values."""
        return {
            "read_at_s": self.read_at_s,
            "problem": self.problem,
            "loops": [chain.to_json() for chain in self.chains],
            "groups": [
                {"group": lag.group, "members": lag.members, "messages": lag.messages}
                | {"seconds": round(lag.seconds, 3), "lost": lag.lost}
                for lag in self.lags
            ],
            "ledger": [account.to_json() for account in self.accounts],
        }


class Readings:
    """Reads one `Status` after another; the ledger, which reads all tables, less often."""

    def __init__(self, config: MonitorConfig) -> None:
        self._config = config
        self._lake = Lake(config.lake)
        self._reader = LagReader(config.kafka)
        self._accounts: list[Account] = []
        self._ledger_due_s = 0.0

    def read(self) -> Status:
        """Return what is so now.

        Raises:
            TidemillError: Kafka or the lake does not answer.
        """
        loops = self._loops()
        acks = read_acks(self._config.kafka)
        chains = [read_chain(loop, self._lake, self._reader, acks) for loop in loops]
        lags = self._reader.read()
        if time.monotonic() >= self._ledger_due_s:
            self._accounts = [row for loop in loops for row in self._account(loop)]
            self._ledger_due_s = time.monotonic() + self._config.ledger_every_s
        return Status(
            read_at_s=time.time(), chains=chains, lags=lags, accounts=self._accounts, problem=None
        )

    def _loops(self) -> list[Loop]:
        published = fetch_loops(self._config.kafka)
        names = self._config.loops or sorted({name for name, _ in published})
        return [newest(published, name) for name in names]

    def _account(self, loop: Loop) -> Iterable[Account]:
        return ledger(self._lake, loop) if self._lake.has_table(loop.loop, EXAMPLES) else ()


def as_metrics(status: Status) -> bytes:
    """Return *status* in the text format of Prometheus."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, rows: Iterable[tuple[Mapping[str, str], float | None]]) -> None:
        found = [(labels, value) for labels, value in rows if value is not None]
        if found:
            made = Gauge(f"tidemill_{name}", text, list(found[0][0]), registry=registry)
            for labels, value in found:
                made.labels(**labels).set(value)

    Gauge("tidemill_monitor_up", "1 if the last reading succeeded", registry=registry).set(
        float(status.problem is None)
    )
    groups = [({"group": lag.group}, lag) for lag in status.lags]
    gauge("lag_messages", "unread records", ((by, lag.messages) for by, lag in groups))
    gauge(
        "lag_seconds", "age of the oldest unread record", ((by, lag.seconds) for by, lag in groups)
    )
    gauge("lag_lost", "records deleted unread", ((by, lag.lost) for by, lag in groups))
    chains = [({"loop": chain.loop}, chain) for chain in status.chains]
    gauge("decision_age_seconds", "newest decision", ((by, c.decision_age_s) for by, c in chains))
    gauge("feedback_age_seconds", "newest feedback", ((by, c.feedback_age_s) for by, c in chains))
    gauge("example_age_seconds", "newest examples", ((by, c.example_age_s) for by, c in chains))
    gauge("model_age_seconds", "last swap", ((by, c.model_age_s) for by, c in chains))
    gauge("workers_serving", "workers with the newest model", ((by, c.serving) for by, c in chains))
    gauge("workers_refused", "workers that refused a model", ((by, c.refused) for by, c in chains))
    gauge(
        "ledger_difference",
        "records read that neither ended nor are open",
        (
            ({"loop": a.loop, "log": a.log, "partition": str(a.partition)}, a.difference)
            for a in status.accounts
        ),
    )
    return bytes(generate_latest(registry))


def run_monitor(config: MonitorConfig, stop: threading.Event) -> int:
    """Read and serve until *stop* is set; return 0.

    Raises:
        OSError: the port is taken.
    """
    readings = Readings(config)
    current = Status()
    server = ThreadingHTTPServer((config.host, config.port), _handler(lambda: current))
    threading.Thread(target=server.serve_forever, name="monitor-http", daemon=True).start()
    try:
        while not stop.is_set():
            current = _next(readings, current)
            stop.wait(config.every_s)
    finally:
        server.shutdown()
        server.server_close()
    return 0


def _next(readings: Readings, last: Status) -> Status:
    """Return a new reading, or the last one with what went wrong."""
    try:
        return readings.read()
    except TidemillError as error:
        log.warning("not read: %s", error)
        return Status(
            read_at_s=last.read_at_s,
            chains=last.chains,
            lags=last.lags,
            accounts=last.accounts,
            problem=str(error),
        )


def _handler(current: Callable[[], Status]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = current()
            match self.path:
                case "/metrics":
                    self._answer(HTTPStatus.OK, as_metrics(status), CONTENT_TYPE_LATEST)
                case "/status":
                    text = json.dumps(status.to_json()).encode()
                    self._answer(HTTPStatus.OK, text, "application/json")
                case "/healthz":
                    well = status.problem is None
                    code = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
                    self._answer(code, (status.problem or "ok").encode(), "text/plain")
                case _:
                    hint = b"there is /metrics, /status and /healthz"
                    self._answer(HTTPStatus.NOT_FOUND, hint, "text/plain")

        def _answer(self, code: HTTPStatus, body: bytes, kind: str) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            log.debug(format, *args)

    return Handler

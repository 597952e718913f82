"""Serves the status of the monitor over HTTP.

`/metrics` for Prometheus, `/status` for people and programs, `/healthz` for supervisors.
"""

import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from tidemill.errors import TidemillError
from tidemill.monitor.observer import WATCHED, MonitorConfig, Observer, Status

logger = logging.getLogger(__name__)


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
    gauge("trainer_age_seconds", "last heartbeat", ((by, c.trainer_age_s) for by, c in chains))
    gauge("trainer_backlog_commits", "examples not learned", ((by, c.backlog) for by, c in chains))
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
    gauge(
        "loop_unread",
        "1 if a loop could not be read; /status says why",
        [({"loop": name}, 1.0) for name in status.unread],
    )
    counts = Counter(bad.topic for bad in status.bad_records)
    gauge(
        "bad_shared_records",
        "Records of a shared topic that cannot be read and are passed over",
        [({"topic": topic}, float(counts[topic])) for topic in WATCHED],
    )
    return bytes(generate_latest(registry))


def run_monitor(config: MonitorConfig, stop: threading.Event) -> int:
    """Observe and serve until *stop* is set; return 0.

    Raises:
        OSError: the port is taken.
    """
    observer = Observer(config)
    current = Status()
    server = ThreadingHTTPServer((config.host, config.port), _handler(lambda: current))
    threading.Thread(target=server.serve_forever, name="monitor-http", daemon=True).start()
    try:
        while not stop.is_set():
            current = _next(observer, current)
            stop.wait(config.every_s)
    finally:
        server.shutdown()
        server.server_close()
        observer.close()
    return 0


def _next(observer: Observer, last: Status) -> Status:
    """Return a new status, or the last one with the problem that came up."""
    try:
        return observer.read()
    except TidemillError as error:
        logger.warning("not read: %s", error)
        return Status(
            read_at_s=last.read_at_s,
            chains=last.chains,
            lags=last.lags,
            accounts=last.accounts,
            unread=last.unread,
            bad_records=last.bad_records,
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
            logger.debug(format, *args)

    return Handler

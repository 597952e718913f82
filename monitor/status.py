"""Serves the status of the monitor over HTTP.

`/metrics` for Prometheus, `/status` for people and programs, `/healthz` for supervisors, `/readyz`
for whoever has no token.
"""

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import generate_latest

from tidemill.http_server.pages import Pages, PageServer
from tidemill.http_server.replies import TEXT, Reply
from tidemill.monitor.observer import WATCHED, MonitorConfig, Observer, Status

_AddGauge = Callable[[str, str, Iterable[tuple[Mapping[str, str], float | None]]], None]


def as_metrics(status: Status, now_s: float | None = None) -> bytes:
    """Return *status* in the text format of Prometheus; what could not be read is left out."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, rows: Iterable[tuple[Mapping[str, str], float | None]]) -> None:
        found = [(labels, value) for labels, value in rows if value is not None]
        if found:
            made = Gauge(f"tidemill_{name}", text, list(found[0][0]), registry=registry)
            for labels, value in found:
                made.labels(**labels).set(value)

    for name, text, value in (
        ("monitor_up", "1 if every last reading succeeded", float(status.problem is None)),
        ("process_id", "process id of the monitor", os.getpid()),
    ):
        Gauge(f"tidemill_{name}", text, registry=registry).set(value)
    now_s = time.time() if now_s is None else now_s
    ages = [({"reading": each.name}, each.age_s(now_s)) for each in status.readings]
    gauge("reading_age_seconds", "since the reading last succeeded; alert on it", ages)
    groups = [({"group": lag.group}, lag) for lag in status.lags.value or ()]
    gauge("lag_messages", "unread records", ((by, lag.messages) for by, lag in groups))
    gauge(
        "lag_seconds", "age of the oldest unread record", ((by, lag.seconds) for by, lag in groups)
    )
    gauge("lag_lost", "records deleted unread", ((by, lag.lost) for by, lag in groups))
    gauge(
        "lag_ahead",
        "offsets committed past the ends of logs",
        ((b, lag.ahead) for b, lag in groups),
    )
    gauge("lag_open_txn", "unread in open transactions", ((by, lag.open_txn) for by, lag in groups))
    _add_loops(status, gauge)
    return bytes(generate_latest(registry))


def _add_loops(status: Status, gauge: _AddGauge) -> None:
    rows = status.chains.value.rows if status.chains.value else ()
    chains = [({"loop": chain.loop}, chain) for chain in rows if not chain.retired]
    gauge(
        "loop_retired",
        "1 for a retired loop, which has no other metric of this page but the ledger",
        [({"loop": chain.loop}, 1.0) for chain in rows if chain.retired],
    )
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
            for a in (status.accounts.value.rows if status.accounts.value else ())
        ),
    )
    gauge(
        "loop_unread",
        "1 if a loop could not be read; /status says why",
        [({"loop": name}, 1.0) for name in status.unread],
    )
    if status.bad_records.value is not None:
        counts = Counter(bad.topic for bad in status.bad_records.value)
        gauge(
            "bad_shared_records",
            "Records of a shared topic that cannot be read and are passed over",
            [({"topic": topic}, float(counts[topic])) for topic in WATCHED],
        )


def run_monitor(config: MonitorConfig, stop: threading.Event) -> int:
    """Observe and serve until *stop* is set; return 0.

    Raises:
        ConfigError: the port is taken or not allowed.
        Exception: an error of the monitor's own.
    """
    current = Status.before(config)
    failed: list[Exception] = []

    def observe() -> None:
        nonlocal current
        try:
            with Observer(config) as observer:
                while not stop.is_set():
                    current = observer.read(current)
                    stop.wait(config.every_s)
        except Exception as error:  # the outermost loop of this thread: the caller raises it
            failed.append(error)
            stop.set()

    with PageServer(_pages(lambda: current.as_of(time.time())), config.http):
        threading.Thread(target=observe, name="observer", daemon=True).start()
        stop.wait()  # a reading under way may wait for a broker; it ends with the process
    if failed:
        raise failed[0]
    return 0


def _pages(current: Callable[[], Status]) -> Pages:
    def status() -> Reply:
        text = json.dumps(current().to_json() | {"pid": os.getpid()})
        return Reply(200, text.encode())

    def health() -> Reply:
        problem = current().problem
        return Reply(200 if problem is None else 503, (problem or "ok").encode(), TEXT)

    return {
        "/metrics": lambda: Reply(200, as_metrics(current()), TEXT),
        "/status": status,
        "/healthz": health,
    }

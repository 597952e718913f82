"""The metrics of a worker for Prometheus, and its health page.

Decisions run none of this code: deciders count in plain ints, which are read on request.
"""

import os
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from tidemill.http_server.http_limits import REFUSALS, HttpCounters
from tidemill.serving.decision.counters import BOUNDS_US, DecisionCounters
from tidemill.serving.worker import Worker

WORK = {
    "tidemill_decisions_total": "decisions",
    "tidemill_feedback_total": "feedback",
    "tidemill_events_delivered_total": "events delivered",
}
"""The samples that the log tells once a minute, with the words for them (`WorkLog`)."""


class _Collector:
    """Reads the counters of a worker at each scrape."""

    def __init__(self, worker: Worker, http: HttpCounters) -> None:
        self._worker = worker
        self._http = http

    def collect(self) -> Iterator[Metric]:
        """Return the metrics as of now."""
        yield from _of_loops(self._worker)
        yield from _of_events(self._worker)
        answers = CounterMetricFamily(
            "tidemill_http_answers", "Answers over HTTP by status", labels=["status"]
        )
        for status, count in sorted(self._worker.answers.items()):
            answers.add_metric([str(status)], count)
        yield answers
        yield from _of_connections(self._http)
        refused = CounterMetricFamily(
            "tidemill_models_refused", "Models that were not fit to serve"
        )
        refused.add_metric([], self._worker.follower.refused)
        yield refused
        yield GaugeMetricFamily(
            "tidemill_ready", "1 once the model topic was read to its end", self._worker.ready
        )


def _of_connections(http: HttpCounters) -> Iterator[Metric]:
    refused = CounterMetricFamily(
        "tidemill_http_refused", "Requests and connections beyond a limit", labels=["reason"]
    )
    for reason in REFUSALS:
        refused.add_metric([reason], http.refused[reason])
    yield refused
    yield GaugeMetricFamily("tidemill_http_connections", "Open connections", http.connections)
    yield GaugeMetricFamily(
        "tidemill_http_held_bytes", "Bytes of bodies that have not arrived whole", http.held_bytes
    )


def _of_loops(worker: Worker) -> Iterator[Metric]:
    decisions = CounterMetricFamily(
        "tidemill_decisions", "Decisions by what made them", labels=["loop", "source"]
    )
    feedback = CounterMetricFamily("tidemill_feedback", "Feedback taken", labels=["loop"])
    failed = CounterMetricFamily(
        "tidemill_model_failures", "Decisions their model raised on", labels=["loop"]
    )
    late = CounterMetricFamily(
        "tidemill_over_budget", "Decisions without time for their model", labels=["loop"]
    )
    latency = HistogramMetricFamily(
        "tidemill_decision_seconds", "From the request in hand to the answer", labels=["loop"]
    )
    model = GaugeMetricFamily(
        "tidemill_model_info", "The model that decides", labels=["loop", "loop_version", "version"]
    )
    for name, decider in list(worker.follower.deciders.items()):
        counters = decider.counters
        for source, count in counters.decisions.items():
            decisions.add_metric([name, source], count)
        feedback.add_metric([name], counters.feedback)
        failed.add_metric([name], counters.failed)
        late.add_metric([name], counters.over_budget)
        latency.add_metric([name], _buckets(counters), counters.latency_s)
        if (live := decider.model) is not None:
            model.add_metric([name, str(decider.loop.version), live.version], 1)
    yield from (decisions, feedback, failed, late, latency, model)


def _of_events(worker: Worker) -> Iterator[Metric]:
    events = worker.log
    yield CounterMetricFamily("tidemill_events_delivered", "Events Kafka has", events.delivered)
    yield CounterMetricFamily(
        "tidemill_events_dropped", "Events lost because the buffer was full", events.dropped
    )
    yield CounterMetricFamily("tidemill_events_failed", "Events Kafka refused", events.failed)
    yield GaugeMetricFamily("tidemill_events_waiting", "Events in the buffer", events.waiting)
    yield GaugeMetricFamily("tidemill_journal_bytes", "Size of the journal", events.journal_bytes)
    yield CounterMetricFamily(
        "tidemill_journal_missed", "Events the journal had no room for", events.journal_missed
    )


def _buckets(counters: DecisionCounters) -> list[tuple[str, float]]:
    total, rows = 0, []
    bounds = [*(str(bound / 1e6) for bound in BOUNDS_US), "+Inf"]
    for bound, count in zip(bounds, counters.latency, strict=True):
        total += count
        rows.append((bound, float(total)))
    return rows


def registry_of(worker: Worker, http: HttpCounters | None = None) -> CollectorRegistry:
    """Return a registry that reads the counters of *worker* and its server at each scrape."""
    registry = CollectorRegistry()
    registry.register(_Collector(worker, http or HttpCounters()))
    registry.register(worker.subscriber.bad)
    return registry


def exposition(registry: CollectorRegistry) -> bytes:
    """Return the metrics in Prometheus' text format."""
    return generate_latest(registry)


def health(worker: Worker) -> dict[str, object]:
    """Return the health page: counters, and the troubles in words."""
    events = worker.log
    return {
        "worker": worker.config.name,
        "pid": os.getpid(),
        "ready": worker.ready,
        "trouble": worker.troubles(),
        "events": {
            "waiting": events.waiting,
            "delivered": events.delivered,
            "dropped": events.dropped,
            "failed": events.failed,
        },
        "models_refused": worker.follower.refused,
        "loops": {
            name: {
                "version": decider.loop.version,
                "model": decider.model.version if decider.model else None,
                "decisions": dict(decider.counters.decisions),
                "feedback": decider.counters.feedback,
                "model_failures": decider.counters.failed,
                "over_budget": decider.counters.over_budget,
            }
            for name, decider in list(worker.follower.deciders.items())
        },
    }

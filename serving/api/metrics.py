"""The metrics of a worker for Prometheus, and its health page.

Decisions run none of this code: deciders count in plain ints, which are read on request.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from tidemill.http_server.http_limits import REFUSALS, HttpCounters
from tidemill.serving.decision.counters import BOUNDS_US, DecisionCounters
from tidemill.serving.decision.decider import Decider
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
        yield from _of_stages(self._worker)
        yield from _of_rules(self._worker)
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
        "tidemill_over_budget",
        "Decisions without time for their model, or while it rested",
        labels=["loop"],
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


def _of_stages(worker: Worker) -> Iterator[Metric]:
    """Yield what loops with a rollout count, and the models by slot of all."""
    deciders = dict(worker.follower.deciders)
    slots = GaugeMetricFamily(
        "tidemill_slot_info",
        "1 for the model in each slot; sequence is that of its manifest",
        labels=["loop", "slot", "version", "sequence"],
    )
    staged = CounterMetricFamily(
        "tidemill_stage_decisions",
        "Decisions of loops with a rollout, by stage and what made them",
        labels=["loop", "stage", "source"],
    )
    by_id = CounterMetricFamily(
        "tidemill_stage_by_id",
        "Decisions whose stage was that of their id: they had no entity",
        labels=["loop"],
    )
    for name, decider in deciders.items():
        for slot, served in decider.models.by_slot().items():
            slots.add_metric([name, slot, served.model.version, str(served.sequence)], 1)
        if decider.loop.rollout is None:
            continue
        for (stage, source), count in list(decider.counters.stages.items()):
            staged.add_metric([name, stage, source], count)
        by_id.add_metric([name], decider.counters.by_id)
    given_up = CounterMetricFamily(
        "tidemill_models_given_up", "Models refused because they failed too often in a row"
    )
    given_up.add_metric([], len(worker.follower.given_up))
    yield from (slots, staged, by_id, given_up)
    yield from _of_shadows(deciders)


def _of_shadows(deciders: Mapping[str, Decider]) -> Iterator[Metric]:
    families = {
        name: CounterMetricFamily(f"tidemill_shadow_{metric}", text, labels=["loop"])
        for name, metric, text in (
            ("scored", "scored", "Decisions that the model in the shadow scored in time"),
            ("differing", "differing", "Those in which it would have answered another action"),
            ("failed", "failed", "Decisions in which it failed or exceeded the budget"),
            ("skipped", "skipped", "Decisions it did not score: it rested, or too many waited"),
            ("took_s", "seconds", "Time of its scores, which no answer waits for"),
        )
    }
    for loop, decider in deciders.items():
        if decider.loop.rollout is not None:
            for name, family in families.items():
                family.add_metric([loop], getattr(decider.counters.shadow, name))
    yield from families.values()


def _of_rules(worker: Worker) -> Iterator[Metric]:
    hits = CounterMetricFamily(
        "tidemill_rule_hits", "Decisions for which a rule held", labels=["loop", "rule"]
    )
    version = GaugeMetricFamily(
        "tidemill_rules_version", "The version of the rules in force", labels=["loop"]
    )
    misfit = GaugeMetricFamily(
        "tidemill_rules_misfit", "1 where the newest rules do not fit the loop", labels=["loop"]
    )
    for name, decider in list(worker.follower.deciders.items()):
        rules = decider.rules
        if rules is not None:
            version.add_metric([name], rules.version)
            for rule, count in rules.hits.items():
                hits.add_metric([name, rule], count)
    for name in list(worker.follower.rules.troubles):
        misfit.add_metric([name], 1)
    yield from (hits, version, misfit)


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
                **_stages_of(decider),
            }
            for name, decider in list(worker.follower.deciders.items())
        },
    }


def _stages_of(decider: Decider) -> dict[str, object]:
    """Return what the health page says of the slots, and of the stages if there are any."""
    models, counters = decider.models, decider.counters
    slots: dict[str, dict[str, object]] = {
        slot: {"version": served.model.version, "sequence": served.sequence}
        for slot, served in models.by_slot().items()
    }
    if models.canary is not None:
        slots["canary"]["share"] = models.share
    if decider.loop.rollout is None:
        return {"slots": slots}
    stages: dict[str, dict[str, int]] = {}
    for (stage, source), count in list(counters.stages.items()):
        stages.setdefault(stage, {})[source] = count
    return {
        "slots": slots,
        "stages": stages,
        "assigned_by_id": counters.by_id,
        "shadow": asdict(counters.shadow),
    }

"""The Prometheus metrics of a streams worker, in a registry of their own."""

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tidemill.kafka import BadRecords

_LAG_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0)
_COMMIT_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


WORK = {
    "tidemill_stream_records_total": "records read",
    "tidemill_lake_rows_total": "rows committed",
    "tidemill_stream_dead_letters_total": "dead letters",
}
"""The samples that the log tells once a minute, with the words for them (`WorkLog`)."""


class StreamMetrics:
    """The metrics of one worker process."""

    def __init__(self, bad: BadRecords | None = None) -> None:
        """Count nothing yet; *bad* has the bad records of the shared topics."""
        self.registry = CollectorRegistry()
        self.registry.register(bad or BadRecords())
        Gauge("tidemill_process_id", "Process id of the worker", registry=self.registry).set(
            os.getpid()
        )
        self.records = Counter(
            "tidemill_stream_records",
            "Records read from Kafka",
            ["loop", "log"],
            registry=self.registry,
        )
        self.batches = Counter(
            "tidemill_stream_batches",
            "Batches read, one per partition and fetch",
            ["loop", "log"],
            registry=self.registry,
        )
        self.dead = Counter(
            "tidemill_stream_dead_letters",
            "Records that went to tidemill.dead-letters",
            ["loop", "log", "reason"],
            registry=self.registry,
        )
        self.misplaced = Counter(
            "tidemill_stream_misplaced",
            "Feedback in another partition than its decision; it meets none",
            ["loop", "log"],
            registry=self.registry,
        )
        self.lost = Counter(
            "tidemill_stream_lost_records",
            "Records that Kafka deleted before they were read",
            ["topic"],
            registry=self.registry,
        )
        self.rows = Counter(
            "tidemill_lake_rows",
            "Rows committed to the lake",
            ["loop", "table"],
            registry=self.registry,
        )
        self.commits = Histogram(
            "tidemill_lake_commit_seconds",
            "Seconds one commit cycle took (decisions, feedback, examples)",
            ["loop"],
            buckets=_COMMIT_S,
            registry=self.registry,
        )
        self.commit_interval = Gauge(
            "tidemill_lake_commit_interval_seconds",
            "Seconds between the last two commit cycles; small loops wait longer the more they are",
            ["loop"],
            registry=self.registry,
        )
        self.close_to_example = Histogram(
            "tidemill_close_to_example_seconds",
            "Seconds from the moment stream time passed a window's close to its examples' commit",
            ["loop"],
            buckets=_LAG_S,
            registry=self.registry,
        )
        self.open = Gauge(
            "tidemill_stream_open_rows",
            "Rows that wait for their window to close",
            ["loop", "log"],
            registry=self.registry,
        )
        self.open_bytes = Gauge(
            "tidemill_stream_open_bytes",
            "Memory of rows and ids that wait for their windows to close; `memory` is its limit",
            ["loop"],
            registry=self.registry,
        )
        self.spilled = Gauge(
            "tidemill_stream_away_rows",
            "Rows that wait for their window to close and are spilled",
            ["loop", "log"],
            registry=self.registry,
        )
        self.evicted = Counter(
            "tidemill_stream_left_bytes",
            "Memory freed by spilling rows and ids to the lake and to files",
            ["loop"],
            registry=self.registry,
        )
        self.returned = Counter(
            "tidemill_stream_returned_rows",
            "Spilled decisions read back from the lake for their close",
            ["loop"],
            registry=self.registry,
        )
        self.labels_failed = Gauge(
            "tidemill_stream_labels_failed",
            "Decisions whose label is an error, since the start; they end as label_error",
            ["loop"],
            registry=self.registry,
        )
        self.unknown_items = Gauge(
            "tidemill_stream_unknown_items",
            "Feedback so far that names an item its decision has not shown (unknown_item)",
            ["loop"],
            registry=self.registry,
        )
        self.partitions = Gauge(
            "tidemill_stream_partitions",
            "Partitions this worker owns",
            ["loop"],
            registry=self.registry,
        )

        self.refused = Gauge(
            "tidemill_loop_refused",
            "1 if the newest version of a loop cannot be run; /healthz says why",
            ["loop"],
            registry=self.registry,
        )
        self.audited = Counter(
            "tidemill_audit_rows",
            "Decisions and feedback that the worker's audit has recomputed",
            ["loop"],
            registry=self.registry,
        )
        self.differences = Counter(
            "tidemill_audit_differences",
            "Records where the lake differs from their logs; any is an alarm",
            ["loop"],
            registry=self.registry,
        )
        self.propensity_ratio = Gauge(
            "tidemill_audit_propensity_ratio",
            "How often an action was taken over how often it should have been, by its propensities",
            ["loop", "action"],
            registry=self.registry,
        )
        self.propensities_wrong = Gauge(
            "tidemill_audit_propensities_wrong",
            "1 if logged propensities cannot be the frequencies of the actions; an alarm",
            ["loop"],
            registry=self.registry,
        )
        self.audit_seconds = Counter(
            "tidemill_audit_seconds",
            "Seconds the worker's audits took",
            ["loop"],
            registry=self.registry,
        )

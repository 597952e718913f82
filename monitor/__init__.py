"""Watching the loops from outside: lag, freshness, the ledger, and the life of one decision.

Read `observer` (one status after another) with `readings`, and `status` (its HTTP), then what they
read: the package `lag`, `chain`, `ledger` with `record_counts` and `not_counted`; then what people
ask for: `trace` with `decision_window` and `lineage`, and `label_lag`.
It may import `schemas`, `features` and `kafka`, not `streams`, `trainers`, `serving` or
`experiments`. It writes nothing and needs only DESCRIBE and READ on Kafka.

Proved elsewhere: `chain` by `tests/monitor/test_observer.py`.
Proved elsewhere: `decision_window` by `tests/monitor/test_trace.py`.
Proved elsewhere: `json_values` by `tests/monitor/test_trace.py`.
Proved elsewhere: `lineage` by `tests/monitor/test_trace.py`.
Proved elsewhere: `not_counted` by `tests/monitor/test_ledger.py`.
Proved elsewhere: `record_counts` by `tests/monitor/test_ledger.py`.
Proved elsewhere: `status` by `tests/monitor/test_observer.py`.
"""

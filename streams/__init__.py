"""Data in motion: batches from Kafka, the join in event time, examples into the lake.

Read `units` and `join/` (the rules and the pure core), then `state/` (what it keeps open),
`consumer/` (Kafka and Faust), `commit/` (the lake), `runtime/` (a worker); `deadletters/`, `rekey/`
and `reprocess/` last. It may import schemas and features, and none of the other packages.

Proved elsewhere: `id_hashes` by `tests/streams/state/test_key_index.py`.
Proved elsewhere: `metrics` by `tests/streams/runtime/test_worker.py`.
Proved elsewhere: `units` by `tests/streams/join/test_rules.py`.
Proved elsewhere: `versions` by `tests/streams/runtime/test_worker.py`.
"""

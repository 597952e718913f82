"""From Kafka to batches of columns: the only folder with private names of Faust and aiokafka.

Read `batches` and `records` (the values), `record_batches` (Kafka's format), `turns`, `prefetch`
and `fetch_thread` (aiokafka), `transport` and `app` (Faust). It may import the Avro package and
`units`, and no loop, join or lake. `memory_log` is a log in memory for tests and notebooks.

Proved elsewhere: `fetch_thread` by `tests/streams/consumer/test_prefetch.py`.
Proved elsewhere: `log_position` by `tests/streams/consumer/test_transport.py`.
Proved elsewhere: `memory_log` by `tests/streams/test_schedules.py`.
Proved elsewhere: `records` by `tests/streams/consumer/test_record_batches.py`.
Proved elsewhere: `topic_ids` by `tests/streams/commit/test_topic_check.py`.
"""

"""From Kafka to batches of columns: the only folder with private names of Faust and aiokafka.

Read `batches` and `records` (the values), `record_batches` (Kafka's format), `prefetch` and
`fetch_thread` (aiokafka), `transport` and `app` (Faust). It may import the Avro package and
`units`, and no loop, join or lake. `memory_log` is a log in memory for tests and notebooks.
`fetch_thread` and `log_position` are proved by the tests of `prefetch` and `transport`.
"""

"""Contracts: the loop definition, the events made from it, and all that travels through Kafka.

Read `loop/` (the definition), `topics`, `logs` and `partitioner` (where its events lie), `events/`
(their Avro schemas), `avro/` (the codec), `registry/` (where schemas are stored), `loop_topic` and
`published` (loops on Kafka), `event_topics` (where their events go), `control` (messages between
processes), `assignment` (who is in which group), `record_signature` and `models/` (what trainers
publish). It is the lowest layer and imports `tidemill.kafka` and `tidemill.errors` only: no lake,
no DuckDB but for labels, no River, no LightGBM, no Faust.

Proved elsewhere: `partitioner` by `tests/streams/test_placement.py`.
Proved elsewhere: `loop_topic` by `tests/schemas/test_published.py`.
Proved elsewhere: `event_topics` by `tests/schemas/test_published.py`.
Proved elsewhere: `topics` by `tests/schemas/test_logs.py`.
"""

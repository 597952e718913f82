"""The Avro codec: schemas as values, single payloads, and batches of payloads as columns.

Read `wire`, `types`, `limits` and `evolution` (schemas), then `primitives` and `encoder` (writing),
then `payloads`, `cursors`, `columnar_decoder`, `scalar_decoder` and `payload_reader` (reading).
It imports nothing else of tidemill but `errors`: no loop, no schema store, no Kafka.
"""

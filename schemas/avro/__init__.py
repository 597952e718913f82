"""The Avro codec: schemas as values, single payloads, and batches of payloads as columns.

Read `wire`, `types`, `limits` and `evolution` (schemas), then `primitives` and `encoder` (writing),
then `payloads`, `cursors`, `skips`, `columnar_decoder`, `scalar_decoder` and `payload_reader`
(reading). It imports nothing else of tidemill but `errors`: no loop, no schema store, no Kafka.

Proved elsewhere: `arrow_columns` by `tests/schemas/avro/test_columnar_decoder.py`.
Proved elsewhere: `cursors` by `tests/schemas/avro/test_columnar_decoder.py`.
Proved elsewhere: `limits` by `tests/schemas/avro/test_scalar_decoder.py`.
Proved elsewhere: `payload_reader` by `tests/schemas/events/test_decoder.py`.
Proved elsewhere: `payloads` by `tests/schemas/events/test_decoder.py`.
Proved elsewhere: `primitives` by `tests/schemas/avro/test_encoder.py`.
Proved elsewhere: `skips` by `tests/schemas/avro/test_record_lists.py`.
Proved elsewhere: `types` by `tests/schemas/avro/test_evolution.py`.
"""

"""The events of a loop: their Avro schemas and columns (`schemas`), and their `decoder`.

Read `schemas` first. It imports `loop`, `avro` and the port of `registry`; it reads no topic and
does not choose a schema store.

Proved elsewhere: `schemas` by `tests/schemas/events/test_decoder.py`.
"""

"""Payloads that cannot be read: written with their reason, read back, and sent again.

Read `writer`, `error_limit`, `reader`, `redrive`. It may import schemas and the Kafka client, and
no other sub-package of streams. `reader` and `writer` are proved by tests/streams/deadletters/
test_redrive.py.
"""

"""Dead letters: records that cannot be read, written with their reason, read back, sent again.

Read `writer`, `error_limit`, `reader`, `redrive`. It may import schemas and the Kafka client, and
no other sub-package of streams.

Proved elsewhere: `reader` by `tests/streams/deadletters/test_redrive.py`.
Proved elsewhere: `writer` by `tests/streams/deadletters/test_redrive.py`.
"""

"""The join once more: over the raw tables with other rules (backfill), or over the topics (replay).

Read `variants`, `backfill`, `slices`, `replay`; `lost_rows` and `lost_commit` make again what a
lake has lost; `accept_topic` is for topics that were made anew. It may import every other
sub-package of streams.

Proved elsewhere: `accept_topic` by `tests/streams/commit/test_topic_check.py`.
Proved elsewhere: `lost_commit` by `tests/deploy/reprocess/test_repair.py`.
"""

"""The join once more: over the raw tables with other rules (backfill), or over the topics (replay).

Read `backfill`, `slices`, `replay`, and `accept_topic` for topics that were made anew. It may
import every other sub-package of streams.

Proved elsewhere: `accept_topic` by `tests/streams/commit/test_topic_check.py`.
"""

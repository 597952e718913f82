"""The join once more: over the raw tables with other rules (backfill), or over the topics (replay).

Read `backfill`, `slices`, `replay`. It may import every other sub-package of streams.
"""

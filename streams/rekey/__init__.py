"""Re-keying: feedback with other keys or partition counts is written to its decisions' partitions.

Read `rekeyer`, then `merge`, which orders the rows of several logs by their stream times, and
`source_end`. It may import `consumer`, `versions` and `units`, and neither the join nor the lake.

Proved elsewhere: `source_end` by `tests/streams/rekey/test_rekeyer.py`.
"""

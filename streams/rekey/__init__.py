"""Re-keying: feedback with other keys or partition counts is written to its decisions' partitions.

Read `rekeyer`, then `merge`, which orders the rows of several logs by their stream times. It may
import `consumer`, `versions` and `units`, and neither the join nor the lake.
"""

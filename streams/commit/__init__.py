"""Progress in the lake: the lease on a partition, one commit cycle, and recovery from it.

Read `ownership`, `transactions`, `snapshot`, `commit_cycle`, then `recovery`, `open_windows`,
`spill_to_lake` and `closed_lookup`. It may import the lake, `join` and `state`, and no Kafka,
Faust or `runtime`. `commit_cycle` is proved by tests/streams/test_schedules.py, `ownership` by the
tests of `transactions`.
"""

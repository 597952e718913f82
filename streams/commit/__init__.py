"""Progress in the lake: the lease on a partition, one commit cycle, and recovery.

Read `leases`, `progress_table`, `progress_commit`, `snapshot`, `commit_cycle`, then `recovery`,
`open_windows`, `spill_to_lake`, `closed_lookup` and `topic_check`. It may import the lake, `join`,
`state`, the consumer and the writer of dead letters, and no Faust and no `runtime`.

Proved elsewhere: `commit_cycle` by `tests/streams/test_schedules.py`.
Proved elsewhere: `leases` by `tests/streams/commit/test_progress_commit.py`.
Proved elsewhere: `progress_table` by `tests/streams/commit/test_progress_commit.py`.
Proved elsewhere: `snapshot` by `tests/streams/test_schedules.py`.
Proved elsewhere: `spill_to_lake` by `tests/streams/state/test_spill_store.py`.
"""

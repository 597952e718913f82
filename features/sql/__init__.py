"""The lake as SQL: views, states of records, training sets and backfills, by DuckDB.

Read `views` and what its queries consist of (`positions`, `frontiers`, `revisions`, `states`,
`logged_items`), then `datasets` and `backfills`; `queries`, `bounded` and `row_files` serve
commands. It imports `lake`, not `audit`, and it writes nothing but the files of backfills.

Proved elsewhere: `bounded` by `tests/features/audit/test_audit.py`.
Proved elsewhere: `frontiers` by `tests/features/sql/test_states.py`.
Proved elsewhere: `misplaced` by `tests/streams/test_placement.py`.
Proved elsewhere: `positions` by `tests/features/sql/test_states.py`.
Proved elsewhere: `row_files` by `tests/monitor/test_trace.py`.
"""
